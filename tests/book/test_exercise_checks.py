"""Each exercise has a check, which passes on right answers, the chapter's own first, and refuses wrong ones."""

import ast
import math
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sympy
import torch
from book_numbers import EXERCISE, page_cells, page_files

from ddpm.book import check
from ddpm.book.exercises import EXERCISES
from ddpm.book.exercises.answers import shown
from tests.book.other_answers import OTHER
from tests.equations.page_checks import needed_pieces

MUTANTS = tomllib.loads((Path(__file__).parent / "exercise_mutants.toml").read_text(encoding="utf-8"))
WITHOUT = {
    "four-cool": "asks what becomes of three measures of one trained flow: it answers, and nothing is to be written",
}


@dataclass(frozen=True)
class Solved:
    """An exercise on its page.

    Attributes:
        page: the page's file name.
        text: what is asked.
        before: the code cells that stand before it.
        solution: those of its solution.
    """

    page: str
    text: str
    before: list[str]
    solution: list[str]


def exercises() -> dict[str, Solved]:
    """Every exercise of the book, by its label without `ex-`."""
    found = {}
    for path in page_files():
        before: list[str] = []
        for cell in page_cells(path):
            if cell.cell_type == "code" and "remove-cell" not in cell.metadata.get("tags", []):
                before.append(cell.source)
                continue
            parts = list(EXERCISE.finditer(cell.source)) if cell.cell_type == "markdown" else []
            assert len(parts) <= 1, f"{path.name}: two exercises in one cell"
            for match in parts:
                text = cell.source[match.start() :].partition("```{solution-start}")[0]
                found[match.group(1).removeprefix("ex-")] = (path.stem, text, len(before), before)
    starts = {name: start for name, (_, _, start, _) in found.items()}
    solved = {}
    for name, (page, text, start, cells) in found.items():
        later = [other for key, other in starts.items() if found[key][0] == page and other > start]
        solved[name] = Solved(page, text, cells[:start], cells[start : min(later, default=len(cells))])
    return solved


PAGES = exercises()


@cache
def statements(cell: str) -> list[ast.stmt]:
    """What stands in a cell of code."""
    return ast.parse(cell).body


@cache
def bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of a cell binds."""
    names = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    return names


def definition(name: str, cells: list[str], namespace: dict[str, Any]) -> str:
    """The source that defines a name last; what it needs in turn is put into the namespace."""
    found = [(cell, node) for cell in cells for node in statements(cell) if name in bound(node)]
    cell, node = found[-1]
    source = ast.get_source_segment(cell, node)
    assert source
    for word in {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} - {
        name
    }:
        known = any(word in bound(other) for cell in cells for other in statements(cell))
        if known and word not in namespace and word not in local_names(node):
            namespace[word] = None  # so that two functions which call each other are entered once
            exec(compile(definition(word, cells, namespace), name, "exec"), namespace)
    return source


def local_names(node: ast.stmt) -> set[str]:
    """What a function binds itself."""
    arguments = {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return arguments | stored


def answers(name: str) -> tuple[Any, dict[str, Any]]:
    """The chapter's own answer to an exercise, and wrong ones by the name of the mistake."""
    exercise, solved = EXERCISES[name], PAGES[name]
    namespace: dict[str, Any] = {}
    if not exercise.is_function:
        right = value_of(exercise.answer_name, exercise.call, solved)
        return right, {word: eval(wrong, {"right": right}) for word, (wrong,) in MUTANTS[name].items()}
    source = definition(exercise.answer_name, solved.before + solved.solution, namespace)
    wrongs = {}
    for word, (old, new) in MUTANTS[name].items():
        assert old in source, f"{name}, {word}: the solution does not hold {old!r}"
        wrongs[word] = run(source.replace(old, new), namespace)[exercise.answer_name]
    return run(source, namespace)[exercise.answer_name], wrongs


