"""What a training run can be told, and the checks that come before it starts."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ddpm.checks import check_choice

MixedPrecision = Literal["no", "fp16", "bf16"]
LearningRateSchedule = Literal["constant", "cosine"]
Class = TypeVar("Class", bound=type)

AT_LEAST_ONE = (
    "train_batch_size",
    "gradient_accumulate_every",
    "train_num_steps",
    "ema_update_every",
    "save_and_sample_every",
    "num_samples",
    "checkpoints_to_keep",
    "log_every",
)
AT_LEAST_ZERO = ("lr_warmup_steps", "num_workers", "seed")
# These may differ between a run and its continuation without a word: what is computed stays the same.
FREE_TO_CHANGE = {
    "train_num_steps",
    "save_and_sample_every",
    "num_samples",
    "results_folder",
    "num_workers",
    "checkpoints_to_keep",
    "log_every",
    "progress",
    "tensorboard",
}


@dataclass(kw_only=True)
class TrainingConfig:
    """Everything about a training run that is not the model and not the data.

    Attributes:
        train_batch_size: images per network call and process.
        gradient_accumulate_every: how many such batches make one update; their gradients are averaged.
        augment_horizontal_flip: mirror half of the images of a folder. A `Dataset` is taken as it is.
        train_lr: learning rate, the highest one where it changes.
        train_num_steps: number of updates.
        ema_update_every: updates between two steps of the average of the weights.
        ema_decay: m in eq:ema, for one step of the average.
        adam_betas: β_1 and β_2 of Adam.
        save_and_sample_every: updates between two checkpoints, each with a grid of samples.
        num_samples: images in that grid.
        results_folder: where the run keeps checkpoints, samples and metrics.
        mixed_precision: "no" (float32), "bf16", or "fp16" (needs a GPU); only the network runs in it.
        compile: run the network through `torch.compile`.
        weight_decay: decoupled weight decay (AdamW); 0 leaves Adam.
        lr_warmup_steps: updates over which the learning rate rises from zero.
        lr_schedule: after that "constant", or "cosine": down to almost zero at the last update.
        max_grad_norm: the gradient is scaled down to this length where it is longer.
        ema_halflife: how many images the average takes to forget half of its past; given, it stands in for
            `ema_decay`.
        ema_rampup: the half-life is at most this share of the images seen so far, so that a young average does not
            remember the beginning (Karras et al. 2024); None turns that off.
        num_workers: processes that load images; 0 loads them in the training process.
        checkpoints_to_keep: the newest so many stay, older ones are deleted.
        log_every: updates between two lines of metrics; only then does the CPU wait for the GPU.
        seed: of the order of the images, the noise levels, the noise, the dropout.
        channels_last: keep the network's images with their channels last in memory, as a `Unet` does by itself;
            convolutions like it.
        progress: show a progress bar.
        tensorboard: also write metrics for TensorBoard, if it is installed.

    Raises:
        ValueError: if a setting is out of range; the message says what is allowed.
    """

    train_batch_size: int = 16
    gradient_accumulate_every: int = 1
    augment_horizontal_flip: bool = True
    train_lr: float = 1e-4
    train_num_steps: int = 100_000
    ema_update_every: int = 10
    ema_decay: float = 0.995
    adam_betas: tuple[float, float] = (0.9, 0.99)
    save_and_sample_every: int = 1000
    num_samples: int = 25
    results_folder: str | Path = "./results"
    mixed_precision: MixedPrecision = "no"
    compile: bool = False
    weight_decay: float = 0.0
    lr_warmup_steps: int = 0
    lr_schedule: LearningRateSchedule = "constant"
    max_grad_norm: float = 1.0
    ema_halflife: float | None = None
    ema_rampup: float | None = 0.05
    num_workers: int = 0
    checkpoints_to_keep: int = 3
    log_every: int = 50
    seed: int = 0
    channels_last: bool = True
    progress: bool = True
    tensorboard: bool = True

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        for name in AT_LEAST_ONE:
            check_whole(name, getattr(self, name), 1)
        for name in AT_LEAST_ZERO:
            check_whole(name, getattr(self, name), 0)
        check_choice("mixed_precision", self.mixed_precision, get_args(MixedPrecision))
        check_choice("lr_schedule", self.lr_schedule, get_args(LearningRateSchedule))
        self.adam_betas = check_betas(self.adam_betas)
        check_number("train_lr", self.train_lr, above=0)
        check_number("max_grad_norm", self.max_grad_norm, above=0)
        check_number("weight_decay", self.weight_decay, at_least=0)
        check_number("ema_decay", self.ema_decay, at_least=0, below=1)
        if self.ema_halflife is not None:
            check_number("ema_halflife", self.ema_halflife, above=0)
        if self.ema_rampup is not None:
            check_number("ema_rampup", self.ema_rampup, above=0)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(TrainingConfig)}
        return values | {"results_folder": str(self.results_folder), "adam_betas": list(self.adam_betas)}

    def learning_rate(self, step: int) -> float:
        """The learning rate of update number `step` + 1: warm-up, then constant or down along a cosine."""
        warm_up = min(1.0, (step + 1) / (self.lr_warmup_steps + 1))
        if self.lr_schedule == "constant" or step < self.lr_warmup_steps:
            return self.train_lr * warm_up
        done = (step - self.lr_warmup_steps) / max(1, self.train_num_steps - self.lr_warmup_steps)
        return self.train_lr * (1 + math.cos(math.pi * min(1.0, done))) / 2

    def average_decay(self, images_seen: int, images_per_step: int) -> float:
        """m of eq:ema at this point of the run.

        Args:
            images_seen: images so far, over all processes.
            images_per_step: images of one update, over all processes.

        Returns:
            The decay for one step of the average, in [0, 1).
        """
        images = self.ema_update_every * images_per_step  # that pass between two steps of the average
        halflife = self.ema_halflife
        if halflife is None:
            halflife = images * math.log(0.5) / math.log(self.ema_decay) if self.ema_decay > 0 else 0.0
        if self.ema_rampup is not None:
            halflife = min(halflife, self.ema_rampup * images_seen)
        return 0.5 ** (images / halflife) if halflife > 0 else 0.0


def check_whole(name: str, value: object, lowest: int) -> None:
    """Refuse anything but whole numbers of at least `lowest`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{name} must be a whole number of at least {lowest}, but got {value!r}")


