"""Every check on a page rejects the mutants that the ledger has for its equation."""

import pytest

from tests.equations.ledger import read_ledger
from tests.equations.page_checks import CHAPTERS, PageCheck, needed_pieces, page_checks, survivors
from tests.equations.test_ledger import stated_labels

CHECKS, LEDGER = page_checks(), read_ledger()


@pytest.mark.parametrize("label", CHECKS)
def test_page_check_rejects_the_mutants(label: str) -> None:
    alive = survivors(CHECKS[label])
    assert not alive, f"the check on the page accepts: {alive}"


def test_every_equation_is_checked_on_its_page() -> None:
    assert sorted(CHECKS) == sorted(stated_labels())


@pytest.mark.parametrize("label", CHECKS)
def test_page_check_knows_every_mutant_of_the_ledger(label: str) -> None:
    check, known = CHECKS[label], set(LEDGER[label].mutants)
    assert (set(check.mutants) | set(check.cannot)) == known
    assert not set(check.mutants) & set(check.cannot)
    assert all(len(reason) > 20 for reason in check.cannot.values())
    assert check.mutants


@pytest.mark.parametrize(
    ("pieces", "needed"),
    [
        (
            ["import math", "a = 1", "b = []", "c = 3", "b.append(a)", "def f(): return b", "f()[0]"],
            [0, 1, 2, 4, 5, 6],
        ),
        (["a = 1", "a = 2", "a"], [1, 2]),
        (["a = 1", "a = a + 1", "a"], [0, 1, 2]),
        (["a = 1", "a += 1", "a"], [0, 1, 2]),
        (["t = 1", "for t in range(3):\n    t"], [1]),
        (["x = 1", "def f(x):\n    y = x\n    return y", "f(2)"], [1, 2]),
        (["d = {}", "d['a'] = 1", "d"], [0, 1, 2]),
        (["x = 1", "for t in range(3):\n    x = t\n    x"], [1]),
        (["x = 1", "for t in range(3):\n    x += t", "x"], [0, 1, 2]),
        (["def f(): return a", "a = 1", "f()"], [0, 1, 2]),
        (["x = 1", "with a() as x:\n    y = x", "y"], [1, 2]),
        (["net = Net()", "zero_(net.weight)", "print(net.weight)", "net"], [0, 1, 3]),
        (["net = Net()", "for x in data:\n    net(x).backward()", "net"], [0, 1, 2]),
    ],
)
def test_needed_pieces_follow_what_is_read_and_changed(pieces: list[str], needed: list[int]) -> None:
    assert needed_pieces(pieces, len(pieces) - 1) == needed


def test_a_check_that_accepts_a_mutant_is_found() -> None:
    page = next(iter(CHECKS.values())).page
    same = PageCheck("eq:none", page, "import math", mutants={"nothing changed": "import math "})
    assert survivors(same) == ["nothing changed"]
    assert (CHAPTERS / f"{page}.ipynb").exists()
