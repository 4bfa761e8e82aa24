"""The ledger has no gap: every label in the chapters has a check, every check a label, and both name the same code."""

import re
from pathlib import Path

import nbformat
import pytest

from tests.equations.ledger import (
    DERIVATIONS,
    Entry,
    Watch,
    documentation,
    equation,
    is_table,
    read_ledger,
)

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "ddpm"
CHAPTERS = HERE.parents[1] / "chapters"
LABEL = re.compile(r"^\s*\$\$\s*\((eq:[a-z0-9-]+)\)\s*$", re.MULTILINE)
CITED = re.compile(r"eq:[a-z0-9-]+")
ENTRIES = read_ledger()


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


def cited_labels() -> set[str]:
    """Every label that a docstring or a comment of the package names."""
    return {
        label for path in PACKAGE.glob("*.py") for label in CITED.findall(path.read_text(encoding="utf-8"))
    }


def implemented_here() -> list[Entry]:
    """The entries of equations that the package implements; the rest are on the page only, or in a library."""
    return [entry for entry in ENTRIES.values() if (entry.where or "").startswith("ddpm.")]


def test_every_equation_is_checked() -> None:
    missing = sorted(set(stated_labels()) - set(ENTRIES))
    assert not missing, f"equations without a check in tests/equations: {missing}"


def test_every_check_names_an_equation() -> None:
    unknown = sorted(set(ENTRIES) - set(stated_labels()))
    assert not unknown, f"checks of equations that no chapter states: {unknown}"


def test_every_derivation_names_an_equation_of_the_ledger() -> None:
    unknown = sorted(set(DERIVATIONS) - set(ENTRIES))
    assert not unknown, f"derivations of equations that are not in the ledger: {unknown}"


def test_labels_are_unique() -> None:
    labels = stated_labels()
    assert len(labels) == len(set(labels)), sorted(label for label in labels if labels.count(label) > 1)


def test_docstrings_cite_only_equations_that_exist() -> None:
    unknown = sorted(cited_labels() - set(stated_labels()))
    assert not unknown, f"docstrings cite equations that no chapter states: {unknown}"


def test_what_implements_an_equation_cites_it() -> None:
    def cites(entry: Entry) -> bool:
        return entry.label in CITED.findall(documentation(entry.where or ""))

    silent = sorted(f"{entry.where}: {entry.label}" for entry in implemented_here() if not cites(entry))
    assert not silent, f"docstrings that do not cite the equation which they implement: {silent}"


def test_a_cited_equation_has_an_implementation() -> None:
    """A docstring that cites a label makes a promise; the ledger must know what keeps it."""
    only_on_the_page = {label for label, entry in ENTRIES.items() if not entry.where}
    assert not sorted(cited_labels() & only_on_the_page)


# The ledger's own machinery can fail as well


def test_an_entry_needs_a_mutant() -> None:
    with pytest.raises(ValueError, match="at least one mutant"):
        equation("eq:none", how="exact", where=None, implementation=abs, mutants={})(lambda _: None)


def test_a_label_has_one_entry_only() -> None:
    with pytest.raises(ValueError, match="twice"):
        equation("eq:q-sample", how="exact", where=None, implementation=abs, mutants={"sign": abs})(
            lambda _: None
        )


def test_monte_carlo_needs_an_error_bar() -> None:
    with pytest.raises(ValueError, match="error_bar"):
        equation("eq:none", how="Monte Carlo", where=None, implementation=abs, mutants={"sign": abs})


def test_a_wrong_name_of_an_implementation_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no_such_function"):
        Watch("ddpm.gaussians.no_such_function")
    with pytest.raises(AttributeError, match="no_such_table"):
        Watch("ddpm.schedule.NoiseSchedule.no_such_table")


@pytest.mark.parametrize("kind", ["function", "method", "property", "table"])
def test_the_watch_sees_what_is_used_and_nothing_else(kind: str) -> None:
    import torch

    from ddpm import NoiseSchedule
    from ddpm.gaussians import log_density
    from ddpm.likelihood import VariationalBound

    schedule, zero = NoiseSchedule([0.1, 0.2]), torch.zeros(2)
    bound = VariationalBound(zero, torch.zeros(2, 3), 1)
    where, use = {
        "function": ("ddpm.gaussians.log_density", lambda: log_density(zero, zero, zero)),
        "method": ("ddpm.likelihood.VariationalBound.bits_per_dim", lambda: bound.bits_per_dim(zero)),
        "property": ("ddpm.likelihood.VariationalBound.total", lambda: bound.total),
        "table": ("ddpm.schedule.NoiseSchedule.alpha_bar", lambda: schedule.alpha_bar),
    }[kind]
    with Watch(where) as watch:
        use()
    assert watch.seen
    with Watch(where) as watch:
        (NoiseSchedule([0.1, 0.2]), schedule.beta, bound.denoising, zero + 1)
    assert not watch.seen


def test_documentation_of_a_table_is_its_own_lines() -> None:
    assert is_table("ddpm.schedule.NoiseSchedule.posterior_variance")
    words = documentation("ddpm.schedule.NoiseSchedule.posterior_variance")
    assert CITED.findall(words) == ["eq:posterior-variance"]
    longer = documentation("ddpm.schedule.NoiseSchedule.posterior_log_variance_clipped")
    assert "log β_1 stands in" in longer
    assert "posterior_mean_coef_x0" not in longer
