"""Settings that make sense, by the kind of data: what `ddpm train` starts from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ddpm.cli.overrides import PARTS, check_options, read_override
from ddpm.data.datasets import load_dataset, torchvision_dataset
from ddpm.data.names import TORCHVISION, canonical, is_path, known_name
from ddpm.diffusion import GaussianDiffusion
from ddpm.io.pretrained import build_diffusion
from ddpm.unet import Unet

Options = dict[str, Any]

RUN = "run.json"


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run is made from, ready for JSON.

    Attributes:
        data: arguments of `ddpm.data.load_dataset`, the name or path among them.
        network: arguments of `Unet`.
        diffusion: arguments of `GaussianDiffusion`, apart from the network.
        training: arguments of `Trainer`, apart from the model and the data.

    Raises:
        ValueError: if a part has no such option, or a value is of the wrong kind.
    """

    data: Options = field(default_factory=dict)
    network: Options = field(default_factory=dict)
    diffusion: Options = field(default_factory=dict)
    training: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is no option, long before a part is built from it."""
        for part in PARTS:
            check_options(part, getattr(self, part))

    def changed(self, part: str, **options: Any) -> "RunConfig":
        """A run_config with other options in one of its parts; None leaves an option as it is."""
        given = {name: value for name, value in options.items() if value is not None}
        return RunConfig(**{**asdict(self), part: {**getattr(self, part), **given}})

    def build_diffusion(self) -> GaussianDiffusion:
        """A fresh model.

        Raises:
            ValueError: if an option is out of range, or the network cannot halve the images as often as it would.
        """
        diffusion = build_diffusion({"network": self.network, "diffusion": self.diffusion})
        assert isinstance(diffusion.network, Unet)
        factor = diffusion.network.downsampling
        if any(side % factor for side in diffusion.image_size):
            height, width = diffusion.image_size
            raise ValueError(
                f"images of {height}×{width} do not fit the network, whose {len(self.network['dim_mults'])} levels need"
                f" sides divisible by {factor}: give an --image-size such as {max(1, round(height / factor)) * factor},"
                " or fewer levels by network.dim_mults"
            )
        return diffusion

    def load_data(self, *, train: bool = True) -> Dataset[Any]:
        """The data set, its training part or its test part; test images are never mirrored."""
        options = self.data if train else {**self.data, "augment_horizontal_flip": False}
        return load_dataset(**options, train=train)

    def data_at_hand(self) -> Dataset[Any] | None:
        """The training data, or None if they would have to be downloaded first."""
        options = dict(self.data)
        name = options.pop("name_or_path")
        if known_name(name) not in TORCHVISION:
            return self.load_data()
        try:
            return torchvision_dataset(name, download=False, **options)
        except RuntimeError:
            return None

    def save(self, folder: Path) -> None:
        """Write it to `run.json`."""
        unfinished = folder / f".{RUN}.part"
        unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        unfinished.replace(folder / RUN)

    @classmethod
    def load(cls, folder: Path) -> "RunConfig":
        """Read it from a run's `run.json`.

        Raises:
            FileNotFoundError: if the folder is not that of a run that `ddpm train` began.
            ValueError: if the file was changed into something that is no run_config.
        """
        try:
            return cls(**json.loads((folder / RUN).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError) as error:
            what = f"holds no {RUN}" if folder.is_dir() else "is no folder"
            raise FileNotFoundError(
                f"{folder} {what}: give the folder of a run that `ddpm train` began. A run that your own program began"
                " is taken up by that program, with trainer.resume()"
            ) from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{folder / RUN} cannot be read as the settings of a run: {error}") from error


# Two cores, under two minutes. A short run needs a high rate, a quick average and a schedule that ends at zero.
DIGITS = RunConfig(
    data={"name_or_path": "digits", "channels": 1},
    network={"dim": 16, "dim_mults": [1, 2], "num_res_blocks": 1, "attention_resolutions": []},
    diffusion={
        "image_size": 8,
        "objective": "pred_v",
        "beta_schedule": "cosine",
        "sampling_timesteps": 100,
        "ddim_sampling_eta": 1.0,
    },
    training={
        "train_num_steps": 1700,
        "train_batch_size": 128,
        "train_lr": 8e-3,
        "lr_warmup_steps": 100,
        "lr_schedule": "cosine",
        "ema_update_every": 5,
        "ema_decay": 0.975,
        "save_and_sample_every": 1000,
        "num_samples": 36,
    },
)
# Small grey pictures: a network of about 1.5 million parameters, for a night on a CPU or minutes on a GPU.
FASHION_MNIST = RunConfig(
    data={"name_or_path": "FashionMNIST", "channels": 1},
    network={"dim": 32, "dim_mults": [1, 2, 2], "num_res_blocks": 2, "dropout": 0.1},
    diffusion={"image_size": 28, "objective": "pred_v", "beta_schedule": "cosine", "sampling_timesteps": 100},
    training={
        "train_num_steps": 20_000,
        "train_batch_size": 128,
        "train_lr": 1e-3,
        "lr_warmup_steps": 500,
        "lr_schedule": "cosine",
        "ema_update_every": 1,
        "ema_halflife": 250_000,
        "num_samples": 64,
    },
)
# The paper's own (Ho et al. 2020, appendix B).
CIFAR10 = RunConfig(
    data={"name_or_path": "CIFAR10", "channels": 3, "augment_horizontal_flip": True},
    network={
        "dim": 128,
        "dim_mults": [1, 2, 2, 2],
        "resnet_block_groups": 32,
        "attention_resolutions": [2],
        "dropout": 0.1,
    },
    diffusion={"image_size": 32, "beta_schedule": "linear", "sampling_timesteps": 100},
    training={
        "train_num_steps": 800_000,
        "train_batch_size": 128,
        "train_lr": 2e-4,
        "lr_warmup_steps": 5000,
        "adam_betas": [0.9, 0.999],
        "ema_update_every": 1,
        "ema_decay": 0.9999,
        "save_and_sample_every": 5000,
        "num_samples": 64,
    },
)
FOLDER = RunConfig(
    data={"channels": 3, "augment_horizontal_flip": True},
    network={"dim": 64, "dim_mults": [1, 2, 4, 8], "dropout": 0.1},
    diffusion={"image_size": 64, "objective": "pred_v", "beta_schedule": "cosine", "sampling_timesteps": 100},
    training={
        "train_num_steps": 100_000,
        "train_batch_size": 16,
        "train_lr": 1e-4,
        "lr_warmup_steps": 1000,
        "ema_update_every": 1,
        "ema_halflife": 100_000,
        "save_and_sample_every": 1000,
        "num_samples": 25,
    },
)
PRESETS = {"digits": DIGITS, "fashion-mnist": FASHION_MNIST, "cifar10": CIFAR10, "folder": FOLDER}
ALIKE = {
    "mnist": "fashion-mnist",
    "kmnist": "fashion-mnist",
    "qmnist": "fashion-mnist",
    "usps": "fashion-mnist",
    "fashionmnist": "fashion-mnist",
    "cifar10": "cifar10",
    "cifar100": "cifar10",
    "digits": "digits",
}
# Data sets known by name whose images may be mirrored. Letters, digits and signs may not.
MIRRORED = {"cifar10", "cifar100"}


def choose_preset(data: str, preset: str | None = None) -> tuple[str, RunConfig]:
    """The preset that suits the data, or the one that was asked for, with the data in its place.

    Args:
        data: "digits", the name of a torchvision data set, or the path of a folder; "~" is the home directory.
        preset: a preset's name.

    Returns:
        Its name and the run_config. The path of a folder is an absolute one there, so that the run can be taken up from
        anywhere. Data sets whose images mean something else in a mirror are not mirrored.

    Raises:
        ValueError: if there is no preset of that name.
    """
    by_name = known_name(data) is not None
    name = ALIKE.get(canonical(data), "folder") if by_name else "folder"
    name = name if preset is None else preset
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    run_config = PRESETS[name]
    if by_name and canonical(data) not in MIRRORED:
        run_config = run_config.changed("data", augment_horizontal_flip=False)
    path = Path(data).expanduser()
    source = str(path.absolute()) if not by_name and (is_path(data) or path.is_dir()) else data
    return name, run_config.changed("data", name_or_path=source)


def with_overrides(run_config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The run_config with options given as text, such as "network.dropout=0.2".

    Raises:
        ValueError: if one is not of the form part.option=value, its part has no such option, or its value is of the
            wrong kind.
    """
    for text in overrides:
        part, option, value = read_override(text)
        if option == "loss_weighting" and isinstance(value, str):
            value = {"name": value}  # with the numbers that are its defaults
        run_config = RunConfig(**{**asdict(run_config), part: {**getattr(run_config, part), option: value}})
    return run_config


def completed(run_config: RunConfig) -> RunConfig:
    """The run_config with what follows from other parts of it and from the machine.

    The network gets the data's channels, the data the model's size, and a GPU bf16 and processes that load images.
    """
    run_config = run_config.changed("network", channels=run_config.data.get("channels"))
    run_config = run_config.changed("data", image_size=run_config.diffusion["image_size"])
    machine: Mapping[str, Any] = {}
    if torch.cuda.is_available():
        precision = "bf16" if torch.cuda.is_bf16_supported() else "no"
        in_memory = run_config.data.get("name_or_path") == "digits"
        machine = {"mixed_precision": precision, "num_workers": 0 if in_memory else 4}
    return RunConfig(**{**asdict(run_config), "training": {**machine, **run_config.training}})
