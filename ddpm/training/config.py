"""What a training run can be told, and the checks that come before it starts."""

import math
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ddpm.io.paths import expanded
from ddpm.support.checks import check_choice, check_flag, check_number, check_numbers, check_whole
from ddpm.support.keywords import refuse_unknown_keywords

MixedPrecision = Literal["no", "fp16", "bf16", "auto"]
LearningRateSchedule = Literal["constant", "cosine"]

AT_LEAST_ZERO = {"lr_warmup_steps", "num_workers", "seed"}  # the other whole numbers are at least 1
# More is a slip, which would take the machine down.
_AT_MOST = {"num_workers": 1024, "num_threads": 1024}
# The other numbers, by what they may be.
_LIMITS: dict[str, dict[str, float]] = {
    "train_lr": {"above": 0},
    "max_grad_norm": {"above": 0},
    "weight_decay": {"at_least": 0},
    "ema_decay": {"at_least": 0, "below": 1},
    "ema_halflife": {"above": 0},
    "ema_rampup": {"above": 0},
    "save_every_minutes": {"above": 0},
}
_MAY_BE_NONE = {"ema_halflife", "ema_rampup", "save_every_minutes"}
# What goes into the optimiser or the data when a trainer is made.
_TAKEN_AT_ONCE = {"adam_betas", "augment_horizontal_flip", "channels_last", "weight_decay"}
# What the trainers of the ports and of other libraries take (see `ddpm.support.keywords`), and what to write here.
PORT_KEYWORDS = {
    "amp": "write mixed_precision='fp16' (on a GPU), 'bf16', 'auto' or 'no' instead",
    "mixed_precision_type": "write mixed_precision='fp16' (on a GPU), 'bf16', 'auto' or 'no' instead",
    "amp_level": "write mixed_precision='fp16' (on a GPU), 'bf16' or 'no' instead",
    "dynamic_loss_scale": "with mixed_precision='fp16' the loss scale is always dynamic; leave it out",
    "jit": "write compile=True to run the network through torch.compile",
    "akg": "write compile=True to run the network through torch.compile",
    "distributed": "start the program with `accelerate launch` or `torchrun`, and leave it out",
    "split_batches": "train_batch_size is what each process takes; leave it out",
    "calculate_fid": "leave it out, and judge the run with `ddpm evaluate` when it is done",
    "inception_block_idx": "leave it out, and judge the run with `ddpm evaluate` when it is done",
    "num_fid_samples": "leave it out, and judge the run with `ddpm evaluate -n` when it is done",
    "save_best_and_latest_only": "checkpoints_to_keep says how many of the newest stay; leave it out",
    "convert_image_to": "the model's channels decide how images are read; leave it out",
    "diffusion_model": "give the model first, Trainer(diffusion, …)",
    "folder": "give it second, Trainer(diffusion, folder, …)",
    "lr": "write train_lr=… instead",
    "learning_rate": "write train_lr=… instead",
    "epochs": "write train_num_steps=…, the number of updates, instead",
    "num_epochs": "write train_num_steps=…, the number of updates, instead",
    "device": "it takes the GPU, where there is one; for the CPU set ACCELERATE_USE_CPU=true in the environment",
}
# These may differ between a run and its continuation without a word: what is computed stays the same.
FREE_TO_CHANGE = {
    "train_num_steps",
    "save_and_sample_every",
    "save_every_minutes",
    "num_samples",
    "results_folder",
    "num_workers",
    "num_threads",
    "checkpoints_to_keep",
    "log_every",
    "progress",
    "tensorboard",
    "gradient_checkpointing",
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
        extra_ema_decays: m of further averages, kept alongside, each of the memory of the network: 0.9999 is the
            average "ema-0.9999" of a checkpoint and of `load_pretrained`. Samples are drawn with that of `ema_decay`.
        adam_betas: β_1 and β_2 of Adam.
        save_and_sample_every: updates between two checkpoints, each with a grid of samples.
        save_every_minutes: a checkpoint, without samples, also after so many minutes without one, for machines that end
            without asking; None leaves that out.
        num_samples: images in that grid.
        results_folder: where the run keeps checkpoints, samples and metrics.
        mixed_precision: "no" (float32), "bf16", or "fp16" (needs a GPU); only the network runs in it. "auto" is what
            the machine multiplies natively: bf16 or fp16 on a GPU, bf16 on a CPU that has it, else "no".
        compile: run the network through `torch.compile`.
        gradient_checkpointing: less memory for more arithmetic: the backward pass computes the stages of the network
            anew, from their inputs. For a `Unet`, or a network with an attribute of that name.
        weight_decay: decoupled weight decay (AdamW); 0 leaves Adam.
        lr_warmup_steps: updates over which the learning rate rises from zero.
        lr_schedule: after that "constant", or "cosine": down to almost zero at the last update.
        max_grad_norm: the gradient is scaled down to this length where it is longer.
        ema_halflife: how many images it takes the average to forget half of its past; replaces `ema_decay`.
        ema_rampup: the half-life is at most this fraction of the images seen so far, so that a young average does not
            remember the beginning (Karras et al. 2024); None turns that off.
        num_workers: processes that load images; 0 loads them in the training process.
        checkpoints_to_keep: the newest so many stay, older ones are deleted.
        log_every: updates between two lines of metrics; only then does the CPU wait for the GPU.
        seed: of the order of the images, the timesteps, the noise, the dropout.
        channels_last: keep the network's images with their channels last in memory, as a `Unet` does by itself;
            convolutions like it.
        progress: show a progress bar; where standard error is no terminal, a line from time to time.
        tensorboard: also write metrics for TensorBoard, if it is installed.
        num_threads: threads of the CPU; None leaves torch's own number.
        deterministic: take only kernels that give the same bits each time, which on a GPU are slower; the CPU's do so
            by themselves.

    Raises:
        ValueError: if a value is out of range; the message says what is allowed.
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
    num_threads: int | None = None
    save_every_minutes: float | None = 10.0
    deterministic: bool = False
    gradient_checkpointing: bool = False
    extra_ema_decays: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type is int:
                lowest = 0 if field.name in AT_LEAST_ZERO else 1
                self._keep(field.name, check_whole, lowest, _AT_MOST.get(field.name))
            if field.type is bool:
                self._keep(field.name, check_flag)
        self._keep_numbers()
        check_choice("mixed_precision", self.mixed_precision, get_args(MixedPrecision))
        check_choice("lr_schedule", self.lr_schedule, get_args(LearningRateSchedule))
        betas = check_numbers("adam_betas", self.adam_betas, at_least=0, below=1)
        if len(betas) != 2:
            raise ValueError(f"adam_betas must be a pair such as (0.9, 0.99), but got {self.adam_betas!r}")
        self.adam_betas = (betas[0], betas[1])
        self.extra_ema_decays = self._checked_decays()
        if not isinstance(self.results_folder, str | os.PathLike) or not os.fspath(self.results_folder):
            raise ValueError(f"results_folder must be a path, but got {self.results_folder!r}")
        self.results_folder = expanded(self.results_folder)

    def _keep_numbers(self) -> None:
        """Keep the other numbers, of which some may be None."""
        if self.num_threads is not None:
            self._keep("num_threads", check_whole, 1, _AT_MOST["num_threads"])
        for name, limits in _LIMITS.items():
            if getattr(self, name) is not None or name not in _MAY_BE_NONE:
                self._keep(name, check_number, **limits)

    def _checked_decays(self) -> tuple[float, ...]:
        """The decays of further averages, all different."""
        decays = tuple(check_numbers("extra_ema_decays", self.extra_ema_decays, at_least=0, below=1))
        if len({self.ema_decay, *decays}) <= len(decays):
            raise ValueError(
                f"extra_ema_decays must differ from each other and from ema_decay={self.ema_decay}, but got {decays}"
            )
        return decays

    def _keep(self, name: str, check: Callable[..., Any], *limits: Any, **named: Any) -> None:
        """Keep a value as its check gives it: as Python's own, which JSON can hold."""
        setattr(self, name, check(name, getattr(self, name), *limits, **named))

    def to_json(self) -> dict[str, Any]:
        """All values by name, ready for JSON."""
        return asdict(self) | {
            "results_folder": str(self.results_folder),
            "adam_betas": list(self.adam_betas),
            "extra_ema_decays": list(self.extra_ema_decays),
        }

    def learning_rate(self, step: int) -> float:
        """The learning rate of update number `step` + 1: warm-up, then constant or down along a cosine."""
        warm_up = min(1.0, (step + 1) / (self.lr_warmup_steps + 1))
        if self.lr_schedule == "constant" or step < self.lr_warmup_steps:
            return self.train_lr * warm_up
        done = (step - self.lr_warmup_steps) / max(1, self.train_num_steps - self.lr_warmup_steps)
        return self.train_lr * (1 + math.cos(math.pi * min(1.0, done))) / 2

    def warn_of_length(self, step: int) -> None:
        """Say so where the run already stands beyond its last update, or its warm-up takes all of them."""
        if step > self.train_num_steps:
            warnings.warn(
                f"the run stands at step {step}, beyond train_num_steps={self.train_num_steps}: nothing is trained",
                stacklevel=3,
            )
        if self.lr_warmup_steps >= self.train_num_steps:
            warnings.warn(
                f"the warm-up takes the whole run: with lr_warmup_steps={self.lr_warmup_steps} and train_num_steps="
                f"{self.train_num_steps} the learning rate ends at {self.learning_rate(self.train_num_steps - 1):.2g}"
                f" and never comes to train_lr={self.train_lr:g}; set a shorter warm-up, or train longer",
                stacklevel=3,
            )

    def average_decay(self, images_seen: int, images_per_step: int) -> float:
        """m of eq:ema for one step of the average, in [0, 1); both counts of images are over all processes."""
        return self.average_decays(images_seen, images_per_step)[0]

    def average_decays(self, images_seen: int, images_per_step: int) -> list[float]:
        """The same for every average, that of `ema_decay` first; while the ramp-up holds, eq:power-average."""
        images = self.ema_update_every * images_per_step  # that pass between two steps of the average
        decays = (self.ema_decay, *self.extra_ema_decays)
        halflives = [images * math.log(0.5) / math.log(decay) if decay > 0 else 0.0 for decay in decays]
        if self.ema_halflife is not None:
            halflives[0] = self.ema_halflife
        if self.ema_rampup is not None:
            halflives = [min(halflife, self.ema_rampup * images_seen) for halflife in halflives]
        return [0.5 ** (images / halflife) if halflife > 0 else 0.0 for halflife in halflives]


class Configured:
    """What has a `config`, and shows each of its values as its own."""

    config: TrainingConfig

    def __getattr__(self, name: str) -> Any:
        """What the config has, the trainer has: `trainer.train_num_steps`, as in the port."""
        if hasattr(TrainingConfig, name):
            return getattr(self.config, name)
        raise AttributeError(f"a {type(self).__name__} has no attribute {name!r}")

    def adopted(self, config: TrainingConfig) -> TrainingConfig:
        """A config as it is kept."""
        return config

    def __setattr__(self, name: str, value: Any) -> None:
        """A value of the config is checked, and set there."""
        if name in _TAKEN_AT_ONCE:
            raise AttributeError(
                f"{name} is taken up when the trainer is made: make another, Trainer(…, {name}={value!r}), which can"
                " go on with the run"
            )
        if hasattr(TrainingConfig, name):
            name, value = "config", self.adopted(replace(self.config, **{name: value}))
        super().__setattr__(name, value)


def check_keywords(config: Iterable[str]) -> None:
    """Refuse keywords that a `Trainer` does not take."""
    refuse_unknown_keywords(
        "Trainer", config, [field.name for field in fields(TrainingConfig)], PORT_KEYWORDS
    )
