"""What a run says of itself: every line at its step, whatever was interrupted."""

import math
import os
import time
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm.training.config import TrainingConfig
from ddpm.training.metrics_logger import ALL_SKIPPED, MetricsLogger, read_metrics
from tests.runs import trained, trainer


def read_events(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events, [event.step for event in events.Scalars("training/loss")]


def test_write_says_on_every_channel_what_the_run_did(tmp_path, capsys):
    config = {"train_num_steps": 6, "log_every": 2, "lr_warmup_steps": 2, "train_lr": 1e-3, "num_samples": 3}
    trained(tmp_path, progress=True, tensorboard=True, **config)
    lines = read_metrics(tmp_path)
    assert [(line["step"], line["images"]) for line in lines] == [(2, 16), (4, 32), (6, 48)]
    assert lines[0]["lr"] == pytest.approx(1e-3 * 2 / 3)
    assert all(math.isfinite(line["loss"]) for line in lines)
    names = [f"step-{step:08d}.png" for step in (2, 4, 6)]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == names
    with Image.open(tmp_path / "samples" / names[0]) as grid:
        assert grid.size == (19, 19)  # two rows and columns of 8 pixels, and lines between them
    bar = capsys.readouterr().err
    assert "6/6" in bar
    assert f"loss {lines[-1]['loss']:.4f}, " in bar
    events, steps = read_events(tmp_path)
    assert steps == [image.step for image in events.Images("samples")] == [2, 4, 6]
    losses = [event.value for event in events.Scalars("training/loss")]
    assert losses == pytest.approx([line["loss"] for line in lines])


def test_write_counts_the_seconds_of_training_alone(tmp_path, monkeypatch):
    """An update takes one second here, drawing samples a hundred, and nothing else takes any."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def taking(seconds, act):
        def slow(*args):
            nonlocal now
            now += seconds
            return act(*args)

        return slow

    for steps in (4, 6):  # and the second part counts on
        ours = trainer(tmp_path, train_num_steps=steps, save_and_sample_every=3, log_every=2)
        ours.training_step, ours.draw_samples = taking(1, ours.training_step), taking(100, ours.draw_samples)
        ours.resume() if steps == 6 else ours.train()
    said = [(line["step"], line["seconds"], line["images_per_second"]) for line in read_metrics(tmp_path)]
    assert said == [(2, 2, 8), (3, 3, 8), (4, 4, 8), (6, 6, 8)]


def test_logger_writes_the_metrics_of_lost_updates_anew(tmp_path, capsys):
    trained(tmp_path, tensorboard=True)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    trainer(tmp_path, train_num_steps=5, tensorboard=True, progress=True).resume()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == read_events(tmp_path)[1] == [1, 2, 3, 4, 5]
    assert lines[-1]["loss"] != 1.0
    assert "5/5" in capsys.readouterr().err


def make_logger(folder, **config):
    quiet = TrainingConfig(results_folder=folder, progress=False, tensorboard=False, **config)
    alone = SimpleNamespace(is_main_process=True)
    return MetricsLogger(quiet, alone, 0, 8)


def test_logger_keeps_the_lines_where_new_ones_cannot_be_written(tmp_path, monkeypatch):
    line = '{"step": 0, "loss": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_text(line)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        make_logger(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == line


def test_add_waits_for_no_device(tmp_path):
    """A tensor on the device "meta" has no value to wait for."""
    make_logger(tmp_path).add(torch.zeros((), device="meta"), torch.zeros((), device="meta"))


@pytest.mark.parametrize(
    ("precision", "count", "loss", "message"),
    [
        ("fp16", ALL_SKIPPED - 1, 2.0, None),
        ("fp16", ALL_SKIPPED, 2.0, "the gradient's length is inf at step 1: .*, or bf16 in place of fp16$"),
        ("fp16", 1, math.nan, "the loss is nan at step 1"),
        ("bf16", 1, 2.0, "the gradient's length is inf at step 1: .* train_lr or a longer warm-up$"),
    ],
)
def test_write_leaves_overflow_to_a_loss_scaler_that_helps(tmp_path, precision, count, loss, message):
    logger = make_logger(tmp_path, mixed_precision=precision)
    for number in range(count):
        logger.add(torch.tensor(loss + number), torch.tensor(math.inf))
    if message:
        with pytest.raises(FloatingPointError, match=message):
            logger.write(count, 8 * count, 0.0)
        return
    logger.write(count, 8 * count, 0.0)
    for norm in (5.0, 3.0):
        logger.add(torch.tensor(1.0), torch.tensor(norm))
    logger.write(count + 2, 0, 0.0)
    overflown, last = read_metrics(tmp_path)
    assert (overflown["step"], overflown["loss"]) == (count, loss + (count - 1) / 2)
    assert (overflown["grad_norm"], last["grad_norm"]) == (None, 3.0)
