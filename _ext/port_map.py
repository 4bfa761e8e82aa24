"""The directive ``{port-map} trainer``: what became of the port's names, one section of tools/port_table.toml.

The table is data alone, so it is read at once; the page is read again when it changes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from port_table import Row, Section
    from sphinx.application import Sphinx

TOOLS = Path(__file__).resolve().parents[1] / "tools"
WIDE = 30  # characters of code, about what fits the indented text on a phone
NOTHING, UNCHANGED = "*not here*", "same name"


def shown(text: str | None, base: str) -> list[str]:
    """One side of a row, as the page writes it in a section about `base`."""
    from port_table import names

    return [written for name in names(text) for written in name.shown(base)]


def entry(row: Row, section: Section) -> str:
    """A row as an item of a definition list, which needs no more width than a phone has."""
    theirs, ours = shown(row.theirs, section.theirs), shown(row.ours, section.ours)
    here = UNCHANGED if theirs == ours else code(ours) if ours else NOTHING
    return f"{code(theirs)} → {here}\n: {row.change}\n"


def code(written: list[str]) -> str:
    """Names set as code, with commas between them."""
    return ", ".join(f"`{name}`" for name in written)


def let_names_break(node: nodes.Node) -> None:
    """Allow a line to end after each dot of a name that is wider than a phone, such as torch.utils.data.distributed."""
    for literal in node.findall(nodes.literal):
        if max(map(len, literal.astext().split())) <= WIDE:
            continue
        first, *others = re.split(r"(?<=\w\.)(?=\w)", literal.astext())
        literal.children.clear()
        literal += nodes.Text(first)
        for part in others:
            literal += [nodes.raw("", "<wbr>", format="html"), nodes.Text(part)]


class PortMap(SphinxDirective):
    """Puts one section of the table in its place."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The section that the argument names, as a definition list."""
        sys.path[:0] = [] if str(TOOLS) in sys.path else [str(TOOLS)]
        from port_table import SECTIONS, TABLE

        self.env.note_dependency(str(TABLE))
        sections = {section.key: section for section in SECTIONS}
        if self.arguments[0] not in sections:
            raise self.error(
                f"no section {self.arguments[0]!r} in tools/port_table.toml; it has {', '.join(sections)}"
            )
        section = sections[self.arguments[0]]
        found = self.parse_text_to_nodes("\n".join(entry(row, section) for row in section.rows))
        for node in found:
            let_names_break(node)
        return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("port-map", PortMap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
