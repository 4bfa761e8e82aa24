"""A sampler by its name, with the options that it takes."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, get_args

from ddpm.samplers import State, ancestral, ddim, dpm_solver_pp, heun
from ddpm.support.checks import check_choice, check_whole

Sampler = Literal["ancestral", "ddim", "heun", "dpm++"]

_SAMPLERS: dict[str, tuple[Callable[..., Iterator[State]], set[str]]] = {
    "ancestral": (ancestral, {"variance"}),
    "ddim": (ddim, {"spacing", "eta"}),
    "heun": (heun, {"spacing"}),
    "dpm++": (dpm_solver_pp, {"spacing"}),
}


def choose(
    sampler: Sampler | None, steps: int, timesteps: int, own: Mapping[str, Any], **given: Any
) -> partial[Iterator[State]]:
    """The sampler of this name for this many steps, to be called with the model and x_T.

    None takes "ancestral" for T steps, unless it is given an option of DDIM, and "ddim" otherwise. Options that are
    None are not given; `own` are what then stands for them.

    Raises:
        ValueError: if the name or the number of steps is not possible, or an option is one of other samplers.
    """
    steps = check_whole("sampling_timesteps", steps, highest=timesteps)
    given = {name: value for name, value in given.items() if value is not None}
    if sampler is None:
        sampler = "ancestral" if steps == timesteps and not given.keys() & _SAMPLERS["ddim"][1] else "ddim"
    check_choice("sampler", sampler, get_args(Sampler))
    walk, takes = _SAMPLERS[sampler]
    for name in given.keys() - takes:
        others = " or ".join(repr(other) for other, (_, taken) in _SAMPLERS.items() if name in taken)
        raise ValueError(f"{name} is for sampler {others}, but the sampler is {sampler!r}")
    options = {name: value for name, value in own.items() if name in takes} | given
    if sampler != "ancestral":
        return partial(walk, steps=steps, **options)
    if steps != timesteps:
        raise ValueError(
            f"ancestral sampling takes all T = {timesteps} timesteps, but {steps} steps were asked for;"
            ' use sampler="ddim" (eta=1 has the same noise)'
        )
    return partial(walk, **options)


def sampler_name(chosen: partial[Iterator[State]]) -> str:
    """The name of what `choose` gave; `chosen.keywords` are its options, and its steps but for "ancestral"."""
    return next(name for name, (walk, _) in _SAMPLERS.items() if walk is chosen.func)
