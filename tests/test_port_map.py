"""The map from the MindSpore port: it leaves nothing of the port out, invents nothing, and what it names exists.

tests/port_surface.json was read from the port's source and knows nothing of the table (tools/port_table.toml).
"""

import ast
import importlib
import inspect
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from port_table import NAME, SECTIONS, Name, names

from ddpm import GaussianDiffusion, Trainer, Unet
from tests.runs import model, trainer

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "chapters" / "from-mindspore.md").read_text(encoding="utf-8")
SURFACE = json.loads((ROOT / "tests" / "port_surface.json").read_text(encoding="utf-8"))
CALLABLES = SURFACE["callables"]
OTHERS = {
    f"{owner}.{name}"
    for part in ("attributes", "values")
    for owner, found in SURFACE[part].items()
    for name in found
}
ROWS = [row for section in SECTIONS for row in section.rows]
# What a row without a counterpart must offer: something to write, or that nothing needs to be written.
ADVICE = re.compile(r"`[^`]+`|\bLeave (it|them) out\b")
# The port's example and ours, as the page has them.
QUICK_START = re.compile(r"^```\{code-block\} python\n:emphasize-lines: [\d, ]+\n\n(.*?)^```$", re.M | re.S)
BEFORE, AFTER, *_ = QUICK_START.findall(PAGE)


def mentions(side):
    """What one side of a row mentions: (path, parameter), with an empty parameter for the thing itself."""
    for name in names(side):
        yield from ((name.path, parameter) for parameter in name.parameters or ("",))


MENTIONED = Counter(mention for row in ROWS for mention in mentions(row.theirs))


def test_each_side_of_a_row_is_a_list_of_names():
    listed = re.compile(rf"(?:{NAME.pattern})(?:, (?:{NAME.pattern}))*")
    sides = [side for row in ROWS for side in (row.theirs, row.ours) if side is not None]
    assert [side for side in sides if not listed.fullmatch(side)] == []


def test_every_name_and_parameter_of_the_port_has_one_row_and_no_other_has():
    named = {name.path for row in ROWS for name in names(row.theirs)}
    assert (CALLABLES.keys() | OTHERS) - named == set()
    parameters = {(path, parameter) for path, found in CALLABLES.items() for parameter in found}
    assert parameters - MENTIONED.keys() == set()
    assert MENTIONED.keys() - parameters - {(path, "") for path in CALLABLES.keys() | OTHERS} == set()
    assert [mention for mention, count in MENTIONED.items() if count > 1] == []


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """An object of each class whose attributes come into being with it."""
    diffusion = model()
    running = trainer(tmp_path_factory.mktemp("run"), diffusion)
    return {GaussianDiffusion: diffusion, Unet: diffusion.network, Trainer: running}


def look_up(path, examples):
    """What a dotted path names, by import and attribute; of a class also what only its objects have."""
    parts = path.split(".")
    found = importlib.import_module(parts[0])
    for k, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part) and inspect.ismodule(found):
            found = importlib.import_module(".".join(parts[:k]))
        elif inspect.isclass(found) and isinstance(getattr(found, part, property()), property):
            found = getattr(examples[found], part)
        else:
            found = getattr(found, part)
    return found


