"""What `ddpm train` starts from, by the kind of data: presets.toml, read."""

import tomllib
from pathlib import Path

from ddpm.cli.places import absolute
from ddpm.cli.run_config import RunConfig
from ddpm.data.names import canonical, is_path, known_name
from ddpm.io.paths import expanded

PRESETS = {
    name: RunConfig(**parts)
    for name, parts in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}
CIFAR10 = PRESETS["cifar10"]
# Data sets known by name whose images may be mirrored. Letters, digits and signs may not.
_MIRRORED = {"cifar10", "cifar100"}
_ALIKE = {
    "digits": {"digits"},
    "fashion-mnist": {"mnist", "kmnist", "qmnist", "usps", "fashionmnist"},
    "cifar10": _MIRRORED,
}


def choose_preset(data: str, preset: str | None = None) -> tuple[str, RunConfig]:
    """The name of the preset that suits the data, or of the one given, and its run config for the data.

    The path of a folder becomes an absolute one, so that the run can be resumed from anywhere; "~" is the home
    directory. Data sets whose images mean something else in a mirror are not mirrored.
    """
    word, by_name = canonical(data), known_name(data) is not None
    suits = next((name for name, words in _ALIKE.items() if by_name and word in words), "folder")
    name = suits if preset is None else preset
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    run_config = PRESETS[name]
    if by_name and word not in _MIRRORED:
        run_config = run_config.changed("data", augment_horizontal_flip=False)
    path = expanded(data)
    source = absolute(path) if not by_name and data and (is_path(data) or path.is_dir()) else data
    return name, run_config.changed("data", name_or_path=source)
