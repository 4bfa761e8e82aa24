"""Every symbol of a labelled equation stands on the notation page, for the whole book or as a letter of its chapter."""

import re

import pytest
from book_numbers import LABELLED_EQUATION, number_of_chapter, page_cells, page_files

ACCENT = r"\\(?:bar|tilde|hat)"
SYMBOL = re.compile(
    rf"(?P<accent>{ACCENT})\s*\{{?\s*(?P<under>\\[a-zA-Z]+|[A-Za-z])\}}?"
    r"|(?P<styled>\\(?:mathcal|mathbb))\s*\{?(?P<letter>[A-Z])\}?"
    r"|(?P<plain>\\[a-zA-Z]+|[A-Za-z])"
)
# Words, new lines and the d of a differential; a word in \mathrm or \operatorname is a name, not a symbol.
WORDS = re.compile(
    r"\\(?:text|operatorname|mathrm|begin|end)\{[^{}]*\}|\\mathrm [A-Z]|\\\\"
    r"|(?<![A-Za-z\\])d(?=[xyzuwtW]|\\(?:varphi|varepsilon|tau|lambda))"
)
_COMMANDS = r"""
\frac \tfrac \dfrac \sqrt \left \right \big \Big \bigg \Bigg \underbrace \overbrace \quad \qquad \limits
\mid \Vert \lVert \rVert \lvert \rvert \lfloor \rfloor \lceil \rceil \cdot \times \odot \pm \circ \star \top
\sum \prod \int \infty \dots \cdots \ldots \le \ge \ne \neq \in \to \sim \approx \propto \Longrightarrow
\log \ln \exp \sin \cos \tanh \min \max \arg \det \nabla \partial \pi \ll
"""
ARRANGING = set(_COMMANDS.split())


def symbols(formula: str) -> set[str]:
    r"""The symbols of a formula without their indices: \bar\alpha is one, and so is the x of x_{t-1}, and so is t."""
    found = set()
    for match in SYMBOL.finditer(WORDS.sub(" ", formula)):
        if match["accent"]:
            found.add(f"{match['accent']} {match['under']}")
        elif match["styled"]:
            found.add(f"{match['styled']} {match['letter']}")
        else:
            found.add(match["plain"])
    return found - ARRANGING


def text_of(page: str) -> str:
    path = next(path for path in page_files() if path.stem == page)
    return "\n\n".join(cell.source for cell in page_cells(path) if cell.cell_type == "markdown")


def listed() -> tuple[set[str], dict[str, set[str]]]:
    """The symbols of the whole book, and the letters that each chapter borrows, from the notation page."""
    whole, borrowed = text_of("notation").split("## Letters that a chapter borrows")
    first_columns = re.findall(r"^\|([^|]*\$[^|]*)\|", whole.replace(r"\|", r"\Vert "), re.MULTILINE)
    book = {
        symbol
        for column in first_columns
        for formula in re.findall(r"\$([^$]+)\$", column)
        for symbol in symbols(formula)
    }
    chapters: dict[str, set[str]] = {}
    for number, letters in re.findall(
        r"^\| (\w+) \|([^|]*)\|", borrowed.replace(r"\|", r"\Vert "), re.MULTILINE
    ):
        own = {symbol for formula in re.findall(r"\$([^$]+)\$", letters) for symbol in symbols(formula)}
        chapters.setdefault(number, set()).update(own)
    return book, chapters


BOOK, CHAPTERS = listed()
PAGES = [path.stem for path in page_files() if path.suffix == ".ipynb"]


@pytest.mark.parametrize("page", PAGES)
def test_every_symbol_of_a_labelled_equation_is_listed(page: str) -> None:
    known = BOOK | CHAPTERS.get(number_of_chapter(page) or "", set())
    unknown = {
        f"{label}: {symbol}"
        for formula, label in LABELLED_EQUATION.findall(text_of(page))
        for symbol in symbols(formula) - known
    }
    assert not unknown


@pytest.mark.parametrize("page", PAGES)
def test_a_borrowed_letter_is_used(page: str) -> None:
    own, text = CHAPTERS.get(number_of_chapter(page) or "", set()), text_of(page)
    used = {symbol for formula in re.findall(r"\$+([^$]+)\$+", text) for symbol in symbols(formula)}
    assert own <= used, f"listed as letters of {page}, which has no use for them: {own - used}"


def test_a_borrowed_letter_has_no_meaning_in_the_whole_book() -> None:
    assert not {f"{chapter}: {symbol}" for chapter, own in CHAPTERS.items() for symbol in own & BOOK}


def test_symbols_are_told_apart() -> None:
    formula = r"\bar\alpha_t=\alpha_t\,\bar{\alpha}_{t-1},\quad\mathcal N(x;\hat x_0)\operatorname{KL}(q\Vert p_\theta)"
    assert symbols(formula) == {
        r"\bar \alpha", r"\alpha", "t", r"\mathcal N", "x", r"\hat x", "q", "p", r"\theta"
    }  # fmt: skip
