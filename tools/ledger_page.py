"""The appendix that lists every equation of the book with its test, as Markdown: `python tools/ledger_page.py`.

Nothing of it is stored. The build asks for it again, from the chapters, which hold the formulas, and from the ledger in
tests/equations, which holds their checks.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from book_numbers import HEADING, LABELLED_EQUATION, ROOT, number_of_chapter, page_cells, page_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.equations.ledger import Entry

METHODS = {
    "symbolic": "by computer algebra",
    "quadrature": "by quadrature",
    "exact": "exactly",
    "Monte Carlo": "by Monte Carlo",
}
# A variable of one letter and its index, x_t or μ̃_{t−1}, in a docstring; not the underscore of q_sample.
INDEXED = re.compile(r"(?<![^\W\d_])([^\W\d_][\u0303\u0304]?)_(?:\{([^{}]+)\}|([^\W_](?![^\W_²])))")
STOP = re.compile(r"(?<!\\)[.,;]$")  # the end of a sentence, which is not part of the formula
SPECIAL = re.compile(r"([\\`*_{}\[\]<>$|~#])")


@dataclass(frozen=True)
class Statement:
    """A labelled equation as a chapter states it.

    Attributes:
        label: such as "eq:q-sample".
        formula: what stands between the dollars.
        heading: the chapter's number and title.
    """

    label: str
    formula: str
    heading: str


def statements(paths: list[Path]) -> Iterator[Statement]:
    """Every labelled equation of the pages, in reading order."""
    for path in paths:
        prose = "\n\n".join(cell.source for cell in page_cells(path) if cell.cell_type == "markdown")
        heading = chapter_heading(path.stem, prose)
        for formula, label in LABELLED_EQUATION.findall(prose):
            yield Statement(label, STOP.sub("", formula.strip()), heading)


def chapter_heading(page: str, prose: str) -> str:
    """Such as "Chapter 4: One step back" or "Appendix A: …"; the title alone for a page without a number."""
    title = next(match.group(2) for line in prose.split("\n") if (match := HEADING.match(line)))
    number = number_of_chapter(page)
    if number is None:
        return title
    return f"{'Chapter' if str(number)[0].isdigit() else 'Appendix'} {number}: {title}"


def prose(text: str) -> str:
    """Plain text as Markdown that shows it, with x_t and x_{t−1} set with their index below the line."""
    pieces, end = [], 0
    for match in INDEXED.finditer(text):
        pieces += [
            escaped(text[end : match.start()] + match[1]),
            f"{{sub}}`{(match[2] or match[3]).replace('-', '−')}`",
        ]
        end = match.end()
    return "".join([*pieces, escaped(text[end:])])


def escaped(text: str) -> str:
    """The text with every character that Markdown would read as a command disarmed."""
    return SPECIAL.sub(r"\\\1", text)


def test_line(entry: Entry) -> str:
    """Where the test is."""
    return f"`{entry.check.__name__}` in `{entry.check.__module__.replace('.', '/')}.py`"


def code_line(where: str | None) -> str:
    """Where the implementation is; short names, which fit a phone."""
    if not where:
        return "in the chapter only"
    parts = where.split(".")
    module = max(
        (".".join(parts[:k]) for k in range(1, len(parts)) if ".".join(parts[:k]) in sys.modules), key=len
    )
    return f"`{where.removeprefix(module + '.')}` in `{module}`"


def check_line(entry: Entry) -> str:
    """How it is checked, and against what."""
    within = f", within {entry.error_bar}" if entry.error_bar else ""
    words = " ".join((inspect.getdoc(entry.check) or "").split())
    return f"**Checked {METHODS[entry.how]}{within}:** {prose(words)}"


def mutants_line(mutants: Mapping[str, object]) -> str:
    """How many mutants there are, and the mistake of each."""
    count = "1 mutant, caught" if len(mutants) == 1 else f"{len(mutants)} mutants, all caught"
    return f"**{count}:** {'; '.join(prose(mistake) for mistake in mutants)}"


def check_lines(entry: Entry) -> list[str]:
    """What one check of an equation is, where it stands, and what it catches."""
    return [check_line(entry), f"**Test:** {test_line(entry)}", mutants_line(entry.mutants)]


def card(statement: Statement, entry: Entry, algebra: Entry | None) -> str:
    """One equation of the ledger."""
    lines = [f"**In code:** {code_line(entry.where)}", *check_lines(entry)]
    lines += check_lines(algebra) if algebra else []
    points = "\n".join(f"- {line}" for line in lines)
    head = f"Equation {{eq}}`{statement.label}`, `{statement.label}`"
    target = f"(ledger-{statement.label.removeprefix('eq:')})="
    return f"{target}\n::::{{card}} {head}\n\n$$\n{statement.formula}\n$$\n\n{points}\n::::\n"


@dataclass(frozen=True)
class Page:
    """The ledger as Markdown.

    Attributes:
        totals: one sentence that counts.
        chapters: a section for each chapter.
    """

    totals: str
    chapters: str


def totals(entries: Mapping[str, Entry], derivations: Mapping[str, Entry]) -> str:
    """One sentence that counts."""
    mutants = sum(len(entry.mutants) for entry in (*entries.values(), *derivations.values()))
    return (
        f"**In all:** {len(entries)} equations, {len(derivations)} of them checked a second time by computer algebra;"
        f" {mutants} mutants, all caught."
    )


def ledger_page(root: Path = ROOT) -> Page:
    """The ledger of the book's pages, from the chapters and the tests."""
    sys.path[:0] = [str(root)] if str(root) not in sys.path else []
    from tests.equations.ledger import DERIVATIONS, read_ledger

    ledger = read_ledger()
    stated = [statement for statement in statements(page_files(root)) if statement.label in ledger]
    entries = {statement.label: ledger[statement.label] for statement in stated}
    derivations = {label: entry for label, entry in DERIVATIONS.items() if label in entries}
    blocks: list[str] = []
    for heading, group in groupby(stated, key=lambda statement: statement.heading):
        blocks += [f"## {heading}\n"]
        blocks += [card(one, entries[one.label], derivations.get(one.label)) for one in group]
    return Page(totals(entries, derivations), "\n".join(blocks))


def sources(root: Path = ROOT) -> list[Path]:
    """The files that the page is made from."""
    return [*page_files(root), *sorted((root / "tests" / "equations").glob("*.py"))]


def main() -> None:
    """Print the page as Markdown; with `--json` its parts apart, and the files that it is made from."""
    page = ledger_page()
    if "--json" in sys.argv[1:]:
        print(json.dumps({**asdict(page), "sources": [str(path) for path in sources()]}))
    else:
        print(page.totals, page.chapters, sep="\n\n")


if __name__ == "__main__":
    main()
