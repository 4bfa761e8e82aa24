"""The map from the MindSpore port: it leaves nothing of the port out, invents nothing, and what it names exists.

tests/port_surface.json was read from the port's source and knows nothing of the table (tools/port_table.toml).
"""

import ast
import importlib
import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from port_table import NAME, SECTIONS, Name, Row, names

from ddpm import GaussianDiffusion, Trainer, Unet
from tests.runs import model, trainer

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "chapters" / "from-mindspore.md"
SURFACE = json.loads((ROOT / "tests" / "port_surface.json").read_text(encoding="utf-8"))
CALLABLES: dict[str, dict[str, str | None]] = SURFACE["callables"]
OTHERS = {
    f"{owner}.{name}"
    for part in ("attributes", "values")
    for owner, found in SURFACE[part].items()
    for name in found
}
ROWS = [row for section in SECTIONS for row in section.rows]
# What a row without a counterpart must offer: something to write, or that nothing needs to be written.
ADVICE = re.compile(r"`[^`]+`|\bLeave (it|them) out\b")


def mentions(side: str | None) -> Iterator[tuple[str, str]]:
    """What one side of a row speaks of: (path, parameter), with an empty parameter for the thing itself."""
    for name in names(side):
        yield from ((name.path, parameter) for parameter in name.parameters or ("",))


def test_each_side_of_a_row_is_a_list_of_names() -> None:
    listed = re.compile(rf"(?:{NAME.pattern})(?:, (?:{NAME.pattern}))*")
    sides = [side for row in ROWS for side in (row.theirs, row.ours) if side is not None]
    assert [side for side in sides if not listed.fullmatch(side)] == []


def test_every_name_and_parameter_of_the_port_has_a_row() -> None:
    named = {name.path for row in ROWS for name in names(row.theirs)}
    assert (CALLABLES.keys() | OTHERS) - named == set()
    spoken_of = {mention for row in ROWS for mention in mentions(row.theirs)}
    parameters = {(path, parameter) for path, found in CALLABLES.items() for parameter in found}
    assert parameters - spoken_of == set()


def test_no_row_names_what_the_port_does_not_have() -> None:
    there = {(path, parameter) for path, found in CALLABLES.items() for parameter in ("", *found)}
    there |= {(path, "") for path in OTHERS}
    assert {mention for row in ROWS for mention in mentions(row.theirs)} - there == set()


def test_nothing_has_two_rows() -> None:
    counted = Counter(mention for row in ROWS for mention in mentions(row.theirs))
    assert [mention for mention, count in counted.items() if count > 1] == []


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[type, Any]:
    """An object of each class whose attributes come into being with it."""
    diffusion = model()
    running = trainer(tmp_path_factory.mktemp("run"), diffusion)
    return {GaussianDiffusion: diffusion, Unet: diffusion.network, Trainer: running}


def look_up(path: str, examples: dict[type, Any]) -> Any:
    """What a dotted path names, by import and attribute; of a class also what only its objects have."""
    parts = path.split(".")
    found = importlib.import_module(parts[0])
    for k, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part) and inspect.ismodule(found):
            found = importlib.import_module(".".join(parts[:k]))
        elif not hasattr(found, part) and inspect.isclass(found):
            found = getattr(examples[found], part)
        else:
            found = getattr(found, part)
            if isinstance(found, property):  # of an object it has a value, and the path may go on
                owner: Any = look_up(".".join(parts[: k - 1]), examples)
                found = getattr(examples[owner], part)
    return found


def parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters with their defaults; stars belong to the name, as the table writes them."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    found = inspect.signature(function).parameters.values()
    return {stars.get(parameter.kind, "") + parameter.name: parameter.default for parameter in found}


@pytest.mark.parametrize("row", [row for row in ROWS if row.ours], ids=lambda row: row.theirs[:60])
def test_what_a_row_names_here_exists(row: Row, examples: dict[type, Any]) -> None:
    assert row.ours
    assert row.ours.startswith(("ddpm", "torch"))
    for name in names(row.ours):
        found = look_up(name.path, examples)
        assert not name.parameters or set(name.parameters) <= parameters_of(found).keys(), name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.theirs[:60])
