"""The command `ddpm`, as a user meets it: what it prints, what it writes, what it refuses."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from ddpm import data, load_pretrained
from ddpm.cli import commands as cli
from ddpm.cli.presets import RunConfig
from ddpm.evaluation.metrics import frechet_distance
from ddpm.likelihood import vlb_terms
from ddpm.training.distributed import draw_images

TINY = {
    "network.dim": 8,
    "diffusion.timesteps": 20,
    "diffusion.sampling_timesteps": 4,
    "training.num_samples": 4,
    "training.tensorboard": "false",
}
SETTINGS = [word for option, value in TINY.items() for word in ("--set", f"{option}={value}")]
SMALL = ["--steps", "4", "--batch-size", "8", *SETTINGS]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def ddpm(monkeypatch, capsys):
    """Runs the command and returns what it wrote to stdout and stderr.

    typer's own CliRunner keeps the two apart in some versions only.
    """
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards

    def run(*arguments, code=0):
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, out + err
        assert "Traceback" not in out + err
        return out, err

    return run


def trained(folder, *options):
    """A finished run of 4 steps."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with pytest.raises(SystemExit) as end:
            cli.main(["train", "digits", "--out", str(folder), *SMALL, *options])
        assert not end.value.code
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run; tests do not change it."""
    return trained(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="module")
def with_classes(tmp_path_factory):
    """A finished run of a model that takes classes, in steps so long that the classes look different."""
    options = ["network.num_classes=10", "training.train_lr=0.1", "training.lr_warmup_steps=0"]
    changes = [word for option in options for word in ("--set", option)]
    return trained(tmp_path_factory.mktemp("classes") / "run", *changes)


@pytest.fixture
def run(finished, tmp_path):
    """A finished run of the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def everything_in(folder):
    """Every file below a folder and its bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pixels(path):
    return np.asarray(Image.open(path).convert("L"))


def spoil(checkpoint, name="model.safetensors"):
    """Change the last byte of a file."""
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def write_pictures(folder, count, *, broken=0):
    """Pictures of 12 × 10 pixels, and files that are none."""
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    for number in range(broken):
        (folder / f"broken-{number}.jpg").write_text("no picture")


# train


def test_train_prints_its_settings_and_leaves_a_run(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = ddpm("train", "digits", *SMALL, "--lr", "2e-3", "--seed", "5")
    settings, done = out.split("done: ")
    assert settings.startswith("preset digits\n")
    for part in (
        "1,797 images",
        "parameters; dim=8",
        "timesteps=20",
        "train_lr=0.002",
        "seed=5",
        "cpu, 1 process",
    ):
        assert part in settings
    assert done.startswith("4 steps in ")
    assert "ddpm sample runs/digits -n 64 --out samples.png" in done
    names = {path.name for path in (tmp_path / "runs/digits").iterdir()}
    assert names >= {"run.json", "metrics.jsonl", "checkpoints", "samples"}
    assert Image.open(tmp_path / "runs/digits/samples/step-00000004.png").size == (19, 19)
    assert load_pretrained(tmp_path / "runs/digits").schedule.timesteps == 20


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = ddpm("train", "digits", *SMALL, "--dry-run")
    count = sum(parameter.numel() for parameter in load_pretrained("digits").network.parameters())
    assert count > int(re.search(r"network +([\d,]+) parameters", out)[1].replace(",", "")) > 1000
    assert re.search(r"FLOPs +0\.00\d+ GFLOP per image in training, 0\.00\d+ per network call", out)
    assert re.search(r"memory +about \d+ MiB per process for batches of 8", out)
    assert re.search(r"time +about (less than a second|\d+ s) here for 32 images \([\d,]+ images/s", out)
    assert out.endswith("dry run: nothing was trained, nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_downloads_nothing(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = ddpm("train", "fashion-mnist", *SMALL, "--dry-run")
    assert "preset fashion-mnist" in out
    assert "to be downloaded; name_or_path=fashion-mnist" in out
    assert list(tmp_path.iterdir()) == []


def test_a_used_folder_is_refused_and_loses_nothing(ddpm, run):
    before = everything_in(run)
    out, err = ddpm("train", "digits", *SMALL, "--seed", "1", "--out", run, code=1)
    assert err == (
        f"error: {run} already holds a run, up to step 4: take it up with `ddpm resume {run}`, or choose another folder"
        " by --out\n"
    )
    assert out == ""
    assert everything_in(run) == before


def test_a_run_that_is_under_way_keeps_its_settings(ddpm, finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / "run.json", folder)
    with FileLock(folder / ".lock"):
        before = everything_in(folder)
        _, err = ddpm("train", "digits", *SMALL, "--seed", "1", "--out", folder, code=1)
        assert everything_in(folder) == before
    assert err.startswith(f"error: another program is training in {folder}")


def test_a_run_that_never_reached_a_checkpoint_is_begun_again(ddpm, finished, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "run.json", tmp_path / "run")
    _, err = ddpm("resume", tmp_path / "run", code=1)
    assert (
        f"holds no checkpoint yet, so there is nothing to take up: begin again with `ddpm train digits --out {tmp_path}"
        in err
    )
    ddpm("train", "digits", *SMALL, "--seed", "6", "--out", tmp_path / "run")
    assert RunConfig.load(tmp_path / "run").training["seed"] == 6


def test_options_of_every_part_reach_the_model(ddpm, tmp_path):
    changes = [
        "network.dropout=0.2",
        "training.ema_halflife=5000",
        "diffusion.objective=pred_x0",
        'diffusion.loss_weighting={"name":"MinSNR","gamma":5}',
    ]
    options = [word for change in changes for word in ("--set", change)]
    ddpm("train", "digits", *SMALL, *options, "--out", tmp_path / "run")
    checkpoint = tmp_path / "run/checkpoints/step-00000004"
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["network"]["dropout"] == 0.2
    assert config["training"]["ema_halflife"] == 5000
    assert config["diffusion"]["objective"] == "pred_x0"
    assert config["diffusion"]["loss_weighting"] == {"name": "MinSNR", "gamma": 5}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ["--set", "network.dropuot=1"],
            1,
            "network has no option 'dropuot' (did you mean dropout?); it takes dim",
        ),
        (["--set", "dropout=1"], 1, "is not of the form part.option=value"),
        (["--set", "network.dropout=2"], 1, "dropout must lie in [0, 1), but got 2"),
        (["--set", "network.dim=12"], 1, "every width must be a multiple of resnet_block_groups=8"),
        (["--set", "diffusion.loss_weighting=MaxSNR"], 1, "its name must be one of MinSNR, P2"),
        (["--image-size", "9"], 1, "images of 9×9 do not fit the network"),
        (["--lr", "-1"], 1, "train_lr must be a number above 0, but got -1.0"),
        (["--batch-size", "2000"], 1, "the 1797 there are"),
        (["--preset", "x"], 1, "unknown preset 'x'; choose one of digits, fashion-mnist, cifar10, folder"),
        (["--mixed-precision", "fp8"], 1, "mixed_precision must be no or fp16 or bf16, but got 'fp8'"),
        (["--steps", "0"], 2, "--steps"),
        (["--batch-size", "-3"], 2, "--batch-size"),
        (["--nonsense"], 2, "--nonsense"),
    ],
)
def test_bad_input_is_refused_before_work_starts(ddpm, tmp_path, options, code, message):
    out, err = ddpm("train", "digits", *SMALL, *options, "--out", tmp_path / "run", code=code)
    assert message in err
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_data_that_are_not_there(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, err = ddpm("train", "cifar1", *SMALL, code=1)
    assert "there is no folder 'cifar1' and no data set of that name (did you mean CIFAR1" in err
    _, err = ddpm("train", "./nowhere", *SMALL, code=1)
    assert f"error: {tmp_path / 'nowhere'} does not exist; give the path of a folder that holds images" in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(ddpm, tmp_path):
    (tmp_path / "file").write_text("")
    _, err = ddpm("train", "digits", *SMALL, "--out", tmp_path / "file", code=1)
    assert err.startswith(f"error: results_folder {tmp_path / 'file'} cannot be written")


def test_a_folder_of_pictures_from_home_with_one_that_is_broken(ddpm, tmp_path, monkeypatch):
    """The shell leaves the ~ of --out=~/run alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_pictures(tmp_path / "pictures", 9, broken=1)
    out, err = ddpm("train", "~/pictures", "--image-size", "8", *SMALL, "--out=~/run")
    assert "preset folder" in out
    assert "9 images" in out
    assert f"warning: left out: 1 of 10 images in {tmp_path / 'pictures'} cannot be read: " in err
    assert len([line for line in err.splitlines() if "warning" in line]) == 1
    assert RunConfig.load(tmp_path / "run").data["name_or_path"] == str(tmp_path / "pictures")
    out, _ = ddpm("info", "~/run")
    assert "step 4 of 4" in out
    ddpm("sample", "~/run", "-n", "2", "--out", "~/drawn/new.png")
    assert Image.open(tmp_path / "drawn/new.png").size == (19, 10)
    ddpm("resume", "~/run", "--steps", "5")


