"""What a run can be told: every setting out of range is refused, and the schedules are what they say."""

import inspect
import math
from dataclasses import fields
from itertools import pairwise

import pytest

from ddpm.training.config import AT_LEAST_ONE, AT_LEAST_ZERO, FREE_TO_CHANGE, TrainingConfig, advises


@pytest.mark.parametrize("name", AT_LEAST_ONE)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", None])
def test_counts_are_whole_and_positive(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be a whole number of at least 1, but got {value!r}"):
        TrainingConfig(**{name: value})


@pytest.mark.parametrize("name", AT_LEAST_ZERO)
def test_counts_that_may_be_zero(name):
    assert getattr(TrainingConfig(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 0, but got -1"):
        TrainingConfig(**{name: -1})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"train_lr": 0}, "train_lr must be a number above 0, but got 0"),
        ({"train_lr": math.nan}, "train_lr must be a number above 0, but got nan"),
        ({"train_lr": math.inf}, "train_lr must be a number above 0, but got inf"),
        ({"train_lr": "1e-4"}, "train_lr must be a number above 0, but got '1e-4'"),
        ({"ema_decay": 1}, "ema_decay must be a number at least 0 and below 1, but got 1"),
        ({"ema_decay": -0.1}, "ema_decay must be a number at least 0 and below 1"),
        ({"ema_halflife": 0}, "ema_halflife must be a number above 0"),
        ({"ema_rampup": -1}, "ema_rampup must be a number above 0"),
        ({"max_grad_norm": 0}, "max_grad_norm must be a number above 0"),
        ({"weight_decay": -1}, "weight_decay must be a number at least 0"),
        (
            {"adam_betas": (0.9, 1.0)},
            "each of adam_betas must be a number at least 0 and below 1, but got 1.0",
        ),
        ({"adam_betas": 0.9}, r"adam_betas must be a pair of numbers such as \(0.9, 0.99\), but got 0.9"),
        ({"mixed_precision": "O1"}, "unknown mixed_precision 'O1'; choose one of 'no', 'fp16', 'bf16'"),
        ({"lr_schedule": "linear"}, "unknown lr_schedule 'linear'; choose one of 'constant', 'cosine'"),
    ],
)
def test_what_is_out_of_range_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**setting)


def test_settings_go_through_json_and_back():
    import json

    settings = TrainingConfig(train_lr=3e-4, adam_betas=(0.8, 0.95), ema_halflife=1000.0)
    again = TrainingConfig(**json.loads(json.dumps(settings.settings)))
    assert again == settings


def test_the_docstring_describes_every_setting():
    described = inspect.getdoc(TrainingConfig) or ""
    for field in fields(TrainingConfig):
        assert f"\n    {field.name}: " in described, field.name
    assert {field.name for field in fields(TrainingConfig)} >= FREE_TO_CHANGE


def test_learning_rate_warms_up_in_a_straight_line():
    settings = TrainingConfig(train_lr=1.0, lr_warmup_steps=3, train_num_steps=10)
    assert [settings.learning_rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert settings.learning_rate(9) == 1.0


def test_learning_rate_falls_along_a_cosine_to_zero():
    settings = TrainingConfig(train_lr=2.0, lr_warmup_steps=2, train_num_steps=12, lr_schedule="cosine")
    rates = [settings.learning_rate(step) for step in range(13)]
    assert rates[2] == 2.0
    assert rates[7] == pytest.approx(1.0)  # half-way between step 2 and step 12
    assert rates[12] == pytest.approx(0.0)
    assert all(a > b for a, b in pairwise(rates[2:]))


@pytest.mark.parametrize("every", [1, 10])
def test_half_the_past_is_forgotten_after_the_halflife(every):
    """Whatever the interval of the updates, weights seen `ema_halflife` images ago count half."""
    settings = TrainingConfig(ema_halflife=4000.0, ema_rampup=None, ema_update_every=every)
    decay = settings.average_decay(images_seen=10**6, images_per_step=20)
    updates = 4000 / (20 * every)
    assert decay**updates == pytest.approx(0.5, rel=1e-12)


def test_decay_is_that_of_one_update_whatever_the_batch():
    settings = TrainingConfig(ema_decay=0.98, ema_rampup=None)
    for images in (1, 16, 1000):
        assert settings.average_decay(10**9, images) == pytest.approx(0.98, rel=1e-12)
    assert TrainingConfig(ema_decay=0.0).average_decay(10**9, 16) == 0.0


def test_a_young_average_has_a_short_memory():
    settings = TrainingConfig(ema_halflife=10_000.0, ema_rampup=0.05, ema_update_every=1)
    # After 2,000 images the half-life is 100 of them: five updates of 20.
    assert settings.average_decay(2000, 20) ** 5 == pytest.approx(0.5)
    assert settings.average_decay(200_000, 20) == pytest.approx(0.5 ** (20 / 10_000))
    assert settings.average_decay(400_000, 20) == pytest.approx(0.5 ** (20 / 10_000))


def test_advice_comes_with_the_refusal_and_leaves_the_signature():
    @advises({"old": "write new=… instead"})
    class Thing:
        def __init__(self, *, new: int = 1) -> None:
            self.new = new

    assert Thing(new=3).new == 3
    assert list(inspect.signature(Thing).parameters) == ["new"]
    with pytest.raises(TypeError, match=r"Thing has no 'old': write new=… instead"):
        Thing(old=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        Thing(other=2)
