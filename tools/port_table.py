"""The map from the MindSpore port denoising-diffusion-mindspore 0.0.1a0 to this package, read from port_table.toml.

The page chapters/from-mindspore.md shows it (_ext/port_map.py), and tests/test_port_map.py walks it: every name and
parameter of the port has a row, and every name on our side exists.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = Path(__file__).with_suffix(".toml")
NAME = re.compile(r"([\w.]+)(?:\(([^)]*)\))?")


@dataclass(frozen=True)
class Name:
    """One name as a row writes it.

    Attributes:
        path: such as "ddm.Trainer.save".
        parameters: those named in parentheses behind it.
    """

    path: str
    parameters: tuple[str, ...]

    def shown(self, base: str) -> list[str]:
        """How the page writes it in a section about `base`: parameters of `base` alone, all else without `base`."""
        if self.path == base and self.parameters:
            return list(self.parameters)
        call = f"({', '.join(self.parameters)})" if self.parameters else ""
        return [self.path.removeprefix(f"{base}." if base else "") + call]


@dataclass(frozen=True)
class Row:
    """What became of one thing, or of several that belong together.

    Attributes:
        theirs: names of the port, with the parameters that the row is about: "ddm.Trainer(amp_level)".
        ours: the names here, written likewise, or None if there is nothing of the kind.
        change: what is different and why; without `ours`, what to use instead. Markdown.
    """

    theirs: str
    ours: str | None
    change: str


@dataclass(frozen=True)
class Section:
    """Rows about one thing.

    Attributes:
        key: what the page calls it, as in `{port-map} trainer`.
        theirs: the class or module of the port that the rows are about, left out of their names on the page.
        ours: the same on our side; empty where names are written in full.
        rows: the rows.
    """

    key: str
    theirs: str
    ours: str
    rows: tuple[Row, ...]


def names(text: str | None) -> Iterator[Name]:
    """The names that one side of a row writes down."""
    for path, parameters in NAME.findall(text or ""):
        yield Name(path, tuple(part.strip() for part in parameters.split(",") if part.strip()))


def read_sections(path: Path = TABLE) -> tuple[Section, ...]:
    """The sections of the table, in its order."""
    sections = tomllib.loads(path.read_text(encoding="utf-8"))["section"]
    return tuple(
        Section(found["key"], found["theirs"], found["ours"], tuple(map(_read_row, found["row"])))
        for found in sections
    )


def _read_row(found: dict[str, str]) -> Row:
    """One row, its texts each on one line."""
    joined = {key: " ".join(text.split()) for key, text in found.items()}
    return Row(joined["theirs"], joined.get("ours"), joined["change"])


SECTIONS = read_sections()