def test_a_run_does_not_go_into_its_own_data(ddpm, tmp_path, monkeypatch):
    write_pictures(tmp_path / "pictures", 9)
    monkeypatch.chdir(tmp_path / "pictures")
    _, err = ddpm("train", ".", "--image-size", "8", *SMALL, code=1)
    assert "runs/pictures lies within the data" in err
    assert not (tmp_path / "pictures/runs").exists()


# resume


def test_resume_extends_a_run_and_records_it(ddpm, run):
    out, err = ddpm("resume", run, "--steps", "6")
    assert f"taking up {run} at step 4 of 6" in out
    assert "done: 6 steps" in out
    assert "warning: the run goes on with other settings: train_num_steps was 4 and is 6" in err
    assert RunConfig.load(run).training["train_num_steps"] == 6
    assert "step 6 of 6" in ddpm("info", run)[0]
    out, _ = ddpm("resume", run)
    assert out == f"{run} is finished, at step 6; to train on: `ddpm resume {run} --steps 12`\n"


def test_resume_goes_no_way_back(ddpm, run):
    _, err = ddpm("resume", run, "--steps", "3", code=1)
    assert (
        f"error: --steps 3 is not beyond step 4, where the run stands; give a larger number, as in `ddpm resume {run}"
        in err
    )
    assert RunConfig.load(run).training["train_num_steps"] == 4


