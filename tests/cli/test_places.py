"""What words and paths on the command line stand for, and data that are no longer where they were."""

import json
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddpm import Trainer, load_pretrained
from ddpm.cli import cost
from ddpm.cli.places import absolute
from ddpm.cli.run_config import RunConfig
from ddpm.data import folder
from ddpm.training.recipe import how_to_resume
from tests.cli.small_runs import SMALL, everything_in
from tests.data.pictures import write_mnist
from tests.runs import model, pictures, trained

SHIPPED = Path(__file__).parents[2] / "checkpoints/digits"
EIGHT = ["--image-size", "8", *SMALL]


def flat(text):
    """What was printed, without line breaks and indents."""
    return " ".join(text.split())


@pytest.fixture
def here(tmp_path, monkeypatch, finished):
    """A working directory with a finished run in ./digits, and home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(finished, tmp_path / "digits")
    return tmp_path


# A run that is called like a model that ships


def weights(folder):
    return load_file(folder / "model.safetensors")["first.weight"]


@pytest.mark.parametrize("word", ["digits", "./digits", "{here}/digits", "~/digits", "digits/"])
def test_a_run_in_a_folder_called_like_a_model_that_ships_is_what_every_command_takes(ddpm, here, word):
    place, warned = (
        word.format(here=here),
        "warning: 'digits' is taken for the run in digits, its checkpoint of step 4,",
    )
    said = f"the run in {Path(place).expanduser()}, its checkpoint of step 4"
    out, err = ddpm("export", place, "model")
    assert f" model {said}" in flat(out)
    assert err.startswith(warned) == (word == "digits")
    assert (
        weights(here / "model").shape
        == load_file(here / "digits/checkpoints/step-00000004/ema.safetensors")["first.weight"].shape
        != weights(SHIPPED).shape
    )
    out, err = ddpm("sample", place, "-n", "1", "--out", "x.png")
    assert flat(out) == f"1 image in x.png model {said}"
    assert err.startswith(warned) == (word == "digits")
    out, err = ddpm("evaluate", place, "-n", "4", "--steps", "1", "--bound-images", "0")
    assert f" model {said}" in flat(out)
    assert err == ""  # a run is a folder and nothing else
    out, err = ddpm("info", place)
    assert out.startswith(f"{Path(place).expanduser()}: step 4 of 4\n")
    assert "; the digits of scikit-learn network " in flat(out)
    out, err = ddpm("resume", place, "--steps", "5")
    assert f"resuming {Path(place).expanduser()} at step 4 of 5, on the digits of scikit-learn\n" in out
    assert err.count("is taken for") == 0


def test_what_ships_is_said_to_ship(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ships = f"the model digits that ships, in {SHIPPED}"
    for words in ("sample digits -n 1 --steps 1", "sample Digits -n 1 --steps 1", "export digits model"):
        assert flat(ddpm(*words.split())[0]).endswith(f" model {ships}")
    out, _ = ddpm("info", "digits")
    assert out.startswith(f"{ships}\n  network    dim=")
    out, _ = ddpm("info", "model")
    assert out.startswith("the model in model\n  network    dim=")


REFUSED = [  # words, what lies here, what is said
    ("sample ./digits", "", "no model at './digits' (no such folder)"),
    ("export ./digits x", "", "no model at './digits' (no such folder)"),
    (
        "info ./digits",
        "",
        "./digits is not the folder of a run: it holds neither run.json nor checkpoints, and there is no",
    ),
    ("sample digits", "digits/run.json", "no model at 'digits' (a run without a checkpoint yet)"),
    ("export digits x", "digits/config.json", "no model at 'digits' (it holds config.json alone)"),
    ("evaluate digits", "", "(The model digits that ships is no run: ddpm sample, export and info take it.)"),
    ("resume digits", "", "digits is not a folder: give the folder of a run that `ddpm train` began"),
    ("resume digits", "digits/a.png", "digits holds no run.json: give the folder of a run"),
    (
        "resume digits",
        "runs/digits/run.json",
        "a checkpoint in it (did you mean runs/digits?) (The model digits ",
    ),
    ("evaluate runs/digist", "runs/digits/run.json", "with a checkpoint in it (did you mean runs/digits?)"),
    ("info runs", "runs/a b/run.json", "'runs' (it holds neither; did you mean 'runs/a b'?)"),
    ("train x.zip", "x.zip", "x.zip is a file; give the path of a folder that holds images"),
    ("train ./digits", "", "digits does not exist; give the path of a folder that holds images"),
    ("train digits/", "digits", "digits is a file; give the path of a folder that holds images"),
    (
        "train digits --cache",
        "",
        "cache='runs/digits/prepared' is for a folder of images, and not for digits",
    ),
]


@pytest.mark.parametrize(("words", "lies", "message"), REFUSED)
def test_what_is_not_there_is_refused_and_nothing_stands_in_for_it(
    ddpm, tmp_path, monkeypatch, words, lies, message
):
    monkeypatch.chdir(tmp_path)
    if lies:
        (tmp_path / lies).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / lies).write_text("{}")
    before = everything_in(tmp_path)
    _, err = ddpm(*words.split(), code=1)
    assert message.format(here=tmp_path) in err
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ["sample", ""],
        ["export", "", "x"],
        ["export", "digits", ""],
        ["resume", ""],
        ["evaluate", ""],
        ["info", ""],
        ["train", "digits", "--out", ""],
        ["sample", "digits", "--out", ""],
        ["train", "digits", "--data-root", ""],
    ],
)
def test_an_empty_word_is_no_folder(ddpm, here, words):
    """As an unset variable of a script would be; Path("") is the working directory."""
    shutil.copytree(here / "digits", here, dirs_exist_ok=True)
    before = everything_in(here)
    assert "it is empty, as an unset variable of a script would be" in ddpm(*words, code=2)[1]
    assert "the data are an empty word" in ddpm("train", "", code=1)[1]
    assert everything_in(here) == before


def test_a_run_is_not_begun_where_a_model_lies(ddpm, tmp_path):
    """Which would be taken in place of the run's, by `ddpm sample` and all others."""
    folder = tmp_path / "model"
    ddpm("export", "digits", folder)
    before = everything_in(folder)
    for options in ([], ["--dry-run"], ["--resume"]):
        _, err = ddpm("train", "digits", "--out", folder, *options, code=1)
        assert f"error: {folder} holds a model, which would be taken in place of the run's" in err
    trainer = Trainer(
        load_pretrained(folder), torch.rand(16, 1, 8, 8), train_num_steps=1, results_folder=folder
    )
    with pytest.raises(FileExistsError, match="holds a model, which would be taken in place of the run's"):
        trainer.train()
    assert everything_in(folder).items() - before.items() <= {(folder / ".lock", b"")}


