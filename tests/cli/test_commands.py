"""The command `ddpm`, as a user meets it: runs are trained, resumed and described."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from filelock import FileLock
from PIL import Image

from ddpm import Trainer, load_pretrained
from ddpm.cli.run_config import RunConfig
from tests.cli.small_runs import CHANGES, ENVIRONMENT, SMALL, everything_in
from tests.runs import pictures


def spoil(checkpoint, name="model.safetensors"):
    """Change the last byte of a file."""
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


# train


def test_train_prints_its_configuration_and_leaves_a_run(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("network.dropout=0.2", "training.ema_halflife=5000", "diffusion.objective=pred_x0")
    options += ('diffusion.loss_weighting={"name":"MinSNR","gamma":5}',)
    changes = [word for option in options for word in ("--set", option)]
    out, _ = ddpm("train", "digits", *SMALL, *changes, "--lr", "2e-3", "--seed", "5")
    said, done = out.split("done: ")
    assert said.startswith("preset digits\n")
    for part in (
        "1,797 images",
        "parameters; dim=8",
        "timesteps=20",
        "train_lr=0.002",
        "seed=5",
        "cpu, 1 process",
    ):
        assert part in said
    assert done.startswith("4 steps in ")
    assert "ddpm sample runs/digits -n 64 --out samples.png" in done
    names = {path.name for path in (tmp_path / "runs/digits").iterdir()}
    assert names >= {"run.json", "metrics.jsonl", "checkpoints", "samples"}
    assert Image.open(tmp_path / "runs/digits/samples/step-00000004.png").size == (19, 19)
    assert load_pretrained(tmp_path / "runs/digits").schedule.timesteps == 20
    config = json.loads((tmp_path / "runs/digits/checkpoints/step-00000004/config.json").read_text())
    assert config["network"]["dropout"] == 0.2
    assert config["training"]["ema_halflife"] == 5000
    assert config["diffusion"]["objective"] == "pred_x0"
    assert config["diffusion"]["loss_weighting"] == {"name": "MinSNR", "gamma": 5}


@pytest.mark.parametrize(
    ("data", "said"),
    [("digits", "1,797 images"), ("fashion-mnist", "to be downloaded; name_or_path=fashion-mnist")],
)
def test_dry_run_says_what_it_would_cost_and_writes_and_downloads_nothing(
    ddpm, tmp_path, monkeypatch, data, said
):
    monkeypatch.chdir(tmp_path)
    out, _ = ddpm("train", data, *SMALL, "--dry-run")
    assert f"preset {data}" in out
    assert said in out
    count = sum(parameter.numel() for parameter in load_pretrained("digits").network.parameters())
    assert count > int(re.search(r"network +([\d,]+) parameters", out)[1].replace(",", "")) > 1000
    assert re.search(r"FLOPs +\d[\d.]+ MFLOP per image in training, [\d.]+ [kM]FLOP per network call", out)
    assert re.search(r"memory +about [\d.]+ [KM]iB per process for batches of 8", out)
    assert re.search(r"time +about (less than a second|\d+ seconds?) here for 32 images \([\d,]+ ima", out)
    assert out.endswith("dry run: nothing was trained, nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_train_leaves_a_run_that_is_under_way_alone(ddpm, finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / "run.json", folder)
    with FileLock(folder / ".lock"):
        before = everything_in(folder)
        _, err = ddpm("train", "digits", *SMALL, "--seed", "1", "--out", folder, code=1)
        assert everything_in(folder) == before
    assert err.startswith(f"error: another program is training in {folder}")


def test_train_begins_a_run_again_that_has_no_checkpoint(ddpm, finished, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "run.json", tmp_path / "run")
    out, _ = ddpm("info", tmp_path / "run")
    assert out.startswith(f"{tmp_path / 'run'}: no checkpoint yet\n  data       name_or_path=digits")
    ddpm("train", "digits", *SMALL, "--seed", "6", "--out", tmp_path / "run")
    assert RunConfig.load(tmp_path / "run").training["seed"] == 6


def test_train_stopped_early_by_an_ignored_ctrl_c_is_not_done(ddpm, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "train", lambda _: None)
    out, _ = ddpm("train", "digits", *SMALL, "--out", tmp_path / "run", code=130)
    assert "done" not in out


def test_train_takes_a_folder_from_home_and_leaves_out_what_is_broken(ddpm, tmp_path, monkeypatch):
    """The shell leaves the ~ of --out=~/run alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (pictures(tmp_path / "pictures", 9) / "broken.jpg").write_text("no picture")
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
    ddpm("export", "~/run", "~/model")
    assert (tmp_path / "model/model.safetensors").exists()
    ddpm("resume", "~/run", "--steps", "5")


