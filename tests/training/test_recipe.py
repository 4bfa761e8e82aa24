"""What a run's folder tells of it, and advice that works: what is told to be typed is typed here."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from ddpm import GaussianDiffusion, LatentDiffusion, MinSNR, NoiseSchedule, SmallAutoencoder
from ddpm.cli import entry
from ddpm.cli.run_config import RunConfig
from ddpm.io.checkpoint import list_checkpoints
from ddpm.io.files import sha256
from ddpm.training.recipe import goes_on_by_command, how_to_resume, recipe
from tests.runs import model, pictures, saved_files, spied, trained, trainer

COLOUR = {"network": {"channels": 3, "dropout": 0.3}}


@pytest.fixture
def of_folder(tmp_path):
    """Makes the trainer of a run on a folder of pictures, some mirrored, as a program would; named with a blank."""
    folder = pictures(tmp_path / "some pictures", 9)

    def make(name: str, steps: int, **options):
        diffusion = model(**(COLOUR | options))
        return trainer(tmp_path / name, diffusion, folder, train_num_steps=steps, lr_warmup_steps=2)

    return make


def advised(words: str) -> list[str]:
    """The command in a message."""
    found = re.search(r"`(ddpm [^`]+)`", words)
    assert found, words
    return shlex.split(found[1])[1:]


def typed(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        entry.main(words)
    assert not end.value.code


@pytest.mark.parametrize("options", [{}, {"loss_weighting": MinSNR(4.0)}])
def test_command_that_is_advised_goes_on_with_a_programs_run_bit_for_bit(
    of_folder, tmp_path, options, capsys
):
    of_folder("whole", 6, **options).train()
    of_folder("my run", 3, **options).train()
    with pytest.raises(FileExistsError, match="already holds a run") as refused:
        of_folder("my run", 3, **options).train()
    words = advised(str(refused.value))
    assert words == ["resume", str(tmp_path / "my run")]
    assert advised(how_to_resume(tmp_path / "my run")) == words
    capsys.readouterr()
    typed([*words, "--train-steps", "6"])
    said = capsys.readouterr()
    assert "resuming" in said.out
    changed = [line for line in said.err.splitlines() if "other settings" in line]
    assert changed == ["warning: the run goes on with other settings: results_folder was"] or not changed
    assert saved_files(tmp_path / "my run") == saved_files(tmp_path / "whole")
    typed([*words, "--train-steps", "7"])  # and again
    typed(["evaluate", words[1], "-n", "4", "--bound-images", "1", "--timesteps", "2"])


def test_recipe_holds_all_arguments(of_folder, tmp_path):
    of_folder("run", 2).train()
    run_config = RunConfig.load(tmp_path / "run")
    assert run_config.data == {
        "name_or_path": str(tmp_path / "some pictures"),
        "image_size": [8, 8],
        "channels": 3,
        "augment_horizontal_flip": True,
    }
    assert run_config.network["dropout"] == 0.3
    assert run_config.training_config.lr_warmup_steps == 2


def test_images_in_the_home_folder_are_found_again(tmp_path, monkeypatch, recwarn):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = pictures(tmp_path / "photos", 9)
    trained(tmp_path / "run", model(**COLOUR), "~/photos")
    assert recipe(tmp_path / "run")["data"]["name_or_path"] == str(data)
    trainer(tmp_path / "run", model(**COLOUR), data).resume()
    assert not [said for said in recwarn if "other settings" in str(said.message)]


def half_weight(schedule, t, objective):  # noqa: ARG001 (the interface of weightings)
    return torch.full_like(schedule.snr[t], 0.5)


def by_data_set(folder: Path, _) -> None:
    trained(folder)


def by_network(folder: Path, _) -> None:
    spied(folder).train()


class Other(GaussianDiffusion):
    pass


def by_subclass(folder: Path, images: Path) -> None:
    ours = model(**COLOUR)
    ours.__class__ = Other
    trained(folder, ours, images)


def by_codes(folder: Path, images: Path) -> None:
    trained(
        folder, LatentDiffusion(model(**COLOUR).network, SmallAutoencoder(3, 3, dim=4), image_size=8), images
    )


def by_schedule(folder: Path, images: Path) -> None:
    ours = model(**COLOUR)
    ours.schedule = NoiseSchedule(torch.linspace(1e-3, 0.5, 50))
    trained(folder, ours, images)


def by_weighting(folder: Path, images: Path) -> None:
    trained(folder, model(**COLOUR, loss_weighting=half_weight), images)


def with_nothing(folder: Path, _) -> None:
    folder.mkdir()


def with_spoilt_words(folder: Path, images: Path) -> None:
    trained(folder, model(**COLOUR), images)
    for path in list_checkpoints(folder):
        (path / "config.json").write_text('{"data": 3, "network": {}, "diffusion": {}, "training": {}}')


@pytest.mark.parametrize(
    ("begin", "error", "message"),
    [
        (
            by_data_set,
            ValueError,
            r"given a TensorDataset by its program, not a folder .* there, trainer\.train\(.* its run\.json was lost",
        ),
        (
            by_network,
            ValueError,
            r"trained with a network of class Spy, so only the program that began it can go on",
        ),
        (by_subclass, ValueError, "trained with a model of class Other, so only the program that began it"),
        (by_codes, ValueError, "trained with a model of class LatentDiffusion, so only the program that beg"),
        (by_schedule, ValueError, "trained with a schedule of your own, so only the program that began it"),
        (by_weighting, ValueError, "has a loss weighting of its program's own, so only the program"),
        (with_nothing, FileNotFoundError, r"has no checkpoint whose config\.json can be read"),
        (with_spoilt_words, FileNotFoundError, r"has no checkpoint whose config\.json can be read"),
    ],
)
def test_recipe_says_why_only_the_program_can_go_on(tmp_path, begin, error, message):
    run = tmp_path / "run"
    begin(run, pictures(tmp_path / "pictures", 9))
    with pytest.raises(error, match=message):
        recipe(run)
    assert not goes_on_by_command(run)
    assert how_to_resume(run) == "To resume the run: trainer.resume() in your program."


def test_recipe_passes_over_a_checkpoint_whose_words_are_spoilt(of_folder, tmp_path):
    of_folder("run", 4).train()
    expected = recipe(tmp_path / "run")
    (list_checkpoints(tmp_path / "run")[-1] / "config.json").write_text("{")
    assert recipe(tmp_path / "run") == expected


def test_a_run_of_an_earlier_version_goes_on_without_a_word(of_folder, tmp_path, monkeypatch, recwarn):
    """They kept the folder's path as the program had it, which may be relative, and no checksum of the schedule."""
    monkeypatch.chdir(tmp_path)
    of_folder("run", 2).train()
    for path in list_checkpoints(tmp_path / "run"):
        documents = {name: json.loads((path / name).read_text()) for name in ("config.json", "state.json")}
        documents["config.json"]["data"]["source"] = "some pictures"
        del documents["state.json"]["schedule"]
        sums = json.loads((path / "checksums.json").read_text())
        for name, document in documents.items():
            (path / name).write_text(json.dumps(document))
            sums[name] = sha256((path / name).read_bytes())
        (path / "checksums.json").write_text(json.dumps(sums))
    recwarn.clear()
    of_folder("run", 3).resume()
    assert not [str(said.message) for said in recwarn if "other settings" in str(said.message)]
    assert recipe(tmp_path / "run")["data"]["name_or_path"] == str(tmp_path / "some pictures")