def test_a_model_is_not_written_into_a_run(ddpm, run):
    """There it would be taken for the run's, whatever the run learns later."""
    before = everything_in(run)
    _, err = ddpm("export", "digits", run, code=1)
    assert f"error: {run} is the folder of a run, and a model in it would be taken for the run's" in err
    assert everything_in(run) == before


# Data by name and by path


@pytest.mark.parametrize(
    ("word", "data", "images"),
    [
        ("celeba", "torchvision's data set CelebA, its files in {here}/data", "to be downloaded"),
        ("./celeba", "the folder {here}/celeba", "9 images"),
        ("{here}/celeba", "the folder {here}/celeba", "9 images"),
        ("~/celeba", "the folder {here}/celeba", "9 images"),
        ("deep/../celeba", "the folder {here}/celeba", "9 images"),
        ("pictures", "the folder {here}/pictures", "9 images"),
    ],
)
def test_train_says_what_its_data_are(ddpm, tmp_path, monkeypatch, word, data, images):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("celeba", "pictures", "deep"):
        pictures(tmp_path / name, 9)
    out, err = ddpm("train", word.format(here=tmp_path), *EIGHT, "--dry-run")
    assert re.search(rf" data {images}; .*; {re.escape(data.format(here=tmp_path))} network ", flat(out))
    said = "warning: 'celeba' is taken for torchvision's data set CelebA, not for the folder of that name here; for the"
    assert (err.count(f"{said} folder write ./celeba\n") == 1) == (word == "celeba")


