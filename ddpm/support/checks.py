"""The guards: each says what was given and what is allowed. Public entry points call them; the maths below does not.

Those of numbers give them back as Python's own, whatever they came as, so that JSON can hold them. Those of tensors are
in `ddpm.support.tensor_checks`. Importing this does not import torch: the command line needs it earlier.
"""

import inspect
import math
import reprlib
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

# What `torch.Generator.manual_seed` takes.
_SEEDS = (-(2**63), 2**64 - 1)
# The largest whole number that torch takes, and the longest side of an image; more is a slip.
_LARGEST, _LONGEST_SIDE = 2**63 - 1, 2**16
_SHORTENED = reprlib.Repr()
_SHORTENED.maxstring = _SHORTENED.maxother = 100


def shown(value: Any) -> str:
    """A value as a message shows it: arrays and tensors by their type and shape, others shortened."""
    if getattr(value, "ndim", 0) and hasattr(value, "dtype"):
        return (
            f"{type(value).__module__}.{type(value).__name__} of {value.dtype} and shape {tuple(value.shape)}"
        )
    return _SHORTENED.repr(value)


# Numbers and words


def plain_number(value: Any) -> int | float | None:
    """Python's own number for one of Python, NumPy or a tensor without dimensions; None for all else, bool too."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def plain_numbers(values: Any) -> list[int | float | None]:
    """Python's own numbers for those of a list, a tuple, a range, an array or a tensor; none for all else."""
    listed = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        return []
    return list(map(plain_number, listed))


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse an unknown word, naming the known ones."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"unknown {name} {shown(value)}; choose one of {', '.join(map(repr, allowed))}")


def check_whole(name: str, value: Any, lowest: int = 1, highest: int | None = None) -> int:
    """The whole number, as Python's own; anything else (a bool too), or one out of range, is refused."""
    number = plain_number(value)
    most = _LARGEST if highest is None else highest
    if not isinstance(number, int) or not lowest <= number <= most:
        too_large = isinstance(number, int) and number > most
        allowed = f"of at least {lowest}" if highest is None and not too_large else f"in {lowest} … {most}"
        raise ValueError(f"{name} must be a whole number {allowed}, but got {shown(value)}")
    return int(number)


def check_wholes(name: str, values: Any, lowest: int = 1) -> list[int]:
    """The whole numbers of a list, a tuple, an array or a tensor, as Python's own."""
    numbers = [int(n) for n in plain_numbers(values) if isinstance(n, int) and lowest <= n <= _LARGEST]
    if not hasattr(values, "__len__") or len(numbers) != len(values):
        raise ValueError(
            f"{name} must be a list of whole numbers of at least {lowest}, such as [1, 2], but got {shown(values)}"
        )
    return numbers