@pytest.mark.parametrize("command", ["resume", "evaluate", "info"])
def test_what_is_no_run(ddpm, tmp_path, command):
    _, err = ddpm(command, tmp_path / "nowhere", code=1)
    assert err.startswith(f"error: {tmp_path / 'nowhere'} is no")


# info


def test_info_says_what_a_run_is(ddpm, finished):
    out, _ = ddpm("info", finished)
    count = sum(parameter.numel() for parameter in load_pretrained(finished).network.parameters())
    assert out.startswith(f"{finished}: step 4 of 4\n")
    assert f"{count:,} parameters; dim=8" in out
    assert "name_or_path=digits" in out
    assert re.search(r"metrics +step 4: loss \d\.\d{4}, [\d,]+ images/s\n", out)
    assert out.endswith("step-00000004 whole\n")


def test_info_says_which_checkpoint_is_damaged(ddpm, run):
    ddpm("resume", run, "--steps", "6")
    spoil(run / "checkpoints/step-00000006")
    out, _ = ddpm("info", run)
    assert out.startswith(f"{run}: step 4 of 6\n")
    assert "step-00000004 whole\n" in out
    assert "step-00000006 damaged: the checksum of model.safetensors does not hold\n" in out
    spoil(run / "checkpoints/step-00000004", "state.json")
    out, _ = ddpm("info", run)
    assert out.startswith(f"{run}: no checkpoint is whole\n")
    assert "step-00000004 damaged: the checksum of state.json does not hold\n" in out
    _, err = ddpm("resume", run, code=1)
    assert f"error: every checkpoint in {run} is damaged" in err


def test_info_of_a_run_without_checkpoint(ddpm, finished, tmp_path):
    shutil.copy(finished / "run.json", tmp_path)
    out, _ = ddpm("info", tmp_path)
    assert out.startswith(f"{tmp_path}: no checkpoint yet\n  data       name_or_path=digits")


# sample


