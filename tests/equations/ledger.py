"""The equation ledger: one entry for every labelled equation of the book, with the wrong formulas it must reject.

A check is a function of the formula. It is run on the implementation in `ddpm`, which must pass, and on every mutant
(a dropped square root, a wrong sign, an index off by one), which must not: that proves that the check can fail.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal

import pytest
from torch import nn

Formula = Callable[..., Any]
Check = Callable[[Formula], None]
How = Literal["symbolic", "quadrature", "exact", "Monte Carlo"]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """One equation and how it is checked.

    Attributes:
        label: the label in the chapters, such as "eq:q-sample".
        how: what kind of independent truth the check uses.
        implementation: the formula as `ddpm` computes it.
        mutants: wrong formulas by the name of their mistake.
        check: takes a formula and raises AssertionError where it is wrong.
        where: what implements the equation, such as "ddpm.gaussians.product"; None if only the page has it.
        error_bar: how far a Monte Carlo mean may be off, such as "5 standard errors of 20,000 draws"; else empty.
    """

    label: str
    how: How
    implementation: Formula
    mutants: Mapping[str, Formula]
    check: Check
    where: str | None
    error_bar: str


LEDGER: dict[str, Entry] = {}
DERIVATIONS: dict[str, Entry] = {}  # algebra done a second time, by SymPy, for equations of the ledger


def equation(
    label: str,
    *,
    how: How,
    implementation: Formula,
    mutants: Mapping[str, Formula],
    where: str | None,
    error_bar: str = "",
) -> Callable[[Check], Callable[..., None]]:
    """Enter a check in the ledger and make a test of it: the implementation must pass and each mutant must fail.

    Args:
        label: the equation's label in the chapters.
        how: what kind of independent truth the check uses.
        implementation: the formula as `ddpm` computes it.
        mutants: at least one wrong formula, by the name of its mistake.
        where: the function, method, property or table that implements the equation, by its full name; the check must
            use it and its docstring must cite the label. None for an equation that only the page has.
        error_bar: how far a Monte Carlo mean may be off, and over how many draws.

    Returns:
        A decorator for `check(formula)`.
    """
    if how == "Monte Carlo" and not error_bar:
        raise ValueError(
            f'{label} is checked by Monte Carlo: say error_bar="5 standard errors of 20,000 draws"'
        )
    return enter_in(LEDGER, label, (how, implementation, mutants), (where, error_bar))


# For a formula of the page alone, if nothing else is said.
exact = partial(equation, how="exact", where=None)
quadrature = partial(equation, how="quadrature", where=None)


def derivation(
    label: str, *, formula: Formula, mutants: Mapping[str, Formula]
) -> Callable[[Check], Callable[..., None]]:
    """Enter a second check of an equation, by algebra: the formula on SymPy's symbols, and wrong ones.

    Args:
        label: the equation's label in the chapters; it has an entry in the ledger as well.
        formula: the right-hand side of the equation, on symbols.
        mutants: at least one wrong formula, by the name of its mistake.

    Returns:
        A decorator for `check(formula)`.
    """
    return enter_in(DERIVATIONS, label, ("symbolic", formula, mutants), (None, ""))


def enter_in(
    ledger: dict[str, Entry],
    label: str,
    claim: tuple[How, Formula, Mapping[str, Formula]],
    place: tuple[str | None, str],
) -> Callable[[Check], Callable[..., None]]:
    """The decorator that enters a check and turns it into a test."""
    how, implementation, mutants = claim
    where, error_bar = place
    if not mutants:
        raise ValueError(f"{label} needs at least one mutant")
    if label in ledger:
        raise ValueError(f"{label} is in the ledger twice")

    def enter(check: Check) -> Callable[..., None]:
        ledger[label] = Entry(label, how, implementation, mutants, check, where, error_bar)

        @pytest.mark.parametrize("mistake", [None, *mutants])
        def test(mistake: str | None) -> None:
            if mistake is None:
                with Watch(where) as watch:
                    check(implementation)
                assert watch.seen, f"{label}: the check never uses {where}, which is said to implement it"
                return
            with pytest.raises(AssertionError):
                check(mutants[mistake])

        test.__doc__ = check.__doc__
        return test

    return enter


def read_ledger() -> dict[str, Entry]:
    """The whole ledger, after all its modules are imported."""
    for path in sorted(HERE.glob("test_*.py")):
        if path.stem not in {"test_ledger", "test_page_checks"}:  # they read the ledger
            importlib.import_module(f"tests.equations.{path.stem}")
    return LEDGER


# What implements an equation


def is_table(where: str) -> bool:
    """Whether a name is that of an attribute which instances have and their class only declares."""
    owner, _, name = where.rpartition(".")
    holder = pkgutil.resolve_name(owner)
    return inspect.isclass(holder) and name in inspect.get_annotations(holder)


def code_of(where: str) -> CodeType:
    """The code of a function, a method or a property."""
    found = pkgutil.resolve_name(where)
    return inspect.unwrap(found.fget if isinstance(found, property) else found).__code__


def documentation(where: str) -> str:
    """The docstring of what has this name; of a table, its lines in the class's list of attributes."""
    if not is_table(where):
        return inspect.getdoc(pkgutil.resolve_name(where)) or ""
    owner, _, name = where.rpartition(".")
    lines = (inspect.getdoc(pkgutil.resolve_name(owner)) or "").split("\n")
    first = next((k for k, line in enumerate(lines) if line.startswith(f"    {name}: ")), len(lines))
    more = [k for k in range(first + 1, len(lines)) if not lines[k].startswith(" " * 8)]
    return "\n".join(lines[first : more[0] if more else len(lines)])


class Watch:
    """Sees whether something is used while a check runs: a function called, or a table read off a module.

    Attributes:
        seen: whether it was used; True from the start where there is nothing to watch.
    """

    def __init__(self, where: str | None) -> None:
        self.seen = not where
        self.is_used = self.recogniser(where) if where else None

    @staticmethod
    def recogniser(where: str) -> Callable[[FrameType], bool]:
        """Tells from a frame that has been entered whether it is the use of `where`."""
        if not is_table(where):
            code = code_of(where)
            return lambda frame: frame.f_code is code
        owner, _, name = where.rpartition(".")
        reads, holder = nn.Module.__getattr__.__code__, pkgutil.resolve_name(owner)
        return lambda frame: (
            frame.f_code is reads
            and frame.f_locals["name"] == name
            and isinstance(frame.f_locals["self"], holder)
            and name
            in frame.f_locals["self"]._buffers  # while it is being built, a module asks whether it has one
        )

    def __enter__(self) -> "Watch":
        if self.is_used:
            sys.setprofile(self.note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_used:
            sys.setprofile(None)

    def note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and self.is_used and self.is_used(frame):
            self.seen = True
            sys.setprofile(None)  # nothing more to learn, and the check goes on at full speed