def run(source: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """What a piece of source leaves behind."""
    namespace = dict(namespace)
    exec(compile(source, "answer", "exec"), namespace)
    return namespace


def value_of(name: str, call: str, solved: Solved) -> Any:
    """A value that the cells of the page compute: those that the one with the check needs."""
    cells = solved.before + solved.solution
    last = next(k for k, source in enumerate(cells) if call in source)
    namespace: dict[str, Any] = {"__name__": "page"}
    dtype = torch.get_default_dtype()
    try:
        for k in needed_pieces(cells, last):
            exec(compile(cells[k], solved.page, "exec"), namespace)
            plt.close("all")
    finally:
        torch.set_default_dtype(dtype)
    return namespace[name]


def test_every_exercise_has_a_check_or_a_reason_for_none() -> None:
    assert sorted(PAGES) == sorted({*EXERCISES, *WITHOUT})
    assert not set(EXERCISES) & set(WITHOUT)
    assert sorted(MUTANTS) == sorted(EXERCISES)
    assert sorted(OTHER) == sorted(EXERCISES)
    assert all(len(mutants) >= 2 for mutants in MUTANTS.values())


@pytest.mark.parametrize("name", EXERCISES)
def test_the_page_says_what_to_write_and_how_to_check_it(name: str) -> None:
    exercise, solved = EXERCISES[name], PAGES[name]
    assert f"`{exercise.asked}`" in solved.text or not exercise.is_function
    assert f"`{exercise.call}`" in solved.text
    assert sum(cell.count(exercise.call) for cell in solved.solution) == 1


@pytest.mark.parametrize("name", EXERCISES)
def test_the_answer_takes_no_name_that_the_chapter_uses(name: str) -> None:
    """In Colab the empty answer stands before the solution, and later cells must not find it in place of their own."""
    earlier = {word for cell in PAGES[name].before for node in statements(cell) for word in bound(node)}
    assert EXERCISES[name].answer_name not in earlier


@pytest.mark.parametrize("name", EXERCISES)
def test_the_check_passes_on_the_solution_and_refuses_the_mutants(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrongs = answers(name)
    capsys.readouterr()
    check(name, right)
    assert capsys.readouterr().out == f"{name}: right\n"
    for mistake, wrong in wrongs.items():
        try:
            check(name, wrong)
        except AssertionError as error:
            refusal = str(error)
        else:
            pytest.fail(f"the check accepts the mistake {mistake!r}")
        assert refusal.startswith(f"{name}: {EXERCISES[name].answer_name}")
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", EXERCISES)
def test_the_check_takes_another_right_answer(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(name, OTHER[name])
    assert capsys.readouterr().out == f"{name}: right\n"


@pytest.mark.parametrize("name", EXERCISES)
def test_an_empty_answer_is_none_yet(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(EXERCISES[name].stub, {"check": check})
    assert capsys.readouterr().out == f"{name}: no answer yet, nothing came back\n"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda *_: 3.5, r"rounds_until\(beta=0.01, limit=0.01\) gives 3.5, but should give 917$"),
        (lambda *_: torch.ones(3), r"has the shape \(3,\), but \(\) is asked for"),
        (lambda *_: "many", "gives 'many', but numbers are asked for"),
        (lambda *_: math.nan, "gives nan, but should give 917"),
        (
            lambda beta, *_: 917 if beta == 0.01 else None,
            r"rounds_until\(beta=0.05, limit=0.3\) gives nothing",
        ),
    ],
)
def test_a_refusal_says_where_the_answer_is_off(answer: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check("how-many-rounds", answer)


@pytest.mark.parametrize(
    ("name", "answer", "message"),
    [
        ("unet-waking", lambda network: network, "gives a Sequential, but a list is asked for"),
        ("level-to-level", lambda *_: 1.0, "gives 1, but 2 values are asked for"),
        ("level-to-level", lambda *_: (1j, 1.0), r"but numbers are asked for \(value 1 of 2\)"),
        ("editing-where", lambda timesteps: [[1] * timesteps], r"has the shape \(1, 100\), but \(2, 101\)"),
        ("two-humps", lambda s: 20 * s, "is no share of variance: it must lie between 0 and 1"),
    ],
)
def test_a_reply_of_another_kind_is_refused(name: str, answer: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(name, answer)


@pytest.mark.parametrize("kind", [list, Fraction, sympy.Rational, np.float64, torch.tensor])
def test_numbers_of_any_kind_are_taken(kind: Any) -> None:
    halves = [1 / 2, 1 / 4, 1 / 3, 2**0.5 / 3, 2**0.5 / 3]
    check("posterior-by-hand", halves if kind is list else tuple(map(kind, halves)))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("how-many-rounds", lambda beta, limit: torch.floor(2 * limit.log() / (1 - beta).log()) + 1),
        ("how-many-rounds", lambda beta, limit: int(np.ceil(2 * np.log(limit) / np.log1p(-beta)))),
        (
            "log-snr-density",
            lambda limit: 2 * Fraction(round(math.atan(math.sinh(limit / 2)) * 1e9), 10**9) / math.pi,
        ),
        ("order-of-steps", lambda betas: ((1 - betas).prod().sqrt(), 1 - (1 - betas).prod())),
        ("mutual-information", lambda snr: sympy.log(1 + sympy.Float(snr), 2) / 2),
    ],
)
def test_a_function_of_numbers_or_of_tensors_is_taken(name: str, answer: Any) -> None:
    check(name, answer)


def test_an_answer_that_writes_into_its_inputs_changes_only_its_own() -> None:
    with pytest.raises(AssertionError, match="gives 0 at"):
        check("evaluation-rounding", lambda pictures, levels: pictures.zero_())  # noqa: ARG005


def test_an_answer_that_seeds_torch_gets_other_inputs_all_the_same() -> None:
    seen = []

    def to_levels(pictures: torch.Tensor, levels: int) -> torch.Tensor:
        torch.manual_seed(3)
        seen.append(pictures.mean().item())
        return (pictures * (levels - 1)).round() / (levels - 1)

    check("evaluation-rounding", to_levels)
    assert len(set(seen)) == 3


def test_a_wrong_value_is_refused_without_the_right_one() -> None:
    with pytest.raises(
        AssertionError, match=r"by_hand gives 0.3, which is too large \(value 2 of 5\)"
    ) as found:
        check("posterior-by-hand", (0.5, 0.3, 0.0, 0.0, 0.0))
    assert "should" not in str(found.value)
    with pytest.raises(AssertionError, match="but 5 values are asked for"):
        check("posterior-by-hand", 0.5)


@pytest.mark.parametrize(
    ("name", "answer", "error", "message"),
    [
        ("half-life", len, ValueError, "unknown exercise 'half-life'; did you mean .*training-half-life"),
        (3, len, ValueError, "There are: .*how-many-rounds, scrambled-cat"),
        ("jump", len, ValueError, "There are: "),
        ("half-power", 269, TypeError, r"asks for a function, first_below_half\(alpha_bar\), but got int"),
        (
            "posterior-by-hand",
            len,
            TypeError,
            "asks for a value, by_hand, but got builtin_function_or_method",
        ),
        (
            "level-to-level",
            lambda s, t: s + t,
            TypeError,
            r"jump\(alpha_bar, s, t\), but yours takes \(s, t\)",
        ),
    ],
)
def test_bad_use_is_told_apart_from_a_wrong_answer(
    name: Any, answer: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check(name, answer)


def test_an_error_of_the_answer_goes_on_with_a_note() -> None:
    with pytest.raises(ZeroDivisionError) as found:
        check("how-many-rounds", lambda *_: 1 / 0)
    assert found.value.__notes__ == ["raised by your rounds_until(beta=0.01, limit=0.01)"]


@pytest.mark.parametrize("name", ["scrambled-cat", "evaluation-permutation"])
def test_a_check_leaves_the_random_numbers_and_the_precision_alone(name: str) -> None:
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    check(name, answers(name)[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    with pytest.raises(AssertionError):
        check(name, lambda *_: 2.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype


def test_a_long_value_is_shown_short() -> None:
    assert shown(torch.zeros(9, 2)) == "a tensor of shape (9, 2)"
    assert shown(torch.tensor([0.123456789])) == "[0.123457]"
    assert shown((1, 2.5, "x")) == "(1, 2.5, 'x')"
    assert len(shown([1] * 100)) < 60
    assert shown(len) == "a builtin_function_or_method"


def test_checks_need_no_drawing() -> None:
    code = "import sys; from ddpm.book import check; print([n for n in ('matplotlib', 'skimage') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
