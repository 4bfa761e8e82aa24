"""`ddpm train … --resume` and `ddpm resume`: the same command begins a run, goes on with it, and finds it done."""

import json
import re
import shutil

import pytest

from ddpm.cli.places import absolute
from ddpm.cli.presets import PRESETS, choose_preset
from ddpm.cli.run_config import RunConfig
from ddpm.cli.runs import with_warm_up_that_fits
from ddpm.training.metrics_logger import read_metrics
from tests.cli.small_runs import SMALL, everything_in
from tests.runs import model, pictures, saved_files, trained, trainer


def test_train_with_resume_begins_goes_on_and_finds_the_run_done(ddpm, tmp_path):
    command = [
        "train",
        "digits",
        "--out",
        tmp_path / "run",
        "--resume",
        *SMALL,
        "--set",
        "network.dropout=0.2",
    ]
    out, _ = ddpm(*command)
    assert f"{tmp_path / 'run'} has no checkpoint yet: beginning at step 0 of 4" in out
    assert "done: 4 steps" in out
    before = everything_in(tmp_path / "run")
    out, err = ddpm(*command)
    assert f"{tmp_path / 'run'} is finished, at step 4; to train on: `ddpm resume" in out
    assert "warning" not in err
    assert everything_in(tmp_path / "run") == before
    out, _ = ddpm(*command, "--steps", "6")
    assert f"resuming {tmp_path / 'run'} at step 4 of 6" in out
    assert [line["step"] for line in read_metrics(tmp_path / "run")][-1] == 6


def test_train_with_resume_ends_as_one_run(ddpm, tmp_path):
    options = [*SMALL, "--set", "network.dropout=0.2", "--set", "training.lr_schedule=constant"]
    ddpm("train", "digits", "--out", tmp_path / "whole", *options, "--steps", "8", "--resume")
    for steps in ("4", "8"):
        ddpm("train", "digits", "--out", tmp_path / "parts", *options, "--steps", steps, "--resume")
    assert saved_files(tmp_path / "parts") == saved_files(tmp_path / "whole")


def test_train_with_resume_keeps_what_the_run_was_begun_with(ddpm, tmp_path):
    """Also options that the second command does not repeat, such as those of the machine."""
    run = tmp_path / "run"
    chosen = ["--set", "training.num_threads=1", "--set", "training.lr_warmup_steps=2", "--lr", "2e-3"]
    ddpm("train", "digits", "--out", run, *SMALL, *chosen)
    out, err = ddpm("train", "digits", "--out", run, "--resume", "--steps", "5")
    assert "resuming" in out
    assert RunConfig.load(run).training == {
        **RunConfig.load(run).training,
        "num_threads": 1,
        "train_lr": 2e-3,
        "lr_warmup_steps": 2,
    }
    assert err.count("was") == 1
    assert "train_num_steps was 4 and is 5" in err
    out, err = ddpm("train", "digits", "--out", run, "--resume", "--steps", "6", "--lr", "1e-3")
    assert "train_lr was 0.002 and is 0.001" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "cifar10 --image-size 8",
            "holds a run that learns from digits, not from cifar10: choose another folder by",
        ),
        (
            "{pictures}",
            "holds a run that learns from digits, not from {pictures}: choose another folder by --out",
        ),
        ("digits --set network.dim=16", "is the checkpoint of another model: dim was 8 and is 16"),
        ("digits --preset digits", "is the checkpoint of another model: dim was 8 and is 16"),
    ],
)
def test_train_with_resume_refuses_another_run(ddpm, finished, tmp_path, words, message):
    folder = pictures(tmp_path / "pictures", 9)
    before = everything_in(finished)
    _, err = ddpm("train", *words.format(pictures=folder).split(), "--resume", "--out", finished, code=1)
    assert message.format(pictures=folder) in err
    assert everything_in(finished) == before


def test_train_with_resume_takes_the_images_where_they_are_now(ddpm, tmp_path):
    folder, run = pictures(tmp_path / "old", 9), tmp_path / "run"
    words = ["--image-size", "8", *SMALL, "--out", run, "--resume"]
    ddpm("train", folder, *words)
    moved = folder.rename(tmp_path / "new")
    out, _ = ddpm("train", moved, *words, "--steps", "5")
    assert "resuming" in out
    assert RunConfig.load(run).data["name_or_path"] == str(moved)