def test_train_from_a_model_begins_with_its_weights_and_options(ddpm, finished, tmp_path):
    """A head for the variance and the classes are new. Once the run has a checkpoint it no longer needs the model."""
    model, run = tmp_path / "model", tmp_path / "run"
    ddpm("export", finished, model)
    options = ["--set", "training.train_lr=1e-12", "--set", "network.learned_variance=true", "--out", run]
    options += ["--set", "network.num_classes=10"]
    out, _ = ddpm("train", "digits", "--from", model, "--steps", "2", *options)
    assert f"weights begin as those of the model in {model} " in " ".join(out.split())
    theirs, ours = load_pretrained(model), load_pretrained(run, weights="model")
    assert ours.network.config == theirs.network.config | {"learned_variance": True, "num_classes": 10}
    assert ours.config | {"class_names": None} == theirs.config
    weights = ours.network.state_dict()
    for name, tensor in theirs.network.state_dict().items():
        torch.testing.assert_close(weights[name][: len(tensor)], tensor, rtol=0, atol=1e-9)
    out, _ = ddpm("info", run)
    assert f"weights begin as those of {model} " in " ".join(out.split())
    shutil.rmtree(model)
    ddpm("resume", run, "--steps", "3")
    assert RunConfig.load(run).start == str(model)


def test_train_from_a_model_that_ships_keeps_its_name(ddpm, tmp_path):
    quick = ["--steps", "1", "--set", "training.num_samples=1", "--set", "diffusion.sampling_timesteps=1"]
    out, _ = ddpm("train", "digits", "--from", "digits", *quick, "--out", tmp_path / "run")
    assert "weights    begin as those of the model digits that ships, in " in out
    assert RunConfig.load(tmp_path / "run").start == "digits"


# resume


def test_resume_extends_a_run_and_info_says_what_it_is_and_which_checkpoint_is_damaged(ddpm, run):
    out, err = ddpm("resume", run, "--train-steps", "6")
    assert f"resuming {run} at step 4 of 6" in out
    assert "done: 6 steps" in out
    assert "train_num_steps was 4 and is 6" in err
    assert RunConfig.load(run).training["train_num_steps"] == 6
    out, _ = ddpm("resume", run)
    assert out == f"{run} is finished, at step 6; to train on: `ddpm resume {run} --train-steps 12`\n"

    out, _ = ddpm("info", run)
    count = sum(parameter.numel() for parameter in load_pretrained(run).network.parameters())
    assert out.startswith(f"{run}: step 6 of 6\n")
    assert f"{count:,} parameters; dim=8" in out
    assert "name_or_path=digits" in out
    assert re.search(r"trained +.* on cpu, 1 process; ", out)
    assert re.search(r"metrics +step 6: loss \d\.\d{4}, [\d,]+ images/s\n", out)
    assert out.endswith("step-00000004 whole\n  step-00000006 whole\n")

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


def test_ctrl_c_saves_and_says_how_to_resume(ddpm, tmp_path):
    words = ["--batch-size", "8", "--out", "run", "--train-steps", "100000", "--set", "training.log_every=1"]
    command = [sys.executable, "-m", "ddpm", "train", "digits", *words, *CHANGES]
    metrics = tmp_path / "run/metrics.jsonl"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, **pipes) as process:
        patience = time.monotonic() + 120
        while not metrics.exists() or not metrics.read_text():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < patience
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Stopping after this step, with a checkpoint" in err
    step = int(re.search(r"Saved at step (\d+)\. .*`ddpm resume run`", out)[1])
    assert "done" not in out
    steps = step + 2
    out, _ = ddpm("resume", tmp_path / "run", "--steps", steps)
    assert f"resuming {tmp_path / 'run'} at step {step} of {steps}" in out
    assert f"done: {steps} steps" in out
