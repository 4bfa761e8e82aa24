"""Every label of the book with its number and its place, read from the chapters themselves.

The numbers are those on the built pages: chapters by the prefix of the file name, the rest counted
within a chapter in order of appearance. (That they agree is tested against the pages.)
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]

CHAPTER = re.compile(r"^0*([1-9]\d*[a-z]?|[A-Z])-")
HEADING = re.compile(r"^(#{1,4}) +(.*?)\s*$")
LABEL = re.compile(r"^\(([\w-]+)\)=\s*$")
# One displayed formula and the label after it; the body may not run over another formula's dollars.
LABELLED_EQUATION = re.compile(r"\$\$((?:(?!\$\$).)+?)\$\$ *\((eq:[\w-]+)\)", re.DOTALL)
EXERCISE = re.compile(
    r"^(?:`{3,}|:{3,})\{exercise\}(?:[^\n]*)\n(?::class:[^\n]*\n)?:label: *([\w-]+)", re.MULTILINE
)
NAMES = {"equation": "(%s)", "figure": "Fig. %s", "exercise": "Exercise %s", "section": "Section %s"}


@dataclass(frozen=True)
class Target:
    """What a label points to.

    Attributes:
        kind: "equation", "figure", "exercise" or "section"; a chapter is a section of the first level.
        number: the number on the page, such as "4.2" or "A.2"; empty on pages without numbers.
        title: a section's heading, else empty.
        page: the page's file name without its ending.
        anchor: the id of the place in the built page.
    """

    kind: str
    number: str
    title: str
    page: str
    anchor: str

    @property
    def name(self) -> str:
        """How a sentence calls it: "(4.2)", "Fig. 4.2", "Section 4.2"."""
        return NAMES[self.kind] % self.number


def page_files(root: Path = ROOT) -> list[Path]:
    """The book's pages in reading order, from _toc.yml."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    stems = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [next(root.glob(f"{stem}.*")) for stem in stems]


def page_cells(path: Path) -> list[NotebookNode]:
    """The cells of a notebook; a Markdown page is one Markdown cell."""
    if path.suffix == ".ipynb":
        return nbformat.read(path, as_version=4).cells
    return [nbformat.v4.new_markdown_cell(path.read_text(encoding="utf-8"))]


def number_of_chapter(page: str) -> str | None:
    """The "4" of "04-posterior", the "A" of "A-gaussians", None for a page without a number."""
    match = CHAPTER.match(page)
    return match.group(1) if match else None


def prose_lines(source: str) -> Iterator[str]:
    """The lines of a Markdown cell that are not inside a block of code; what a directive holds is prose."""
    fences: list[tuple[str, bool]] = []  # that are open, and whether it is a directive's
    for line in source.split("\n"):
        within_code = bool(fences) and not fences[-1][1]
        opened = re.match(r"^(`{3,})(\{)?", line)
        if fences and line.strip() == fences[-1][0]:
            fences.pop()
        elif opened and not within_code:
            fences.append((opened.group(1), bool(opened.group(2))))
            if not opened.group(2):
                continue
        if not within_code:
            yield line


class Numbering:
    """Counts sections, equations, figures and exercises of one page in order of appearance."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.chapter = number_of_chapter(page)
        self.counts: Counter[str] = Counter()
        self.levels = [0, 0, 0, 0]
        self.targets: dict[str, Target] = {}

    def add(self, kind: str, label: str, anchor: str) -> None:
        """Give the next number of its kind to a label."""
        self.counts[kind] += 1
        self.targets[label] = Target(kind, f"{self.chapter}.{self.counts[kind]}", "", self.page, anchor)

    def next_section(self, level: int) -> str:
        """Count one heading and return its number, "4" at level 1 and "4.2" at level 2; empty without a chapter."""
        self.levels[level - 1 :] = [self.levels[level - 1] + 1] + [0] * (len(self.levels) - level)
        parts = [self.chapter, *self.levels[1:level]]
        return ".".join(str(part) for part in parts) if self.chapter else ""

    def read_headings(self, source: str) -> None:
        """Enter the labelled headings of one Markdown cell."""
        waiting: list[str] = []
        for line in prose_lines(source):
            label, heading = LABEL.match(line), HEADING.match(line)
            if label:
                waiting.append(label.group(1))
            elif heading:
                number = self.next_section(len(heading.group(1)))
                found = Target("section", number, heading.group(2), self.page, "")
                self.targets.update({name: Target(**{**vars(found), "anchor": name}) for name in waiting})
                waiting = []

    def read_markdown(self, source: str) -> None:
        """Enter what one Markdown cell labels."""
        self.read_headings(source)
        for match in LABELLED_EQUATION.finditer(source):
            self.add("equation", match.group(2), f"equation-{match.group(2).replace(':', '-')}")
        for match in EXERCISE.finditer(source):
            self.add("exercise", match.group(1), match.group(1))

    def read_code(self, cell: NotebookNode) -> None:
        """Enter the figure that one code cell draws, if it has a caption."""
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if figure.get("caption"):
            name = figure.get("name", f"{self.page}-figure-{self.counts['figure'] + 1}")
            self.add("figure", name, name)


def read_targets(paths: list[Path]) -> dict[str, Target]:
    """All labels of the given pages; a label that two pages use is an error."""
    targets: dict[str, Target] = {}
    for path in paths:
        numbering = Numbering(path.stem)
        for cell in page_cells(path):
            if cell.cell_type == "markdown":
                numbering.read_markdown(cell.source)
            elif cell.cell_type == "code":
                numbering.read_code(cell)
        twice = sorted(targets.keys() & numbering.targets.keys())
        if twice:
            raise ValueError(
                f"{path.name} uses labels of another page: {', '.join(twice)}. Choose other names."
            )
        targets.update(numbering.targets)
    return targets
