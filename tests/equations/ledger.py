"""The equation ledger: one entry for every labelled equation of the book, with the wrong formulas it must reject.

A check is a function of the formula. It is run on the implementation in `ddpm`, which must pass, and on every mutant
(a dropped square root, a wrong sign, an index off by one), which must not: that proves that the check can fail.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

Formula = Callable[..., Any]
How = Literal["symbolic", "quadrature", "exact", "Monte Carlo"]


@dataclass(frozen=True)
class Entry:
    """One equation and how it is checked.

    Attributes:
        label: the label in the chapters, such as "eq:q-sample".
        how: what kind of independent truth the check uses.
        implementation: the formula as `ddpm` computes it.
        mutants: wrong formulas by the name of their mistake.
        check: takes a formula and raises AssertionError where it is wrong.
    """

    label: str
    how: How
    implementation: Formula
    mutants: Mapping[str, Formula]
    check: Callable[[Formula], None]


LEDGER: dict[str, Entry] = {}


def equation(
    label: str, *, how: How, implementation: Formula, mutants: Mapping[str, Formula]
) -> Callable[[Callable[[Formula], None]], Callable[..., None]]:
    """Enter a check in the ledger and make a test of it: the implementation must pass and each mutant must fail.

    Args:
        label: the equation's label in the chapters.
        how: what kind of independent truth the check uses.
        implementation: the formula as `ddpm` computes it.
        mutants: at least one wrong formula, by the name of its mistake.

    Returns:
        A decorator for `check(formula)`.
    """
    if not mutants:
        raise ValueError(f"{label} needs at least one mutant")
    if label in LEDGER:
        raise ValueError(f"{label} is in the ledger twice")

    def enter(check: Callable[[Formula], None]) -> Callable[..., None]:
        LEDGER[label] = Entry(label, how, implementation, mutants, check)

        @pytest.mark.parametrize("mistake", [None, *mutants])
        def test(mistake: str | None) -> None:
            if mistake is None:
                check(implementation)
                return
            with pytest.raises(AssertionError):
                check(mutants[mistake])

        test.__doc__ = check.__doc__
        return test

    return enter
