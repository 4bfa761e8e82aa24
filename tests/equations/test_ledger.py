"""The ledger has no gap: every label in the chapters has a check, and every check names a label that exists."""

import importlib
import re
from pathlib import Path

import nbformat

from tests.equations.ledger import LEDGER

HERE = Path(__file__).parent
CHAPTERS = HERE.parents[1] / "chapters"
LABEL = re.compile(r"^\s*\$\$\s*\((eq:[a-z0-9-]+)\)\s*$", re.MULTILINE)


def chapter_texts() -> dict[str, str]:
    """The prose of every chapter by file name."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in CHAPTERS.glob("*.md")}
    for path in CHAPTERS.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts[path.name] = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return texts


def stated_labels() -> list[str]:
    """Every equation label in the chapters, with repetitions."""
    return [label for text in chapter_texts().values() for label in LABEL.findall(text)]


def checked_labels() -> set[str]:
    """Every label in the ledger, after all check modules are imported."""
    for path in HERE.glob("test_chapter_*.py"):
        importlib.import_module(f"tests.equations.{path.stem}")
    return set(LEDGER)


def test_every_equation_is_checked() -> None:
    missing = sorted(set(stated_labels()) - checked_labels())
    assert not missing, f"equations without a check in tests/equations: {missing}"


def test_every_check_names_an_equation() -> None:
    unknown = sorted(checked_labels() - set(stated_labels()))
    assert not unknown, f"checks of equations that no chapter states: {unknown}"


def test_labels_are_unique() -> None:
    labels = stated_labels()
    assert len(labels) == len(set(labels)), sorted(label for label in labels if labels.count(label) > 1)


def test_docstrings_cite_only_equations_that_exist() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (HERE.parents[1] / "ddpm").glob("*.py"))
    unknown = sorted(set(re.findall(r"eq:[a-z0-9-]+", sources)) - set(stated_labels()))
    assert not unknown, f"docstrings cite equations that no chapter states: {unknown}"