def test_sample_draws_a_grid(ddpm, finished, tmp_path):
    out, _ = ddpm("sample", finished, "-n", "6", "--seed", "3", "--out", tmp_path / "grid.png")
    assert out == f"6 images in {tmp_path / 'grid.png'}\n"
    grid = pixels(tmp_path / "grid.png")
    assert grid.shape == (19, 28)  # two rows of three, a pixel of white around each
    images = draw_images(load_pretrained(finished), range(3, 9))
    for place, image in enumerate(images):
        row, column = divmod(place, 3)
        cell = grid[1 + 9 * row : 9 + 9 * row, 1 + 9 * column : 9 + 9 * column]
        assert np.abs(cell / 255 - image[0].numpy()).max() < 0.51 / 255
    assert (grid[0] == 255).all()


def test_sample_draws_into_a_folder_and_each_image_is_its_seeds(ddpm, finished, tmp_path):
    ddpm("sample", finished, "-n", "3", "--seed", "2", "--batch-size", "2", "--out", tmp_path / "a")
    ddpm("sample", finished, "-n", "1", "--seed", "4", "--out", tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [f"00000{i}.png" for i in (2, 3, 4)]
    difference = pixels(tmp_path / "a/000004.png").astype(int) - pixels(tmp_path / "b/000004.png")
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("options", "drawn"),
    [
        (["--steps", "7"], {"sampling_timesteps": 7}),
        (["--sampler", "ancestral"], {"sampling_timesteps": 20, "sampler": "ancestral"}),
        (["--eta", "0"], {"eta": 0.0}),
        (["--steps", "20", "--eta", "0"], {"sampling_timesteps": 20, "sampler": "ddim", "eta": 0.0}),
        (["--weights", "model"], {}),
    ],
)
def test_options_of_sample(ddpm, finished, tmp_path, options, drawn):
    ddpm("sample", finished, "-n", "1", "--out", tmp_path, *options)
    model = load_pretrained(finished, weights="model" if "model" in options else "ema")
    expected = draw_images(model, [0], **drawn)[0, 0].numpy()
    assert np.abs(pixels(tmp_path / "000000.png") / 255 - expected).max() < 0.51 / 255
    usual = draw_images(load_pretrained(finished), [0])[0, 0].numpy()
    assert np.abs(usual - expected).max() > 1e-6


def test_sample_from_a_model_that_ships(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ddpm("sample", "digits", "-n", "2", "--steps", "3")
    expected = draw_images(load_pretrained("digits"), [0, 1], sampling_timesteps=3)
    assert (
        np.abs(pixels(tmp_path / "samples.png")[1:9, 10:18] / 255 - expected[1, 0].numpy()).max() < 0.51 / 255
    )


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["-n", "0"], 2, "--images"),
        (["-n", "-3"], 2, "--images"),
        (["--steps", "0"], 2, "--steps"),
        (["--steps", "21"], 1, "sampling_timesteps must be a whole number in 1 … 20 (T), but got 21"),
        (["--seed", "-1"], 2, "--seed"),
        (["--batch-size", "0"], 2, "--batch-size"),
        (["--eta", "1.5"], 1, "eta must lie in [0, 1]"),
        (["--sampler", "euler"], 1, "--sampler must be ddim or ancestral, but got 'euler'"),
        (
            ["--sampler", "ancestral", "--steps", "5"],
            1,
            "ancestral sampling takes all T = 20 levels, but 5 steps",
        ),
        (["--sampler", "ancestral", "--eta", "0.5"], 1, "--eta is for --sampler ddim"),
        (["--weights", "best"], 1, "--weights must be ema or model, but got 'best'"),
        (["--label", "3"], 1, "trained without classes"),
        (["--out", "x.jpg"], 1, "--out x.jpg must end in .png, or be a folder"),
    ],
)
def test_sample_refuses_what_makes_no_sense(ddpm, finished, tmp_path, monkeypatch, options, code, message):
    monkeypatch.chdir(tmp_path)
    _, err = ddpm("sample", finished, *options, code=code)
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_sample_from_no_model_names_those_that_ship(ddpm, tmp_path):
    _, err = ddpm("sample", tmp_path / "nowhere", code=1)
    assert "or one of the models that ship: digits" in err