def test_what_a_row_speaks_of_exists_and_is_a_sentence(row: Row, examples: dict[type, Any]) -> None:
    assert re.search(r"[.]$", row.change)
    assert row.ours or ADVICE.search(row.change)
    for path in re.findall(r"`(?:with )?((?:ddpm|torch|torchvision)(?:\.\w+)+)", row.change):
        look_up(path, examples)


def default_pairs(row: Row) -> Iterator[tuple[Any, Any]]:
    """The defaults there and here of each parameter that a row maps to one of this package."""
    theirs, ours = ([mention for mention in mentions(side) if mention[1]] for side in (row.theirs, row.ours))
    if len(theirs) != len(ours) or not all(path.startswith("ddpm.") for path, _ in ours):
        return
    for (there, old), (here, new) in zip(theirs, ours, strict=True):
        before, after = CALLABLES[there][old], parameters_of(look_up(here, {}))[new]
        if before is not None and after is not inspect.Parameter.empty:
            yield ast.literal_eval(before), after


def test_a_default_that_changed_is_spoken_of() -> None:
    changed = []
    for row in ROWS:
        for before, after in default_pairs(row):
            if before != after:
                changed.append(row.theirs)
                for value in (before, after):
                    written = f"{value:g}" if isinstance(value, float) else str(value)
                    assert re.search(rf"(?<![\w.]){re.escape(written)}(?![\w])", row.change), (
                        row.theirs,
                        value,
                    )
    assert "ddm.GaussianDiffusion(loss_type)" in changed


def test_the_page_shows_every_section_once() -> None:
    shown = re.findall(r"^```\{port-map\} ([\w-]+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert shown == [section.key for section in SECTIONS]


# The quick start


def quick_starts() -> tuple[str, str]:
    """The port's example and ours, as the page has them."""
    before, after, *_ = re.findall(
        r"^```\{code-block\} python\n:emphasize-lines: [\d, ]+\n\n(.*?)^```$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    return before, after


def test_the_quick_start_changes_in_two_lines() -> None:
    before, after = (code.splitlines() for code in quick_starts())
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert changed == [
        (
            "from ddm import Unet, GaussianDiffusion, Trainer",
            "from ddpm import Unet, GaussianDiffusion, Trainer",
        ),
        ('    amp_level="O1",', '    mixed_precision="fp16",'),
    ]


def test_the_words_of_the_quick_start_are_known() -> None:
    before, after = (ast.parse(code) for code in quick_starts())
    classes = {"Unet": Unet, "GaussianDiffusion": GaussianDiffusion, "Trainer": Trainer}

    def calls(code: ast.Module) -> dict[str, ast.Call]:
        found = [
            node for node in ast.walk(code) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        return {node.func.id: node for node in found if node.func.id in classes}  # pyright: ignore

    assert calls(before).keys() == calls(after).keys() == classes.keys()
    for name, call in calls(after).items():
        inspect.signature(classes[name]).bind(
            *call.args, **{word.arg: None for word in call.keywords if word.arg}
        )
    for name, call in calls(before).items():
        assert {word.arg for word in call.keywords} <= CALLABLES[f"ddm.{name}"].keys()


@pytest.mark.parametrize("word", ["amp_level", "dynamic_loss_scale", "jit", "akg", "distributed"])
def test_what_the_page_calls_refused_is_refused_with_advice(word: str, tmp_path: Path) -> None:
    (row,) = [row for row in ROWS if ("ddm.Trainer", word) in mentions(row.theirs)]
    assert "refused, with" in row.change.lower()
    with pytest.raises(TypeError, match=rf"{word}.*: \w+"):
        trainer(tmp_path, **{word: None})


def test_names_are_written_without_what_the_section_is_about() -> None:
    assert Name("ddm.Trainer", ("jit", "akg")).shown("ddm.Trainer") == ["jit", "akg"]
    assert Name("ddm.Trainer.save", ("milestone",)).shown("ddm.Trainer") == ["save(milestone)"]
    assert Name("ddm.Trainer", ()).shown("ddm.Trainer") == ["ddm.Trainer"]
    assert Name("ddm.ops.inf", ()).shown("ddm.ops") == ["inf"]
