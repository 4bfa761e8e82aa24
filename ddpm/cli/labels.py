"""Classes on the command line: by the names that a model was saved with, else by their numbers.

What a model cannot do is refused by its configuration, before torch is imported.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm.cli.run_config import RunConfig
from ddpm.data.names import canonical, known_name, suggestion
from ddpm.io.paths import read_config
from ddpm.support.checks import check_number

# How often training hides the labels of a model with classes, if nothing else is said (Ho & Salimans 2022).
_LABEL_DROPOUT = 0.1


def with_classes(run_config: RunConfig, classes: str | None) -> RunConfig:
    """The run config of a run that learns classes of a folder; the model can be guided, unless it is said otherwise."""
    name = known_name(run_config.data["name_or_path"])
    if classes is None:
        return run_config
    if name:
        raise ValueError(
            f"--classes {classes} is for a folder of images; {name} has labels of its own, which a model learns by"
            " --set network.num_classes=10, or as many as there are"
        )
    dropout = run_config.network.get("label_dropout", _LABEL_DROPOUT)
    return run_config.changed("data", classes=classes).changed("network", label_dropout=dropout)


def label_number(folder: Path, label: str) -> int:
    """The number of a class of the model in a folder.

    A name need not be spelled exactly: capitals, hyphens and spaces do not matter where that leaves one class.

    Raises:
        ValueError: if the model has no classes, or not this one; the message has names that are close.
    """
    network, diffusion = _config(folder)
    count, names = network.get("num_classes"), diffusion.get("class_names") or []
    if count is None:
        raise ValueError("this model was trained without classes (num_classes): leave --label out")
    if label in names:
        return names.index(label)
    alike = [number for number, name in enumerate(names) if canonical(name) == canonical(label) != ""]
    if len(alike) == 1:
        return alike[0]
    # Where names are numbers, another number would be taken for one of them.
    if label.isdecimal() and not any(name.isdecimal() for name in names):
        if int(label) < count:
            return int(label)
        raise ValueError(f"this model has the classes 0 … {count - 1}, but got the label {label}")
    known = suggestion(label, names) if names else f"; they have no names, give a number in 0 … {count - 1}"
    raise ValueError(f"this model's classes do not include {label!r}{known}")


def check_guidance(folder: Path, guidance: float | None) -> None:
    """Refuse to guide a model that cannot be guided; a scale of 1, which is none, is for every model with classes."""
    if guidance is None:
        return
    network, _ = _config(folder)
    check_number("--guidance", guidance)
    if network.get("num_classes") is None:
        raise ValueError("this model was trained without classes (num_classes): leave --guidance out")
    if guidance != 1 and not network.get("label_dropout"):
        raise ValueError(
            f"--guidance {guidance:g} needs a model that was also trained without labels, and this one was not: train"
            " one with --set network.label_dropout=0.1"
        )


def _config(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The arguments of the network and of the diffusion of the model in a folder."""
    config = read_config(folder)
    return config["network"], config["diffusion"]