def test_a_damaged_model_is_an_error_in_words(ddpm, finished, tmp_path):
    for name in ("model.safetensors", "config.json"):
        shutil.copy(finished / "checkpoints/step-00000004" / name, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    _, err = ddpm("sample", tmp_path, code=1)
    assert err.startswith("error: ")


def test_a_model_that_takes_classes(ddpm, with_classes, tmp_path):
    # The weights themselves: after so few steps their average has seen next to nothing of the classes.
    some = ("sample", with_classes, "-n", "12", "--weights", "model")
    ddpm(*some, "--out", tmp_path / "turn")
    ddpm(*some, "--label", "1", "--out", tmp_path / "one")
    same = [
        np.array_equal(pixels(tmp_path / f"turn/{name}"), pixels(tmp_path / f"one/{name}"))
        for name in (f"{number:06d}.png" for number in range(12))
    ]
    assert same == [number % 10 == 1 for number in range(12)]
    _, err = ddpm("sample", with_classes, "--label", "10", code=1)
    assert err == "error: this model has the classes 0 … 9, but got the label 10\n"


# export


def test_export_writes_the_averaged_model_by_itself(ddpm, finished, tmp_path):
    out, _ = ddpm("export", finished, tmp_path / "model")
    assert out.startswith(f"{tmp_path / 'model' / 'model.safetensors'}, 0.")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    exported, averaged = load_pretrained(tmp_path / "model"), load_pretrained(finished)
    assert exported.config == averaged.config
    for name, tensor in averaged.state_dict().items():
        assert torch.equal(exported.state_dict()[name], tensor), name


def test_export_halves_the_file_and_keeps_three_digits(ddpm, finished, tmp_path):
    ddpm("export", finished, tmp_path / "half", "--half", "--weights", "model")
    ddpm("export", finished, tmp_path / "whole", "--weights", "model")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert 0.45 < sizes[0] / sizes[1] < 0.6
    half, whole = (load_pretrained(tmp_path / name).network.state_dict() for name in ("half", "whole"))
    for name, tensor in whole.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], tensor, rtol=2**-11, atol=1e-7)


def test_export_replaces_no_model(ddpm, finished, tmp_path):
    ddpm("export", finished, tmp_path)
    _, err = ddpm("export", finished, tmp_path, code=1)
    assert f"{tmp_path} already holds a model" in err


# evaluate


def test_evaluate_judges_samples_and_the_bound(ddpm, run):
    out, _ = ddpm("evaluate", run, "-n", "40", "--steps", "2", "--bound-images", "3", "--levels", "5")
    figures = json.loads((run / "evaluation.json").read_text())
    images, model = data.digits().tensors[0], load_pretrained(run)
    drawn = draw_images(model, range(40), sampling_timesteps=2)
    assert figures["images"] == 40
    assert figures["distance"] == pytest.approx(frechet_distance(drawn, images[:40]), rel=1e-4)
    bound = vlb_terms(model, images[:3] * 2 - 1, levels=5, seeds=range(3))
    assert figures["bits_per_dimension"] == pytest.approx(float(bound.bits_per_dim(bound.total).mean))
    assert figures["of"] == "3 training images"
    assert figures["recognised"] == 0
    assert f"Fréchet distance  {figures['distance']:.4f}" in out
    assert f"{figures['bits_per_dimension']:.3f} ± {figures['standard_error']:.3f} bits per dimension" in out
    assert out.startswith("40 samples, 2 network calls each")
    assert out.endswith(f"written to {run / 'evaluation.json'}\n")


def test_evaluate_a_model_that_takes_classes(ddpm, with_classes):
    """The samples and the bound get the labels of the images."""
    ddpm("evaluate", with_classes, "-n", "40", "--bound-images", "3")
    figures = json.loads((with_classes / "evaluation.json").read_text())
    images, labels = (tensor[:40] for tensor in data.digits().tensors)
    model = load_pretrained(with_classes)
    drawn = draw_images(model, range(40), labels=labels.tolist())
    assert figures["distance"] == pytest.approx(frechet_distance(drawn, images), rel=1e-4)
    bound = vlb_terms(model, images[:3] * 2 - 1, labels=labels[:3], seeds=range(3))
    assert figures["bits_per_dimension"] == pytest.approx(float(bound.bits_per_dim(bound.total).mean))