def parameters_of(function):
    """The parameters with their defaults; stars belong to the name, as the table writes them."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    found = inspect.signature(function).parameters.values()
    return {stars.get(parameter.kind, "") + parameter.name: parameter.default for parameter in found}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.theirs[:60])
def test_what_a_row_names_here_exists(row, examples):
    assert row.change.endswith(".")
    assert row.ours.startswith(("ddpm", "torch")) if row.ours else ADVICE.search(row.change)
    for name in names(row.ours):
        found = look_up(name.path, examples)
        assert not name.parameters or set(name.parameters) <= parameters_of(found).keys(), name
    for path in re.findall(r"`(?:with )?((?:ddpm|torch|torchvision)(?:\.\w+)+)", row.change):
        look_up(path, examples)


def test_a_default_that_changed_is_mentioned():
    changed = []
    for row in ROWS:
        theirs, ours = (
            [mention for mention in mentions(side) if mention[1]] for side in (row.theirs, row.ours)
        )
        if len(theirs) != len(ours) or not all(path.startswith("ddpm.") for path, _ in ours):
            continue
        for (there, old), (here, new) in zip(theirs, ours, strict=True):
            before, after = CALLABLES[there][old], parameters_of(look_up(here, {}))[new]
            if before is not None and after not in (inspect.Parameter.empty, ast.literal_eval(before)):
                changed += [(row, ast.literal_eval(before)), (row, after)]
    for row, value in changed:
        written = re.escape(f"{value:g}" if isinstance(value, float) else str(value))
        assert re.search(rf"(?<![\w.]){written}(?![\w])", row.change), (row.theirs, value)
    assert "ddm.GaussianDiffusion(loss_type)" in [row.theirs for row, _ in changed]


def test_the_page_shows_every_section_once():
    shown = re.findall(r"^```\{port-map\} ([\w-]+)$", PAGE, re.MULTILINE)
    assert shown == [section.key for section in SECTIONS]


def test_the_quick_start_changes_in_two_lines():
    pairs = zip(BEFORE.splitlines(), AFTER.splitlines(), strict=True)
    start = "import Unet, GaussianDiffusion, Trainer"
    assert [pair for pair in pairs if pair[0] != pair[1]] == [
        (f"from ddm {start}", f"from ddpm {start}"),
        ('    amp_level="O1",', '    mixed_precision="fp16",'),
    ]


def test_the_words_of_the_quick_start_are_known():
    classes = {"Unet": Unet, "GaussianDiffusion": GaussianDiffusion, "Trainer": Trainer}

    def calls(code):
        found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
        return {
            node.func.id: node
            for node in found
            if isinstance(node.func, ast.Name) and node.func.id in classes
        }

    assert calls(BEFORE).keys() == calls(AFTER).keys() == classes.keys()
    for name, call in calls(AFTER).items():
        words = dict.fromkeys(word.arg for word in call.keywords if word.arg)
        inspect.signature(classes[name]).bind(*call.args, **words)
    for name, call in calls(BEFORE).items():
        assert {word.arg for word in call.keywords} <= CALLABLES[f"ddm.{name}"].keys()


@pytest.mark.parametrize("kind", [GaussianDiffusion, Unet, Trainer])
def test_every_word_of_the_port_that_is_not_ours_is_refused_with_advice(kind):
    unknown = CALLABLES[f"ddm.{kind.__name__}"].keys() - inspect.signature(kind).parameters.keys()
    for word in unknown:
        with pytest.raises(TypeError, match=rf"{kind.__name__} has no '{word}': (?!help\()(?!did you mean)"):
            kind(None, None, **{word: None})


@pytest.mark.parametrize("word", ["amp_level", "dynamic_loss_scale", "jit", "akg", "distributed"])
def test_what_the_page_calls_refused_is_refused_with_advice(word, tmp_path):
    (row,) = [row for row in ROWS if ("ddm.Trainer", word) in mentions(row.theirs)]
    assert "refused, with" in row.change.lower()
    with pytest.raises(TypeError, match=rf"{word}.*: \w+"):
        trainer(tmp_path, **{word: None})


def test_names_are_written_without_what_the_section_is_about():
    assert Name("ddm.Trainer", ("jit", "akg")).shown("ddm.Trainer") == ["jit", "akg"]
    assert Name("ddm.Trainer.save", ("milestone",)).shown("ddm.Trainer") == ["save(milestone)"]
    assert Name("ddm.Trainer", ()).shown("ddm.Trainer") == ["ddm.Trainer"]
    assert Name("ddm.ops.inf", ()).shown("ddm.ops") == ["inf"]
