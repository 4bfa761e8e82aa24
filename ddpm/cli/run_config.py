"""Everything that a run is made from: changed by overrides, kept in run.json, built into a model and its data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import ddpm
from ddpm.cli.overrides import OPTIONS, check_options, read_override
from ddpm.data.names import DIGITS, NO_DOWNLOAD, TORCHVISION, known_name
from ddpm.io.checkpoint import CHECKPOINTS
from ddpm.io.files import json_bytes, read_json, write_whole
from ddpm.io.paths import RUN, check_run, expanded, locate_model, naming_config, read_config, shipped_model
from ddpm.support.checks import check_image_size
from ddpm.training.config import TrainingConfig
from ddpm.training.recipe import recipe

Options = dict[str, Any]


# What a run is not built without.
_NEEDED = (
    ("data", "name_or_path"),
    ("network", "dim"),
    ("network", "dim_mults"),
    ("diffusion", "image_size"),
)


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run is made from, ready for JSON; making and changing it does not import torch.

    Attributes:
        data: arguments of `ddpm.data.load_dataset`, the name or path among them; a relative `cache` lies in the run.
        network: arguments of `Unet`.
        diffusion: arguments of `GaussianDiffusion`, apart from the network.
        training: arguments of `TrainingConfig`.
        start: the name or folder of the model whose weights it begins with; None for fresh ones.
    """

    data: Options = field(default_factory=dict)
    network: Options = field(default_factory=dict)
    diffusion: Options = field(default_factory=dict)
    training: Options = field(default_factory=dict)
    start: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no option, or of the wrong kind, long before a part is built from it."""
        for part in OPTIONS:
            check_options(part, getattr(self, part))
        if not isinstance(self.start, str | None):
            raise ValueError(
                f"start must be the name or the folder of a model, or null, but got {self.start!r}"
            )
        _ = self.training_config

    @property
    def training_config(self) -> TrainingConfig:
        """The part of training, with its defaults."""
        return TrainingConfig(**self.training)

    def changed(self, part: str, **options: Any) -> "RunConfig":
        """With other options in one of its parts; None leaves an option as it is."""
        given = {name: value for name, value in options.items() if value is not None}
        return replace(self, **{part: getattr(self, part) | given})

    def check_size(self) -> None:
        """Refuse images that the network cannot halve as often as it would; the message has a size that would do."""
        resolutions = len(self.network["dim_mults"])
        height, width = check_image_size(self.diffusion["image_size"])
        factor = 2 ** (resolutions - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"images of {height}×{width} do not fit the network, whose {resolutions} resolutions need sides"
                f" divisible by {factor}: give an --image-size such as {max(1, round(height / factor)) * factor}, or"
                " fewer resolutions by network.dim_mults"
            )

    def started_from(self, model: str) -> tuple["RunConfig", str]:
        """A run that begins with the weights of a model, and has its network and diffusion; and the model in words."""
        found = locate_model(model)
        config = read_config(found.folder)
        start = model if shipped_model(model) == found.folder else str(expanded(model).absolute())
        config["diffusion"].pop("class_names", None)  # of other data
        parts = {part: getattr(self, part) | config[part] for part in ("network", "diffusion")}
        with naming_config(found.folder):
            return replace(self, start=start, **parts), found.said

    def build_diffusion(self, *, start: bool = True) -> "ddpm.GaussianDiffusion":
        """A model to begin with, its weights drawn by the seed of training; a ValueError says which option is wrong.

        Those of the model that the run starts from come on top, unless `start` is false, as for a run that goes on.
        """
        import torch

        from ddpm.io.pretrained import build_diffusion, take_weights

        torch.manual_seed(self.training_config.seed)
        diffusion = build_diffusion({"network": self.network, "diffusion": self.diffusion})
        if start and self.start is not None:
            take_weights(diffusion, self.start)
        return diffusion

    def load_data(self, *, train: bool = True) -> Any:
        """The data set, its training part or its test part; test images are never mirrored."""
        from ddpm.data.datasets import load_dataset

        options: Options = self.data if train else {**self.data, "augment_horizontal_flip": False}
        if options.get("cache") is not None:
            options = options | {"cache": self._within(options["cache"])}
        return load_dataset(**options, train=train)

    def _within(self, cache: str | Path) -> Path:
        """Where a cache lies: in the run's folder, unless its path is absolute."""
        return self.training_config.results_folder / expanded(cache)

    def local_data(self) -> Any:
        """The training data, or None if they would have to be downloaded first.

        No cache is written: a folder that is to have one, and has none of its images as they are, is read as fast as
        with it, but black.
        """
        from ddpm.data.cache import is_fresh
        from ddpm.data.datasets import load_dataset, torchvision_dataset
        from ddpm.data.images import PrepareImage

        options, name = dict(self.data), known_name(self.data["name_or_path"])
        if name not in TORCHVISION:
            cache = options.pop("cache", None)
            prepare = PrepareImage(options.get("image_size"), options.get("channels", 3))
            if (
                cache is None
                or name
                or is_fresh(expanded(options["name_or_path"]), prepare, self._within(cache))
            ):
                return self.load_data()
            data: Any = load_dataset(**options)
            return data.as_if_cached()
        name = options.pop("name_or_path")
        try:
            return torchvision_dataset(name, download=False, **options)
        except RuntimeError as error:
            if known_name(name) in NO_DOWNLOAD or isinstance(error.__cause__, ModuleNotFoundError):
                raise
            return None

    def save(self, folder: Path) -> None:
        """Write it to `run.json`."""
        write_whole(folder / RUN, json_bytes(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> "RunConfig":
        """Read it from the `run.json` of a run that `ddpm train` began, or from what a program's checkpoint tells.

        Raises:
            FileNotFoundError: if it is no run, or its images have gone.
            ValueError: if it cannot be read, or takes what only the program has.
        """
        check_run(folder)
        by_program = None if (folder / RUN).is_file() else recipe(folder)
        try:
            return cls._of(read_json(folder / RUN) if by_program is None else by_program)
        except ValueError as error:
            file = folder / (RUN if by_program is None else CHECKPOINTS)
            raise ValueError(f"{file} cannot be read as the configuration of a run: {error}") from error

    @classmethod
    def _of(cls, parts: Any) -> "RunConfig":
        """Out of JSON, all that has no default included."""
        known = list(asdict(cls()))
        if not isinstance(parts, dict) or not parts.keys() <= set(known):
            given = ", ".join(map(repr, parts)) if isinstance(parts, dict) else repr(parts)
            raise ValueError(f"it holds {', '.join(known)}, but got {given}")
        run_config = cls(**parts)
        missing = [f"{part}.{name}" for part, name in _NEEDED if name not in getattr(run_config, part)]
        if missing:
            raise ValueError(f"{' and '.join(missing)} must be there")
        return run_config


def with_overrides(run_config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The run config with options given as text, such as "network.dropout=0.2"."""
    for text in overrides:
        part, option, value = read_override(text)
        if option == "loss_weighting" and isinstance(value, str):
            # With the numbers that are its defaults.
            value = {"name": value}
        run_config = replace(run_config, **{part: getattr(run_config, part) | {option: value}})
    return run_config


def completed(run_config: RunConfig) -> RunConfig:
    """The run config with what follows from other parts of it and from the machine.

    The network gets the data's channels and classes, the data the model's size, and a GPU processes that load images.
    The precision is that of this machine, unless it was chosen; run.json keeps it, so that a resumed run has the same
    on any other.
    """
    import torch

    from ddpm.data.files import class_folders
    from ddpm.training.precision import with_precision

    run_config = run_config.changed("network", channels=run_config.data.get("channels"))
    run_config = run_config.changed("data", image_size=run_config.diffusion["image_size"])
    if run_config.data.get("classes") == "folders" and run_config.diffusion.get("class_names") is None:
        names = class_folders(Path(run_config.data["name_or_path"]))
        run_config = run_config.changed("diffusion", class_names=names)
        count = run_config.network.get("num_classes") or len(names)
        if count != len(names):
            raise ValueError(
                f"{run_config.data['name_or_path']} has {len(names)} classes, {', '.join(names)}, but the network has"
                f" {count} (num_classes): leave that out, or begin with the weights of another model"
            )
        run_config = run_config.changed("network", num_classes=count)
    machine: Options = {}
    if torch.cuda.is_available():
        in_memory = known_name(run_config.data.get("name_or_path", "")) == DIGITS
        machine = {"num_workers": 0 if in_memory else 4}
    run_config = replace(run_config, training={"mixed_precision": "auto"} | machine | run_config.training)
    precision = with_precision(run_config.training_config).mixed_precision
    return run_config.changed("training", mixed_precision=precision)
