"""What a run says of itself: every line at its step, whatever was interrupted."""

import math
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm.training.config import TrainingConfig
from ddpm.training.metrics_logger import ALL_SKIPPED, MetricsLogger, read_metrics
from tests.runs import trained, trainer


def read_events(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_metrics_of_a_run(tmp_path, capsys):
    config = {"train_num_steps": 6, "log_every": 2, "lr_warmup_steps": 2, "train_lr": 1e-3}
    ours = trained(tmp_path, progress=True, tensorboard=True, **config)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [line["images"] for line in lines] == [16, 32, 48]
    assert lines[0]["lr"] == pytest.approx(1e-3 * 2 / 3)
    assert all(math.isfinite(line["loss"]) and line["images_per_second"] > 0 for line in lines)
    assert lines[-1]["seconds"] == pytest.approx(ours.seconds, abs=0.01)
    seconds = [line["seconds"] for line in lines]
    rates = [16 / (now - before) for before, now in zip([0, *seconds], seconds, strict=False)]
    assert [line["images_per_second"] for line in lines] == pytest.approx(rates, rel=0.5)
    names = [f"step-{step:08d}.png" for step in (2, 4, 6)]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == names
    bar = capsys.readouterr().err
    assert "6/6" in bar
    assert f"loss {lines[-1]['loss']:.4f}, " in bar
    events = read_events(tmp_path)
    logged = [(event.step, event.value) for event in events.Scalars("training/loss")]
    assert logged == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert [image.step for image in events.Images("samples")] == [2, 4, 6]


def test_metrics_of_lost_updates_are_written_anew(tmp_path):
    trained(tmp_path, tensorboard=True)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    trainer(tmp_path, train_num_steps=5, tensorboard=True).resume()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[-1]["loss"] != 1.0
    assert [event.step for event in read_events(tmp_path).Scalars("training/loss")] == [1, 2, 3, 4, 5]


def make_logger(folder, **config):
    quiet = TrainingConfig(results_folder=folder, progress=False, tensorboard=False, **config)
    alone = SimpleNamespace(is_main_process=True, reduce=lambda figures, _: figures)
    return MetricsLogger(quiet, alone, 0, 8)


def test_add_waits_for_no_device(tmp_path):
    """A tensor on the device "meta" has no value to wait for."""
    make_logger(tmp_path).add(torch.zeros((), device="meta"), torch.zeros((), device="meta"))


@pytest.mark.parametrize(
    ("precision", "count", "loss", "message"),
    [
        ("fp16", ALL_SKIPPED - 1, 2.0, None),
        ("fp16", ALL_SKIPPED, 2.0, "the gradient's length is inf at step 1"),
        ("fp16", 1, math.nan, "the loss is nan at step 1"),
        ("bf16", 1, 2.0, "the gradient's length is inf at step 1"),
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
    (line,) = read_metrics(tmp_path)
    assert (line["step"], line["loss"], line["grad_norm"]) == (count, loss + (count - 1) / 2, None)
