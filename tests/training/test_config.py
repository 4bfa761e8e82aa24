"""What a run can be told: every value out of range is refused, and the schedules are what they say."""

import inspect
import json
import math
from dataclasses import fields
from itertools import pairwise

import pytest

from ddpm.training.config import AT_LEAST_ZERO, FREE_TO_CHANGE, TrainingConfig

WHOLE = [field.name for field in fields(TrainingConfig) if field.type is int] + ["num_threads"]


@pytest.mark.parametrize("name", WHOLE)
def test_config_refuses_all_but_whole_numbers(name):
    lowest = 0 if name in AT_LEAST_ZERO else 1
    assert getattr(TrainingConfig(**{name: lowest}), name) == lowest
    for value in (lowest - 1, 1.5, True, "3", *([] if name == "num_threads" else [None])):
        message = rf"^{name} must be a whole number of at least {lowest}, but got {value!r}$"
        with pytest.raises(ValueError, match=message):
            TrainingConfig(**{name: value})


def test_config_counts_what_has_to_be_counted():
    assert set(WHOLE) >= {"train_batch_size", "train_num_steps", "checkpoints_to_keep", "log_every", "seed"}
    assert {"lr_warmup_steps", "num_workers", "seed"} == AT_LEAST_ZERO


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("train_lr", (0, math.nan, math.inf, "1e-4", True), "train_lr must be a number above 0"),
        ("ema_decay", (1, -0.1, None), "ema_decay must be a number at least 0 and below 1"),
        ("ema_halflife", (0, math.nan), "ema_halflife must be a number above 0"),
        ("ema_rampup", (0, -1), "ema_rampup must be a number above 0"),
        ("max_grad_norm", (0, None), "max_grad_norm must be a number above 0"),
        ("weight_decay", (-1, math.inf), "weight_decay must be a number at least 0"),
        (
            "adam_betas",
            ((0.9, 1.0), (-0.1, 0.9)),
            "each of adam_betas must be a number at least 0 and below 1",
        ),
        ("adam_betas", (0.9, (0.9,), (0.9, 0.9, 0.9)), r"adam_betas must be a pair such as \(0.9, 0.99\)"),
        ("mixed_precision", ("O1",), "unknown mixed_precision 'O1'; choose one of 'no', 'fp16', 'bf16'"),
        ("lr_schedule", ("linear",), "unknown lr_schedule 'linear'; choose one of 'constant', 'cosine'"),
    ],
)
def test_config_refuses_what_is_out_of_range(name, values, message):
    for value in values:
        with pytest.raises(ValueError, match=message) as caught:
            TrainingConfig(**{name: value})
        assert str(value if name != "adam_betas" else "") in str(caught.value)


def test_config_goes_through_json_and_back():
    config = TrainingConfig(train_lr=3e-4, adam_betas=(0.8, 0.95), ema_halflife=1000.0, num_threads=2)
    written = json.loads(json.dumps(config.to_json()))
    assert TrainingConfig(**written) == config
    assert written["num_threads"] == 2


def test_config_docstring_describes_every_value():
    described = inspect.getdoc(TrainingConfig) or ""
    names = {field.name for field in fields(TrainingConfig)}
    assert [name for name in names if f"\n    {name}: " not in described] == []
    assert names >= FREE_TO_CHANGE >= {"num_threads", "num_workers", "train_num_steps"}


def test_learning_rate_warms_up_in_a_straight_line():
    config = TrainingConfig(train_lr=1.0, lr_warmup_steps=3, train_num_steps=10)
    assert [config.learning_rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert config.learning_rate(9) == 1.0


def test_learning_rate_falls_along_a_cosine_to_zero():
    config = TrainingConfig(train_lr=2.0, lr_warmup_steps=2, train_num_steps=12, lr_schedule="cosine")
    rates = [config.learning_rate(step) for step in range(13)]
    assert rates[2] == 2.0
    assert rates[7] == pytest.approx(1.0)  # half-way between step 2 and step 12
    assert rates[12] == pytest.approx(0.0)
    assert all(a > b for a, b in pairwise(rates[2:]))


@pytest.mark.parametrize("every", [1, 10])
def test_average_decay_forgets_half_after_the_halflife(every):
    """Whatever the interval of the updates, weights seen `ema_halflife` images ago count half."""
    config = TrainingConfig(ema_halflife=4000.0, ema_rampup=None, ema_update_every=every)
    decay = config.average_decay(images_seen=10**6, images_per_step=20)
    assert decay ** (4000 / (20 * every)) == pytest.approx(0.5, rel=1e-12)


def test_average_decay_is_ema_decay_whatever_the_batch():
    config = TrainingConfig(ema_decay=0.98, ema_rampup=None)
    for images in (1, 16, 1000):
        assert config.average_decay(10**9, images) == pytest.approx(0.98, rel=1e-12)
    assert TrainingConfig(ema_decay=0.0).average_decay(10**9, 16) == 0.0


def test_average_decay_of_a_young_average_is_short():
    config = TrainingConfig(ema_halflife=10_000.0, ema_rampup=0.05, ema_update_every=1)
    # After 2,000 images the half-life is 100 of them: five updates of 20.
    assert config.average_decay(2000, 20) ** 5 == pytest.approx(0.5)
    for images_seen in (200_000, 400_000):
        assert config.average_decay(images_seen, 20) == pytest.approx(0.5 ** (20 / 10_000))