def check_number(
    name: str, value: float, *, above: float = -math.inf, at_least: float = -math.inf, below: float = math.inf
) -> None:
    """Refuse anything but finite numbers in the range."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and value > above and value >= at_least and value < below):
        limits = {"above": above, "at least": at_least, "below": below}
        allowed = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
        raise ValueError(f"{name} must be a number {allowed}, but got {value!r}")


def check_betas(betas: tuple[float, float]) -> tuple[float, float]:
    """Adam's two decay rates as a pair, refused outside [0, 1)."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"adam_betas must be a pair of numbers such as (0.9, 0.99), but got {betas!r}")
    for beta in betas:
        check_number("each of adam_betas", beta, at_least=0, below=1)
    return float(betas[0]), float(betas[1])


def advises(advice: dict[str, str]) -> Callable[[Class], Class]:
    """Class decorator: a keyword of old is refused with the advice that belongs to it.

    Args:
        advice: old keyword -> what to say instead.

    Returns:
        The decorator; the class's signature stays as it is.
    """

    def decorate(cls: Class) -> Class:
        construct = cls.__init__

        @functools.wraps(construct)
        def checked(self: Any, *args: Any, **keywords: Any) -> None:
            for word in keywords:
                if word in advice:
                    raise TypeError(f"{cls.__name__} has no {word!r}: {advice[word]}")
            construct(self, *args, **keywords)

        cls.__init__ = checked
        return cls

    return decorate