def test_the_bound_is_taken_on_test_images_where_there_are_some(ddpm, tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, count in (("train", 9), ("t10k", 5)):
        for kind, content in (
            ("images-idx3", np.full((count, 28, 28), count)),
            ("labels-idx1", np.arange(count)),
        ):
            lengths = b"".join(length.to_bytes(4, "big") for length in content.shape)
            header = bytes([0, 0, 8, content.ndim]) + lengths
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + content.astype(np.uint8).tobytes())
    ddpm("train", "fashion-mnist", *SMALL, "--data-root", tmp_path, "--out", tmp_path / "run")
    out, _ = ddpm("evaluate", tmp_path / "run", "-n", "4", "--bound-images", "3")
    assert "on 3 test images" in out
    assert "recognised" not in out
    assert "bits" not in ddpm("evaluate", tmp_path / "run", "-n", "4", "--bound-images", "0")[0]


def test_evaluate_refuses_too_few_images(ddpm, finished):
    assert "--images" in ddpm("evaluate", finished, "-n", "3", code=2)[1]


# Words


def test_help_names_every_command(ddpm):
    out, _ = ddpm("--help")
    assert all(command in out for command in ("train", "resume", "sample", "evaluate", "info"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "less than a second"),
        (85, "85 s"),
        (720, "12 min"),
        (3.5 * 3600, "3.5 h"),
        (653 * 86400, "653 days"),
    ],
)
def test_durations(seconds, words):
    assert cli.duration(seconds) == words


def test_paragraphs_are_no_wider_than_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    values = {f"option_{number}": [number, number + 1] for number in range(12)}
    lines = cli.paragraph("network", cli.options(values | {"nothing": None})).splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("  network    option_0=[0, 1], ")
    assert all(line.startswith(" " * 13 + "option_") for line in lines[1:])


def test_a_fault_of_ours_shows_its_origin_when_asked(finished, monkeypatch):
    monkeypatch.setenv("DDPM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="--weights must be"):
        cli.main(["sample", str(finished), "--weights", "best"])


# As programs


def test_ctrl_c_saves_and_says_how_to_resume(ddpm, tmp_path):
    command = [
        sys.executable,
        "-m",
        "ddpm",
        "train",
        "digits",
        *SETTINGS,
        "--batch-size",
        "8",
        "--out",
        "run",
    ]
    command += ["--steps", "100000", "--set", "training.log_every=1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, **pipes) as process:
        patience = time.monotonic() + 120
        while (
            not (tmp_path / "run/metrics.jsonl").exists() or not (tmp_path / "run/metrics.jsonl").read_text()
        ):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < patience
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Stopping after this step, with a checkpoint" in err
    step = int(re.search(r"Saved at step (\d+)\. To resume the run: .*`ddpm resume run`", out)[1])
    assert "done" not in out
    steps = step + 2
    out, _ = ddpm("resume", tmp_path / "run", "--steps", steps)
    assert f"taking up {tmp_path / 'run'} at step {step} of {steps}" in out
    assert f"done: {steps} steps" in out


SPY = """
import os
import sys
import torch
from ddpm.cli import commands as cli
draw = cli.draw_images
def kept(*arguments, **options):
    images = draw(*arguments, **options)
    torch.save((images, options["world_size"]), sys.argv[1] + str(options["rank"]))
    return images
cli.draw_images = kept
if os.environ["RANK"] != "0":
    cli.save_image = None  # it is the first process that writes
cli.main(sys.argv[2:])
"""


def test_two_processes_draw_what_one_draws(ddpm, finished, tmp_path):
    (tmp_path / "spy.py").write_text(SPY)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = ["sample", str(finished), "-n", "5", "--batch-size", "2"]
    kept = tmp_path / "images"
    command = [*launch, str(tmp_path / "spy.py"), str(kept), *options, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"5 images in {tmp_path / 'two'}\n"
    ddpm(*options, "--out", tmp_path / "one")
    one = draw_images(load_pretrained(finished), range(5))
    for rank in range(2):
        images, world_size = torch.load(f"{kept}{rank}")
        assert world_size == 2
        assert torch.allclose(images, one, rtol=0, atol=1e-5)
    for number in range(5):
        name = f"{number:06d}.png"
        difference = pixels(tmp_path / "one" / name).astype(int) - pixels(tmp_path / "two" / name)
        assert np.abs(difference).max() <= 1
