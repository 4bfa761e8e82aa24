"""What a check of an exercise is made of: it asks the reader's answer, and says where the reply is off.

A check hands inputs to the answer and compares what comes back with something that does not know the solution: a loop,
a grid, a function of the package. It never reads the answer's source. It is declared with

    @exercise("half-power", "first_below_half(alpha_bar)")
    def _(ask: Ask) -> None:
        ask(table).equals(269)

in which the first word is the label on the page without its `ex-`, and the second is what the reader has to write: a
function, or, without brackets, a value. The module of a chapter is imported by `ddpm.book.exercises`.
"""

import copy
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# So many numbers of a tensor stand in a message; larger ones are shown by their shape.
_LISTED = 8


class UnwrittenError(Exception):
    """The reader has not written anything yet: the stub gives None."""


@dataclass(frozen=True)
class Exercise:
    """One exercise that has a check.

    Attributes:
        name: its label without `ex-`.
        asked: what the reader writes: `name(arguments)` for a function, `name` for a value.
        look: asks the answer and raises AssertionError where it is off.
    """

    name: str
    asked: str
    look: "Callable[[Ask], None]"

    @property
    def is_function(self) -> bool:
        """Whether a function is asked for, and not a value."""
        return self.asked.endswith(")")

    @property
    def answer_name(self) -> str:
        """How the page calls the answer."""
        return self.asked.partition("(")[0]

    @property
    def arguments(self) -> list[str]:
        """The names of the function's arguments; none for a value."""
        return re.findall(r"\w+", self.asked)[1:]

    @property
    def call(self) -> str:
        """The line that runs the check."""
        return f'check("{self.name}", {self.answer_name})'

    @property
    def stub(self) -> str:
        """A cell to fill in, with the check below."""
        if self.is_function:
            return f"def {self.asked}:\n    ...\n\n\n{self.call}"
        return f"{self.answer_name} = ...\n\n{self.call}"


EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, asked: str) -> "Callable[[Callable[[Ask], None]], Callable[[Ask], None]]":
    """Enter a check under its exercise's name."""

    def enter(look: "Callable[[Ask], None]") -> "Callable[[Ask], None]":
        if name in EXERCISES:
            raise ValueError(f"two checks are called {name!r}; an exercise has one")
        EXERCISES[name] = Exercise(name, asked, look)
        return look

    return enter


class Ask:
    """Asks the reader's answer. `ask(a, b)` is what his function gives for these arguments, `ask()` his value."""

    def __init__(self, exercise: Exercise, answer: Any) -> None:
        self.exercise, self.answer, self.replies = exercise, answer, 0
        if exercise.is_function != callable(answer):
            kind = "a function" if exercise.is_function else "a value"
            raise TypeError(
                f"{exercise.name} asks for {kind}, {exercise.asked}, but got {type(answer).__name__}"
            )

    def __call__(self, *given: Any) -> "Reply":
        """The answer's reply. What the reader's function raises goes on, with a note on its arguments.

        A function that cannot do with numbers and lists, because it asks them for what only tensors have, gets them as
        tensors.
        """
        value, words = self.answer, self.exercise.answer_name
        if self.exercise.is_function:
            named = zip(self.exercise.arguments, given, strict=True)
            words += f"({', '.join(f'{name}={shown(x)}' for name, x in named)})"
            self._check_arity(given)
            try:
                try:
                    value = self._answered(given)
                except (TypeError, AttributeError, ArithmeticError):
                    tensors = tuple(map(_as_tensor, given))
                    if all(one is other for one, other in zip(tensors, given, strict=True)):
                        raise
                    value = self._answered(tensors)
            except Exception as error:
                error.add_note(f"raised by your {words}")
                raise
        if value is None or value is ...:
            if self.replies == 0:
                raise UnwrittenError
            raise AssertionError(f"{self.exercise.name}: {words} gives nothing")
        self.replies += 1
        return Reply(value, f"{self.exercise.name}: {words}", self.exercise.is_function)

    def _answered(self, given: tuple[Any, ...]) -> Any:
        """What the function gives for copies of these arguments.

        It may write into them, and seed torch: the check's own inputs and random numbers stay as they are.
        """
        given = tuple(copy.copy(x) if isinstance(x, list) else x for x in given)
        given = tuple(x.contiguous().clone() if isinstance(x, Tensor) else x for x in given)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.replies + 1)
            return self.answer(*given)

    def _check_arity(self, given: tuple[Any, ...]) -> None:
        """Refuse a function that cannot be called with these arguments."""
        try:
            signature = inspect.signature(self.answer)
        except ValueError:  # some built-in functions have none
            return
        try:
            signature.bind(*given)
        except TypeError:
            raise TypeError(
                f"{self.exercise.name} asks for the function {self.exercise.asked}, but yours takes {signature}"
            ) from None