@pytest.mark.parametrize("options", [["--data-root", "files"], ["--set", "data.root=files"], []])
def test_torchvisions_files_are_found_again_from_anywhere(ddpm, tmp_path, monkeypatch, options):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ("files" if options else "data")
    write_mnist(folder, train=9)
    ddpm("train", "fashion-mnist", *SMALL, *options, "--out", "run")
    assert RunConfig.load(tmp_path / "run").data["root"] == str(folder)
    monkeypatch.chdir(tmp_path / "elsewhere")
    out, _ = ddpm("resume", "../run", "--steps", "5")
    assert f"at step 4 of 5, on torchvision's data set FashionMNIST, its files in {folder}\n" in out
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.fixture
def moved(ddpm, tmp_path, monkeypatch):
    """A run on the pictures of ./old, which are in ./new now."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "old", 9)
    ddpm("train", "./old", *EIGHT, "--out", "run")
    (tmp_path / "old").rename(tmp_path / "new")
    return tmp_path


@pytest.mark.parametrize("there", [None, "empty folder", "file", "broken"])
@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_data_that_moved_are_told_how_to_be_found(ddpm, moved, command, there):
    if there == "file":
        (moved / "old").touch()
    elif there:
        (moved / "old").mkdir()
        (moved / "old/x.png").touch() if there == "broken" else None
    _, err = ddpm(command, "run", *(["--steps", "5"] if command == "resume" else ["-n", "4"]), code=1)
    assert err.splitlines()[-1] == (
        f"run says that the data are in {moved}/old. If they have moved: ddpm {command} run --data FOLDER"
    )


def test_advice_about_a_run_with_a_space_in_its_name_can_be_typed(ddpm, moved):
    (moved / "run").rename(moved / "my run")
    _, err = ddpm("evaluate", "my run", "-n", "4", code=1)
    assert err.endswith("ddpm evaluate 'my run' --data FOLDER\n")


def test_precisions_that_are_none_are_passed_over(ddpm, tmp_path):
    ddpm("export", "digits", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"checked_precisions": [3, "bf16"]}))
    assert " checked in bf16" in flat(ddpm("info", tmp_path)[0])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{}", "is not the configuration of a model of this package; give a folder that save_pretrained or"),
        ('{"network": {}}', "is not the configuration of a model of this package"),
        ('{"_class_name": "UNet2DModel"}', "it is one of diffusers: load_diffusers_unet reads"),
        ("{", "config.json is damaged: "),
    ],
)
@pytest.mark.parametrize("words", [("info", "there"), ("train", "digits", "--from", "there", "--dry-run")])
def test_another_programs_model_is_named(ddpm, tmp_path, monkeypatch, words, written, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there/config.json").write_text(written)
    (tmp_path / "there/model.safetensors").write_bytes(b"")
    _, err = ddpm(*words, code=1)
    assert message in flat(err)


def test_data_that_moved_are_found_as_told_and_kept_so(ddpm, moved):
    out, _ = ddpm("info", "run")
    assert f"; the folder {moved}/old, which is not there network " in flat(out)
    out, err = ddpm("evaluate", "run", "-n", "4", "--steps", "1", "--bound-images", "0", "--data", "./new")
    assert f" data 4 of 9 training images, drawn by the seed; the folder {moved}/new " in flat(out)
    assert RunConfig.load(moved / "run").data["name_or_path"] == f"{moved}/old"
    out, err = ddpm("resume", "run", "--steps", "5", "--data", "new")
    assert f"on the folder {moved}/new\n" in out
    assert "goes on with other settings" not in err
    assert RunConfig.load(moved / "run").data["name_or_path"] == f"{moved}/new"
    ddpm("resume", "run", "--steps", "6")


@pytest.mark.parametrize("instead", ["", "train ./new --resume --out run --steps 5"])
def test_a_programs_run_goes_on_with_its_images_where_they_are_now(ddpm, tmp_path, monkeypatch, instead):
    monkeypatch.chdir(tmp_path)
    trained("run", model(network={"channels": 3}), pictures(tmp_path / "old", 9))
    (tmp_path / "old").rename(tmp_path / "new")
    assert "or `ddpm resume run`" in how_to_resume(Path("run"))
    advice = "ddpm resume run --data FOLDER"
    for words in ("resume run --steps 5", "train ./old --resume --out run --steps 5"):
        _, err = ddpm(*words.split(), code=1)
        assert err.endswith(f"run says that the data are in {tmp_path}/old. If they have moved: {advice}\n")
    words = instead or f"{advice.removeprefix('ddpm ').replace('FOLDER', 'new')} --steps 5"
    out, _ = ddpm(*words.split())
    assert f"resuming run at step 4 of 5, on the folder {tmp_path}/new\n" in out
    ddpm(*["evaluate", "run", "--data", "new", "-n", "4", "--steps", "1", "--bound-images", "0"])
    ddpm("resume", "run", "--steps", "6")  # from there on by itself


def test_torchvisions_files_that_moved(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "old", train=9)
    ddpm("train", "fashion-mnist", *SMALL, "--data-root", "old", "--out", "run")
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.download", lambda _: None)
    _, err = ddpm("resume", "run", "--steps", "5", code=1)
    assert f"data are in {tmp_path}/old. If they have moved: ddpm resume run --data-root FOLDER" in err
    ddpm("resume", "run", "--steps", "5", "--data-root", "new")
    assert RunConfig.load(tmp_path / "run").data["root"] == str(tmp_path / "new")
    _, err = ddpm("resume", "run", "--steps", "6", "--data", "new", code=1)
    assert (
        "--data new is for a run on a folder of images, but run learns from fashion-mnist: leave it out"
        in err
    )


def test_a_data_set_that_needs_another_package_is_not_said_to_be_downloaded(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    for words in ([], ["--dry-run"]):
        _, err = ddpm("train", "lsun", *EIGHT, *words, code=1)
        assert "torchvision reads LSUN by the package lmdb, which is not installed: pip install lmdb" in err


@pytest.mark.parametrize("words", [["evaluate", "-n", "4"], ["resume", "--steps", "5"]])
def test_a_run_on_a_read_only_disk_is_refused_before_work_starts(ddpm, run, monkeypatch, words):
    monkeypatch.setattr(os, "access", lambda *_: False)
    _, err = ddpm(words[0], run, *words[1:], code=1)
    assert err == (
        f"error: you may not write to {run}; choose another folder, and copy the run there, whose samples and figures"
        " are written to it\n"
    )


def test_a_run_that_moved_takes_its_cache_along(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "old", 9)
    ddpm("train", "./old", *EIGHT, "--dry-run", "--cache")
    assert {path.name for path in tmp_path.iterdir()} == {"old"}
    ddpm("train", "./old", *EIGHT, "--cache", "--out", "run")
    assert RunConfig.load(tmp_path / "run").data["cache"] == "prepared"
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    kept = (tmp_path / "elsewhere/prepared/3x8x8.json").stat().st_mtime_ns
    ddpm("resume", "elsewhere", "--steps", "5")
    ddpm("evaluate", "elsewhere", "-n", "4", "--steps", "1", "--bound-images", "0")
    assert (tmp_path / "elsewhere/prepared/3x8x8.json").stat().st_mtime_ns == kept
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("begin", ["command", "program"])
@pytest.mark.parametrize(
    "words",
    [
        "train ./photos --image-size 8 --out photos/new",
        "train ./photos --image-size 8 --out photos/new --resume",
        "train ./photos --image-size 8 --out photos --resume",
        "train ./photos --image-size 8 --out link/new --resume",
        "sample run --out photos/x.png",
        "sample run --out photos",
        "sample run --out photos/deep/new",
        "sample run --out link/x.png",
        "sample run/checkpoints/step-00000004 --out photos/x.png",
    ],
)
def test_nothing_is_written_among_the_images_that_a_model_learns_from(
    ddpm, tmp_path, monkeypatch, begin, words
):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos", 9)
    (tmp_path / "link").symlink_to("photos")
    if begin == "command":
        ddpm("train", "./photos", *EIGHT, "--out", "run")
    else:
        trained("run", model(network={"channels": 3}), "photos")
    before = everything_in(tmp_path)
    _, err = ddpm(*words.split(), code=1)
    assert f"lies within the data, {tmp_path}/photos, so that samples would be taken for images of it;" in err
    assert everything_in(tmp_path) == before
    ddpm("sample", "run", "-n", "1", "--out", "x.png")


def test_a_run_that_lies_among_its_images_goes_on_and_learns_from_none_of_its_samples(ddpm, tmp_path):
    run = tmp_path / "photos/run"
    trained(run, model(network={"channels": 3}), pictures(tmp_path / "photos", 9))
    out, err = ddpm("train", tmp_path / "photos", "--resume", "--out", run, "--steps", "5")
    assert "resuming" in out
    assert "2 in the folder of a training run" in err
    assert "images was" not in err


@pytest.mark.parametrize("other", ["prepared", None])
@pytest.mark.parametrize("words", ["resume run --steps 5", "evaluate run -n 4 --bound-images 0"])
def test_a_cache_that_this_machine_cannot_write_is_told_where_it_stands(
    ddpm, tmp_path, monkeypatch, words, other
):
    """And not that the images may have moved."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos", 9)
    ddpm("train", "./photos", *EIGHT, "--out", "run", "--set", f"data.cache={tmp_path}/scratch")
    shutil.rmtree("scratch")
    Path("scratch").touch()
    _, err = ddpm(*words.split(), code=1)
    assert err.startswith(f"error: the cache of images {tmp_path}/scratch cannot be written")
    assert err.endswith('data.cache in run/run.json: "prepared" is in the run, null does without.\n')
    config = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps(config | {"data": config["data"] | {"cache": other}}))
    ddpm(*words.split())


