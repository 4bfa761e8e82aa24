"""What a run can be told: every value out of range is refused, and the schedules are what they say."""

import inspect
import json
import math
from dataclasses import fields

import pytest
import torch

from ddpm.training.config import TrainingConfig

WHOLE = [field.name for field in fields(TrainingConfig) if field.type is int] + ["num_threads"]


@pytest.mark.parametrize("name", WHOLE)
def test_training_config_refuses_all_but_whole_numbers(name):
    lowest = 0 if name in ("lr_warmup_steps", "num_workers", "seed") else 1
    assert getattr(TrainingConfig(**{name: lowest}), name) == lowest
    within = f"in {lowest} … 1024" if name in ("num_threads", "num_workers") else f"of at least {lowest}"
    for value in (lowest - 1, 1.5, True, "3", *([] if name == "num_threads" else [None])):
        with pytest.raises(ValueError, match=rf"^{name} must be a whole number {within}, but got {value!r}$"):
            TrainingConfig(**{name: value})
    with pytest.raises(ValueError, match=rf"^{name} must be a whole number in {lowest} … \d+, but got"):
        TrainingConfig(**{name: 2**64})


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("train_lr", (0, math.nan, math.inf, "1e-4", True), "train_lr must be a number above 0"),
        ("ema_decay", (1, -0.1, None), "ema_decay must be a number at least 0 and below 1"),
        ("ema_halflife", (0, math.nan), "ema_halflife must be a number above 0"),
        ("ema_rampup", (0, -1), "ema_rampup must be a number above 0"),
        ("max_grad_norm", (0, None), "max_grad_norm must be a number above 0"),
        ("weight_decay", (-1, math.inf), "weight_decay must be a number at least 0"),
        ("adam_betas", ((0.9, 1.0), (-0.1, 0.9)), "each of adam_betas must be a number at least 0 and below"),
        ("adam_betas", ((0.9,), (0.9, 0.9, 0.9)), r"adam_betas must be a pair such as \(0.9, 0.99\)"),
        (
            "adam_betas",
            (0.9, "0.9", {0.8, 0.9}),
            r"adam_betas must be a list of numbers, such as \[0.9, 0.99\]",
        ),
        ("extra_ema_decays", (0.9999, "0.99", {0.9}, None), "extra_ema_decays must be a list of numbers"),
        ("extra_ema_decays", ((1.0,), ("0.9",)), "each of extra_ema_decays must be a number at least 0 and"),
        (
            "mixed_precision",
            ("O1", torch.bfloat16),
            "unknown mixed_precision .*; choose one of 'no', 'fp16', 'bf16'",
        ),
        ("save_every_minutes", (0, -1.0, math.nan, "10"), "save_every_minutes must be a number above 0"),
        ("compile", ("no",), "compile must be True or False, but got 'no'"),
        ("results_folder", (None, "", 3), "results_folder must be a path, but got"),
        ("lr_schedule", ("linear",), "unknown lr_schedule 'linear'; choose one of 'constant', 'cosine'"),
    ],
)
def test_training_config_refuses_what_is_out_of_range(name, values, message):
    for value in values:
        with pytest.raises(ValueError, match=message) as caught:
            TrainingConfig(**{name: value})
        assert str("" if isinstance(value, tuple | set) else value) in str(caught.value)


def test_to_json_gives_what_makes_the_config_again():
    config = TrainingConfig(train_lr=3e-4, adam_betas=(0.8, 0.95), ema_halflife=1000.0, num_threads=2)
    assert TrainingConfig(**json.loads(json.dumps(config.to_json()))) == config != TrainingConfig()


def test_training_config_describes_every_value():
    described = inspect.getdoc(TrainingConfig) or ""
    assert [it.name for it in fields(TrainingConfig) if f"\n    {it.name}: " not in described] == []


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 2 / 3, 1: 4 / 3, 2: 2, 3: 2, 9: 2}),
        ("cosine", {0: 2 / 3, 1: 4 / 3, 2: 2, 4: 1 + 0.5**0.5, 6: 1, 8: 1 - 0.5**0.5, 10: 0}),
    ],
)
def test_learning_rate_warms_up_then_stays_or_falls_along_a_cosine(schedule, expected):
    config = TrainingConfig(train_lr=2.0, lr_warmup_steps=2, train_num_steps=10, lr_schedule=schedule)
    assert {step: config.learning_rate(step) for step in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("config", "seen", "updates", "left"),
    [
        # Whatever the interval of the updates, weights seen `ema_halflife` images ago count half.
        ({"ema_halflife": 4000.0, "ema_rampup": None, "ema_update_every": 1}, 10**6, 200, 0.5),
        ({"ema_halflife": 4000.0, "ema_rampup": None, "ema_update_every": 10}, 10**6, 20, 0.5),
        ({"ema_decay": 0.98, "ema_rampup": None}, 10**9, 1, 0.98),
        ({"ema_decay": 0.98, "ema_rampup": None, "ema_update_every": 1}, 10**9, 1, 0.98),
        ({"ema_decay": 0.0}, 10**9, 1, 0.0),
        # After 2,000 images a twentieth of them counts half, and never more than the half-life.
        ({"ema_halflife": 10_000.0, "ema_rampup": 0.05, "ema_update_every": 1}, 2000, 5, 0.5),
        ({"ema_halflife": 10_000.0, "ema_rampup": 0.05, "ema_update_every": 1}, 200_000, 500, 0.5),
        ({"ema_halflife": 10_000.0, "ema_rampup": 0.05, "ema_update_every": 1}, 400_000, 500, 0.5),
    ],
)
def test_average_decay_forgets_as_much_as_is_asked(config, seen, updates, left):
    """What is left of old weights after so many updates of the average, with 20 images a step."""
    assert TrainingConfig(**config).average_decay(seen, 20) ** updates == pytest.approx(left, rel=1e-12)