def check_number(
    name: str, value: Any, *, above: float = -math.inf, at_least: float = -math.inf, below: float = math.inf
) -> float:
    """The number, as Python's own; anything but finite numbers in the range is refused."""
    number = plain_number(value)
    finite = number is not None and abs(number) <= sys.float_info.max
    if number is None or not (finite and number > above and number >= at_least and number < below):
        limits = {"above": above, "at least": at_least, "below": below}
        allowed = " and".join(f" {word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
        raise ValueError(f"{name} must be a number{allowed}, but got {shown(value)}")
    return number


def check_numbers(name: str, values: Any, **limits: float) -> list[float]:
    """The numbers of a list, a tuple, an array or a tensor, as Python's own, each within the limits."""
    if not hasattr(values, "__len__") or len(values) != len(given := plain_numbers(values)):
        raise ValueError(f"{name} must be a list of numbers, such as [0.9, 0.99], but got {shown(values)}")
    return [check_number(f"each of {name}", number, **limits) for number in given]


def check_unit(name: str, value: Any, meaning: str) -> float:
    """The number, as Python's own; refused outside [0, 1]; `meaning` says what the ends stand for."""
    number = plain_number(value)
    if number is None or not 0 <= number <= 1:
        raise ValueError(f"{name} must lie in [0, 1]: {meaning}; but got {shown(value)}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """The truth value, as Python's own; numbers and words are refused."""
    flag = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    if not isinstance(flag, bool):
        raise ValueError(f"{name} must be True or False, but got {shown(value)}")
    return flag


def check_class_names(names: Any, count: int | None) -> list[str] | None:
    """One name per class, all different, as a list; None stays None."""
    if names is None:
        return None
    listed: list[Any] = list(names) if isinstance(names, Sequence) and not isinstance(names, str) else [None]
    if not all(isinstance(name, str) and name for name in listed) or len({*listed}) != len(listed):
        raise ValueError(f"class_names must be a list of different words, but got {shown(names)}")
    if len(listed) != count:
        has = "no classes (num_classes)" if count is None else f"{count} classes"
        raise ValueError(
            f"class_names must be one for each class, but got {len(listed)}; the network has {has}"
        )
    return listed


def check_image_size(image_size: Any) -> tuple[int, int]:
    """(height, width) from one number or a pair, each at least 1."""
    single = plain_number(image_size) is not None
    size = plain_numbers([image_size, image_size] if single else image_size)
    if len(size) != 2 or not all(isinstance(side, int) and 1 <= side <= _LONGEST_SIDE for side in size):
        raise ValueError(
            "image_size must be one whole number >= 1 or a pair of them, each at most"
            f" {_LONGEST_SIDE}, but got {shown(image_size)}"
        )
    return int(size[0] or 0), int(size[1] or 0)


def check_seeds(seeds: Any, batch_size: int) -> list[int]:
    """One seed per image, as Python's own numbers, of a list, a range, an array or a tensor."""
    listed = seeds.tolist() if hasattr(seeds, "tolist") else seeds
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise ValueError(
            f"seeds must be a list of whole numbers, one per image, such as range({batch_size}), but got {shown(seeds)}"
        )
    if len(listed) != batch_size:
        raise ValueError(
            f"seeds must hold one number per image: batch_size is {batch_size}, but got {len(listed)} seeds"
        )
    return [check_whole("each of seeds", seed, *_SEEDS) for seed in listed]


def check_grid(grid: Any, timesteps: int) -> list[int]:
    """Timesteps as Python's own numbers; refused if they do not fall strictly from T to 0."""
    steps = [int(t) for t in plain_numbers(grid) if isinstance(t, int)]
    if not hasattr(grid, "__len__") or len(steps) != len(grid):
        raise TypeError(
            f"the timesteps must be whole numbers that fall strictly from {timesteps} (T) to 0, but got {shown(grid)}"
        )
    falls = len(steps) > 1 and all(t > s for t, s in pairwise(steps))
    if not falls or steps[0] != timesteps or steps[-1] != 0:
        raise ValueError(f"the timesteps must fall strictly from {timesteps} (T) to 0, but got {steps}")
    return steps


# Models and sources of noise


def how_to_unwrap(given: object, is_wanted: Callable[[Any], bool]) -> str:
    """For a message: what to give in place of a wrapper, such as DataParallel or an average; "" where it is none."""
    held = [name for name in ("module", "ema_model") if is_wanted(getattr(given, name, None))]
    return f"give its `.{held[0]}`" if held else ""


def how_to_model(given: object, is_wanted: Callable[[Any], bool]) -> str:
    """For a message: what to give as a model, of a wrapper or of a network."""
    return (
        how_to_unwrap(given, is_wanted) or "around a network that is GaussianDiffusion(network, image_size=…)"
    )


def check_denoiser(model: object) -> None:
    """Refuse what is no model to sample with, such as a bare network."""
    if not _is_denoiser(model):
        raise TypeError(
            f"a model with `schedule` and `predict` is needed, but got a {type(model).__name__};"
            f" {how_to_model(model, _is_denoiser)}"
        )


def _is_denoiser(model: object) -> bool:
    """Whether it has what samplers ask for."""
    return hasattr(model, "schedule") and hasattr(model, "predict")


def check_call(network: Any) -> None:
    """Refuse a network whose `forward` does not take images, timesteps and labels."""
    try:
        signature = inspect.signature(network.forward)
    except ValueError:  # of a traced one, which has none
        return
    try:
        signature.bind("x_t", "t", "labels")
    except TypeError as error:
        raise TypeError(
            "a network is called as network(x_t, t, labels), where labels are None if there are no classes, but the"
            f" forward of this {type(network).__name__} takes {signature}; add an argument labels=None"
        ) from error


def check_generator(generator: Any, *, single: bool = False) -> None:
    """Refuse a source of noise that is none, such as a seed, or one of NumPy, or, where a `single` one is due, many."""
    if generator is None:
        return
    import torch

    many = isinstance(generator, Sequence) and not isinstance(generator, str)
    for one in generator if many and not single else [generator]:
        if not isinstance(one, torch.Generator):
            advice = "of a seed that is torch.Generator().manual_seed(seed)"
            advice = "only samplers take one for each image" if many and single else advice
            raise TypeError(f"generator must be a torch.Generator, but got {shown(one)}; {advice}")