def test_a_dry_run_times_what_is_left_of_a_run_and_reads_as_from_its_cache(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos", 9)
    ddpm("train", "./photos", *EIGHT, "--cache", "--out", "run")
    timed, before = [], everything_in(tmp_path)
    monkeypatch.setattr(cost, "loading_seconds", lambda batches, _: timed.append(batches.dataset) or 0.0)
    decode, decoded = folder.read_sized, []
    monkeypatch.setattr(folder, "read_sized", lambda *given: decoded.append(given) or decode(*given))
    for words in (["--resume"], ["--cache", "--resume"], ["--cache"], ["--cache", "--out", "new"], []):
        out, _ = ddpm("train", "./photos", *EIGHT, "--steps", "6", "--out", "run", "--dry-run", *words)
        assert ("for 16 images that are left (" if "--resume" in words else "for 48 images (") in out
        assert bool(decoded) == ("new" in words or not words)  # where there is no cache, or none is read
    out, _ = ddpm("train", "./photos", *EIGHT, "--out", "run", "--dry-run", "--resume")
    assert "for 0 images that are left (" in out
    assert everything_in(tmp_path) == before
    monkeypatch.setattr(folder, "read_sized", None)
    *cached, plain = timed[:5]
    for dataset in cached:
        assert len(dataset) == 9
        assert [image.shape for image in dataset.__getitems__([8, 0])] == [(3, 8, 8)] * 2
    with pytest.raises(RuntimeError, match="cannot read the image"):
        plain[0]


@pytest.mark.parametrize("cached", [[], ["--cache"]])
def test_a_cache_changes_no_bit_of_a_run(ddpm, tmp_path, monkeypatch, cached):
    """Images are mirrored at random, and the run is broken off and taken up without its cache, or with one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures(tmp_path / "photos", 9)
    ddpm("train", "./photos", *EIGHT, "--out", "whole", "--train-steps", "6")
    ddpm("train", "./photos", *EIGHT, "--out", "run", *cached)
    config = json.loads((tmp_path / "run/run.json").read_text())
    config["data"]["cache"] = None if cached else "~/later"
    (tmp_path / "run/run.json").write_text(json.dumps(config))
    ddpm("resume", "run", "--train-steps", "6")
    assert (tmp_path / "later").exists() != bool(cached)
    for name in ("model", "ema"):
        file = f"checkpoints/step-00000006/{name}.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", "{here}/a"),
        ("./a", "{here}/a"),
        ("/a/b", "/a/b"),
        ("~/a", "{home}/a"),
        ("../a", "{above}/a"),
        (".", "{here}"),
    ],
)
def test_absolute(tmp_path, monkeypatch, given, expected):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    places = {"here": tmp_path / "here", "home": tmp_path / "home", "above": tmp_path}
    assert absolute(given) == expected.format(**places)


@pytest.mark.usefixtures("here")
def test_a_name_is_looked_up_beside_a_run_without_a_word(ddpm):
    """`ddpm train digits` where ./digits is a run: nobody can mean its samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out, err = ddpm("train", "digits", *SMALL, "--out", "other")
    assert "1,797 images" in out
    assert "warning" not in err