@pytest.mark.parametrize("begin", ["command", "program"])
@pytest.mark.parametrize(
    ("now", "goes_on"),
    [
        ("{here}/a/photos", True),
        ("./b/../a/photos", True),
        ("./link", True),
        ("./b/photos", False),
        ("./a", False),
    ],
)
def test_train_with_resume_refuses_another_folder_while_the_runs_own_is_there(
    ddpm, tmp_path, monkeypatch, begin, now, goes_on
):
    """Both are called photos, and so are their runs; what is told to be typed goes on on purpose."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        pictures(tmp_path / name / "photos", 9)
    (tmp_path / "link").symlink_to("a/photos")
    if begin == "command":
        ddpm("train", "./a/photos", "--image-size", "8", *SMALL)
    else:
        trained("runs/photos", model(network={"channels": 3}), "a/photos")
    now, before = now.format(here=tmp_path), everything_in(tmp_path / "runs")
    out, err = ddpm(
        "train", now, "--resume", "--steps", "5", "--out", "runs/photos", code=0 if goes_on else 1
    )
    assert ("resuming runs/photos at step 4 of 5" in out) == goes_on
    if not goes_on:
        now = absolute(now)
        assert f"that learns from {tmp_path}/a/photos, not from {now}: choose another folder by --out;" in err
        assert everything_in(tmp_path / "runs") == before
        words = re.search(r"if these are its images, `ddpm ([^`]+)`", err)[1]
        assert f"on the folder {now}\n" in ddpm(*words.split(), "--steps", "5")[0]


def test_train_without_resume_says_how_to_go_on(ddpm, finished, tmp_path):
    _, err = ddpm("train", "digits", "--out", finished, code=1)
    assert f"up to step 4: resume it with `ddpm resume {finished}`, or by --resume; or choose another" in err
    trained(tmp_path / "by program")
    _, err = ddpm("train", "digits", "--out", tmp_path / "by program", code=1)
    assert "only the program that began it can go on with it, by trainer.train(resume=True); or choose" in err


def test_resume_begins_a_run_that_has_no_checkpoint_yet(ddpm, finished, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "run.json", tmp_path / "run")
    out, _ = ddpm("info", tmp_path / "run")
    assert out.startswith(f"{tmp_path / 'run'}: no checkpoint yet")
    out, _ = ddpm("resume", tmp_path / "run")
    assert "beginning at step 0 of 4" in out
    assert saved_files(tmp_path / "run") == saved_files(finished)


@pytest.mark.parametrize("steps", [1, 4])
def test_resume_refuses_fewer_steps_than_there_are(ddpm, finished, steps):
    _, err = ddpm("resume", finished, "--steps", steps, code=1)
    assert (
        f"--train-steps {steps} is not beyond step 4, where the run stands; give a larger number, as in"
        in err
    )
    assert f"`ddpm resume {finished} --train-steps 8`" in err


@pytest.mark.parametrize("command", [["resume"], ["train", "digits", "--resume", "--out"], ["evaluate"]])
def test_a_programs_run_on_its_own_data_is_refused_with_what_to_do(ddpm, tmp_path, command):
    trained(tmp_path / "run")
    _, err = ddpm(*command, tmp_path / "run", code=1)
    assert "was given a TensorDataset by its program, not a folder of images, so only the program" in err


def test_train_with_resume_takes_up_a_programs_run(ddpm, tmp_path):
    folder = pictures(tmp_path / "pictures", 9)

    def make(name, steps):
        return trainer(tmp_path / name, model(network={"channels": 3}), folder, train_num_steps=steps)

    make("run", 3).train()
    make("whole", 5).train()
    out, err = ddpm("train", folder, "--resume", "--out", tmp_path / "run", "--steps", "5")
    assert "resuming" in out
    assert "data was" not in err
    assert saved_files(tmp_path / "run") == saved_files(tmp_path / "whole")
    assert not (tmp_path / "run" / "run.json").exists()  # its checkpoints tell all


# Warm-up


@pytest.mark.parametrize(
    ("preset", "steps", "overrides", "warm_up"),
    [
        ("digits", None, [], 100),
        ("digits", 1000, [], 100),
        ("digits", 999, [], 99),
        ("digits", 60, [], 6),
        ("digits", 4, [], 0),
        ("digits", 60, ["training.lr_warmup_steps=50"], 50),
        ("cifar10", 800_000, [], 5000),
        ("cifar10", 20_000, [], 2000),
        ("folder", 100, [], 10),
    ],
)
def test_warm_up_takes_at_most_a_tenth_of_the_run_unless_it_is_chosen(preset, steps, overrides, warm_up):
    run_config = choose_preset("digits", preset)[1].changed("training", train_num_steps=steps)
    chosen = {"lr_warmup_steps": int(overrides[0].split("=")[1])} if overrides else {}
    run_config, said = with_warm_up_that_fits(run_config.changed("training", **chosen), overrides)
    assert run_config.training["lr_warmup_steps"] == warm_up
    changed = not overrides and warm_up != PRESETS[preset].training["lr_warmup_steps"]
    assert bool(said) == changed
    assert not said or f"{warm_up} of {steps:,} updates" in " ".join(said[0].split())


def test_a_run_of_a_few_steps_reaches_its_rate_and_comes_down(ddpm, tmp_path):
    options = ["--set", "training.log_every=1"]
    out, err = ddpm("train", "digits", "--out", tmp_path / "run", *SMALL, "--steps", "30", *options)
    assert "warm-up    3 of 30 updates, as the preset's 100 are too many" in out
    rates = [line["lr"] for line in read_metrics(tmp_path / "run")]
    assert max(rates) == pytest.approx(8e-3)
    assert rates[-1] < 1e-4
    assert "warm-up" not in err


def test_a_warm_up_that_is_chosen_too_long_is_said(ddpm, tmp_path):
    _, err = ddpm("train", "digits", "--out", tmp_path / "run", *SMALL, "--set", "training.lr_warmup_steps=9")
    assert "warning: the warm-up takes the whole run: with lr_warmup_steps=9 and train_num_steps=4" in err
    assert json.loads((tmp_path / "run/run.json").read_text())["training"]["lr_warmup_steps"] == 9
