"""Resolve MyST's roles and directives to plain Markdown, for places that know only that, such as Colab.

What is not known here is an error, so that no raw directive reaches a reader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from book_numbers import HEADING, LABEL, LABELLED_EQUATION, Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from book_numbers import Numbering
    from pybtex.database import BibliographyData, Entry

OPENING = re.compile(r"^(`{3,}|:{3,})\{([\w:-]+)\} *(.*)$")
CODE_FENCE = re.compile(r"^(`{3,})(?!.*`)")
OPTION = re.compile(r"^:([\w-]+): *(.*)$")
ROLE = re.compile(r"\{([\w:]+)\}`([^`]+)`")
TITLED = re.compile(r"^(.*?)\s*<([^>]+)>$", re.DOTALL)
ADMONITIONS = {"note", "tip", "hint", "important", "warning", "caution", "seealso"}


class UnknownSyntaxError(ValueError):
    """A role, directive or label that plain Markdown has no words for."""


# ---- roles


def citation_author(entry: Entry) -> str:
    """The authors as the book names them: one, two, or the first "et al."."""
    names = [
        " ".join(str(part) for part in person.rich_last_names)
        for person in dict(entry.persons or {})["author"]
    ]
    return names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."


def citation_year(entry: Entry) -> str:
    """The year, with a link to the paper where the entry names one."""
    fields = dict(entry.fields or {})
    if "eprint" in fields:
        return f"[{fields['year']}](https://arxiv.org/abs/{fields['eprint']})"
    if "doi" in fields:
        return f"[{fields['year']}](https://doi.org/{fields['doi']})"
    return fields["year"]


@dataclass(frozen=True)
class Resolver:
    """Turns the Markdown of one page into plain Markdown.

    Attributes:
        page: the page's file name without its ending.
        targets: all labels of the book.
        titles: the title of each page, by file name.
        bibliography: the book's references.
        url: address of the published book, ending in a slash; empty if it is published nowhere.
    """

    page: str
    targets: dict[str, Target]
    titles: dict[str, str]
    bibliography: BibliographyData
    url: str

    def target(self, label: str) -> Target:
        """The target of a label."""
        if label not in self.targets:
            raise UnknownSyntaxError(f"{self.page} refers to the label {label!r}, which no page defines")
        return self.targets[label]

    def link(self, text: str, target: Target) -> str:
        """A link to the published page; the text alone for a place in the same notebook, and if none is published."""
        if target.page == self.page or not self.url:
            return text
        return f"[{text}]({self.url}chapters/{target.page}.html#{target.anchor})"

    def role_eq(self, content: str) -> str:
        """``{eq}`` gives "(4.2)"."""
        target = self.target(content)
        return self.link(target.name, target)

    def role_numref(self, content: str) -> str:
        """``{numref}`` gives "Fig. 4.2", or the given words with the number for ``%s``."""
        titled = TITLED.match(content)
        target = self.target(titled.group(2) if titled else content)
        return self.link(titled.group(1).replace("%s", target.number) if titled else target.name, target)

    def role_ref(self, content: str) -> str:
        """``{ref}`` gives a section's title, the name of anything else, or the given words."""
        titled = TITLED.match(content)
        target = self.target(titled.group(2) if titled else content)
        return self.link(titled.group(1) if titled else target.title or target.name, target)

    def role_doc(self, content: str) -> str:
        """``{doc}`` gives a page's title, or the given words, as a link."""
        titled = TITLED.match(content)
        page = (titled.group(2) if titled else content).rsplit("/", 1)[-1]
        if page not in self.titles:
            raise UnknownSyntaxError(f"{self.page} refers to the page {page!r}, which is not in _toc.yml")
        text = titled.group(1) if titled else self.titles[page]
        return f"[{text}]({self.url}chapters/{page}.html)" if self.url else text

    def entries(self, content: str) -> list[Entry]:
        """The references of a comma-separated list of keys."""
        keys = [key.strip() for key in content.split(",")]
        unknown = [key for key in keys if key not in self.bibliography.entries]
        if unknown:
            raise UnknownSyntaxError(f"{self.page} cites {', '.join(unknown)}, not in references.bib")
        return [self.bibliography.entries[key] for key in keys]

    def role_cite(self, content: str) -> str:
        """``{cite}`` gives "(Ho et al., 2020; Song et al., 2021)"."""
        cited = [f"{citation_author(entry)}, {citation_year(entry)}" for entry in self.entries(content)]
        return f"({'; '.join(cited)})"

    def role_cite_t(self, content: str) -> str:
        """``{cite:t}`` gives "Ho et al. (2020)"."""
        return ", ".join(
            f"{citation_author(entry)} ({citation_year(entry)})" for entry in self.entries(content)
        )

    @property
    def roles(self) -> dict[str, Callable[[str], str]]:
        """The roles of the book."""
        return {
            "eq": self.role_eq,
            "numref": self.role_numref,
            "ref": self.role_ref,
            "doc": self.role_doc,
            "cite": self.role_cite,
            "cite:p": self.role_cite,
            "cite:t": self.role_cite_t,
        }

    def resolve_role(self, match: re.Match[str]) -> str:
        """One role's plain text."""
        name, content = match.groups()
        if name not in self.roles:
            raise UnknownSyntaxError(
                f"{self.page} uses the role {name!r}, which tools/plain_markdown.py lacks"
            )
        return self.roles[name](content)

    def resolve_inline(self, text: str) -> str:
        """Resolve roles, and labels of equations to tags."""

        def tagged(match: re.Match[str]) -> str:
            body = match.group(1).rstrip()
            return f"$${body}\n\\tag{{{self.target(match.group(2)).number}}}\n$$"

        return ROLE.sub(self.resolve_role, LABELLED_EQUATION.sub(tagged, text))

    # ---- directives

    def directive(self, name: str, argument: str, options: dict[str, str], body: str) -> str:
        """One directive as plain Markdown; its body is resolved already."""
        if name == "exercise":
            return f"### {self.target(options['label']).name} ({argument})\n\n{body}"
        if name in ("solution", "solution-start"):
            return f"#### Solution to {self.target(argument).name.lower()}\n\n{body}".rstrip()
        if name in ("solution-end", "exercise-end"):
            return ""
        if name == "dropdown":
            return f"<details><summary><b>{argument}</b></summary>\n\n{body}\n\n</details>"
        if name == "admonition" or name in ADMONITIONS:
            title = argument if name == "admonition" else name.capitalize()
            return f"---\n\n**{title}**\n\n{body}\n\n---"
        if name == "live-model":
            place = f"{self.url}chapters/{self.page}.html#live-{argument}"
            return f"*On the page there is [a panel here that runs in your browser]({place}).*"
        raise UnknownSyntaxError(
            f"{self.page} uses the directive {name!r}, which tools/plain_markdown.py lacks"
        )

    def resolve(self, source: str, numbering: Numbering) -> str:
        """A whole Markdown cell as plain Markdown; headings get their numbers from ``numbering``."""
        done: list[str] = []
        prose: list[str] = []

        def flush() -> None:
            if prose:
                done.append(self.resolve_inline("\n".join(prose)))
                prose.clear()

        lines = source.split("\n")
        while lines:
            line = lines.pop(0)
            opening, code = OPENING.match(line), CODE_FENCE.match(line)
            if opening:
                flush()
                fence, name, argument = opening.groups()
                options, body = split_options(take_block(lines, fence))
                resolved = self.resolve(body, numbering)
                done.append(self.directive(name, self.resolve_inline(argument), options, resolved))
            elif code:
                flush()
                done.append("\n".join([line, *take_block(lines, code.group(1)), code.group(1)]))
            elif not LABEL.match(line):
                prose.append(numbered_heading(line, numbering))
        flush()
        return re.sub(r"\n{3,}", "\n\n", "\n\n".join(done)).strip("\n")


def take_block(lines: list[str], fence: str) -> list[str]:
    """Remove the lines up to the closing fence from ``lines``, and return those before it."""
    closing = re.compile(rf"^{fence[0]}{{{len(fence)},}}\s*$")
    for n, line in enumerate(lines):
        if closing.match(line):
            block = lines[:n]
            del lines[: n + 1]
            return block
    raise UnknownSyntaxError(f"a block opened by {fence} is never closed")


def split_options(block: list[str]) -> tuple[dict[str, str], str]:
    """A directive's options, which come first, and its body."""
    options: dict[str, str] = {}
    while block and (match := OPTION.match(block[0])):
        options[match.group(1)] = match.group(2)
        block = block[1:]
    return options, "\n".join(block).strip("\n")


def numbered_heading(line: str, numbering: Numbering) -> str:
    """A heading with its number; any other line as it is."""
    heading = HEADING.match(line)
    if not heading:
        return line
    number = numbering.next_section(len(heading.group(1)))
    return f"{heading.group(1)} {number} {heading.group(2)}"


def read_bibliography(path: Path) -> BibliographyData:
    """The references of the book."""
    from pybtex.database import parse_file

    return parse_file(str(path), "bibtex")