@dataclass(frozen=True)
class Reply:
    """What the answer gave, the words in which a message speaks of it, and whether one may say what is right."""

    value: Any
    words: str
    told: bool = True

    def equals(self, expected: Any, rtol: float = 1e-5, atol: float = 1e-7) -> None:
        """Refuse a reply that is not this number, tensor, word or tuple of such; say where it is off first."""
        found = difference(self.value, expected, rtol, atol, told=self.told)
        assert found is None, f"{self.words} {found}"

    def must(self, holds: Any, words: str) -> None:
        """Refuse a reply of which something does not hold."""
        assert bool(holds), f"{self.words} {words}"

    def listed(self) -> list[Any]:
        """The reply as a list; what is none is refused."""
        self.must(
            isinstance(self.value, list | tuple | set), f"gives {shown(self.value)}, but a list is asked for"
        )
        return list(self.value)

    def numbers(self, *shape: int) -> Tensor:
        """The reply as a tensor of this shape; anything else is refused."""
        found = difference(self.value, torch.zeros(shape), torch.inf, torch.inf)
        assert found is None, f"{self.words} {found}"
        return _numbers(self.value).reshape(shape)  # pyright: ignore[reportOptionalMemberAccess]


def _as_tensor(given: Any) -> Any:
    """Real numbers, and lists of numbers, as a tensor; anything else as it is."""
    if isinstance(given, float):
        return torch.tensor(given)
    numbers = isinstance(given, list) and all(isinstance(x, int | float) for x in given)
    return torch.tensor(given) if numbers else given


def difference(value: Any, expected: Any, rtol: float, atol: float, *, told: bool = True) -> str | None:
    """Where a value differs from what is expected, in words; None where it does not."""
    if isinstance(expected, tuple):
        if getattr(value, "ndim", 0) > 0:  # several values in one tensor or array
            value = list(value)
        if not isinstance(value, tuple | list) or len(value) != len(expected):
            return f"gives {shown(value)}, but {len(expected)} values are asked for"
        for place, pair in enumerate(zip(value, expected, strict=True), start=1):
            found = difference(*pair, rtol, atol, told=told)
            if found:
                return f"{found} (value {place} of {len(expected)})"
        return None
    if isinstance(expected, str | set):
        return None if value == expected else f"gives {shown(value)}, but should give {shown(expected)}"
    return _numeric_difference(value, torch.as_tensor(expected).double(), rtol, atol, told)


def _numeric_difference(value: Any, wanted: Tensor, rtol: float, atol: float, told: bool) -> str | None:
    got = _numbers(value)
    if got is None:
        return f"gives {shown(value)}, but numbers are asked for"
    if wanted.numel() == got.numel() == 1:
        got, wanted = got.reshape(()), wanted.reshape(())
    if got.shape != wanted.shape:
        return f"has the shape {tuple(got.shape)}, but {tuple(wanted.shape)} is asked for"
    # A limit that is infinite still refuses what is no number.
    off = got.isnan() | ((got - wanted).abs() > atol + rtol * wanted.abs() if rtol < torch.inf else False)
    if not off.any():
        return None
    place = tuple(off.nonzero()[0].tolist())
    at = f" at [{', '.join(map(str, place))}]" if place else ""
    if not told:
        return f"gives {shown(got[place])}{at}, which is too {'small' if got[place] < wanted[place] else 'large'}"
    return f"gives {shown(got[place])}{at}, but should give {shown(wanted[place])}"


def _numbers(value: Any) -> Tensor | None:
    """A number, a list or an array as a tensor; None for what is none."""
    if isinstance(value, tuple | list):
        parts = [part for part in map(_numbers, value) if part is not None]
        alike = len(parts) == len(value) and len({part.shape for part in parts}) == 1
        return torch.stack(parts) if alike else None
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        try:
            tensor = torch.tensor(float(value))  # a fraction, or a number of SymPy
        except (TypeError, ValueError):
            return None
    return None if tensor.is_complex() else tensor.double()


def shown(value: Any) -> str:
    """A value in a message: short, and a large tensor by its shape."""
    if isinstance(value, Tensor):
        small = value.numel() <= _LISTED and value.ndim <= 2
        return shown(value.tolist()) if small else f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e12 else f"{value:.6g}"
    if isinstance(value, tuple | list):
        inside = ", ".join(map(shown, value[:_LISTED])) + (", …" if len(value) > _LISTED else "")
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    text = repr(value) if isinstance(value, int | str | set) else ""
    return text if 0 < len(text) <= 60 else f"a {type(value).__name__}"
