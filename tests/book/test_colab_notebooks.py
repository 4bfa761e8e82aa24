"""The chapters for Colab: no directive or role is left raw, and the numbers are those of the pages."""

import re
from pathlib import Path

import nbformat
import pytest
from book_numbers import ROOT, Numbering, Target, page_files, read_targets
from colab_notebooks import colab_notebooks
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from plain_markdown import Resolver, UnknownSyntaxError, read_bibliography

from ddpm.book.exercises import EXERCISES

RAW = re.compile(r"\{[a-z][a-z:]*\}`|^\s*(?:`{3,}|:{3,})\{|^\([\w-]+\)=|\$\$ *\(eq:", re.MULTILINE)
TARGETS = {
    "eq:step": Target("equation", "4.1", "", "04-posterior", "equation-eq-step"),
    "eq:other": Target("equation", "2.3", "", "02-forward", "equation-eq-other"),
    "fig-cat": Target("figure", "4.2", "", "04-posterior", "fig-cat"),
    "ex-grid": Target("exercise", "4.1", "", "04-posterior", "ex-grid"),
    "ch-forward": Target("section", "2", "Noise", "02-forward", "ch-forward"),
}
FORWARD = "https://book/chapters/02-forward.html"
CODE = "```python\n# not a {eq}`role`\n:::{nor} a directive\n```"
PANEL = "*On the page there is [a panel here that runs in your browser](https://book/chapters/04-posterior.html#live-mixture).*"
TITLES = {"04-posterior": "The posterior", "notation": "Notation"}


@pytest.fixture(scope="module")
def resolver() -> Resolver:
    """For a page in the middle of a small book."""
    bibliography = read_bibliography(ROOT / "references.bib")
    return Resolver("04-posterior", TARGETS, TITLES, bibliography, "https://book/")


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("by {eq}`eq:step`", "by (4.1)"),
        ("by {eq}`eq:other`", f"by [(2.3)]({FORWARD}#equation-eq-other)"),
        ("see {numref}`fig-cat`", "see Fig. 4.2"),
        ("{numref}`Chapter %s <ch-forward>`", f"[Chapter 2]({FORWARD}#ch-forward)"),
        ("{ref}`ch-forward`", f"[Noise]({FORWARD}#ch-forward)"),
        ("{ref}`ex-grid`", "Exercise 4.1"),
        ("{doc}`notation`", "[Notation](https://book/chapters/notation.html)"),
        ("{cite:t}`ho2020denoising`", "Ho et al. ([2020](https://arxiv.org/abs/2006.11239))"),
        ("{cite}`hyvarinen2005estimation`", "(Hyvärinen, 2005)"),
        ("{cite:t}`kingma2014auto`", "Kingma and Welling ([2014](https://arxiv.org/abs/1312.6114))"),
        ("$$\na = b\n$$ (eq:step)", "$$\na = b\n\\tag{4.1}\n$$"),
        ("$$ a $$\n\ntext\n\n$$ b $$ (eq:step)", "$$ a $$\n\ntext\n\n$$ b\n\\tag{4.1}\n$$"),
        ("(ch-here)=\n# Title", "# 4 Title"),
        ("# Title\n## One\n## Two\n### Deep", "# 4 Title\n## 4.1 One\n## 4.2 Two\n### 4.2.1 Deep"),
        (":::{note}\nBy {eq}`eq:step`.\n:::", "---\n\n**Note**\n\nBy (4.1).\n\n---"),
        ("text\n:::{admonition} Recap\n:class: recap\n\nA.\n:::", "text\n\n---\n\n**Recap**\n\nA.\n\n---"),
        ("::::{note}\n:::{tip}\nA.\n:::\n::::", "---\n\n**Note**\n\n---\n\n**Tip**\n\nA.\n\n---\n\n---"),
        (":::{dropdown} Proof\nA.\n:::", "<details><summary><b>Proof</b></summary>\n\nA.\n\n</details>"),
        ("```{exercise} ★ A grid\n:label: ex-grid\n\nDo.\n```", "### Exercise 4.1 (★ A grid)\n\nDo."),
        ("```{solution-start} ex-grid\n:class: dropdown\n```\n\nSo.", "#### Solution to exercise 4.1\n\nSo."),
        ("So.\n\n```{solution-end}\n```", "So."),
        ("```{live-model} mixture\n:steps: 5\n\nBy {eq}`eq:step`.\n```", PANEL),
        (CODE, CODE),
    ],
)
def test_each_construct(source: str, plain: str, resolver: Resolver) -> None:
    assert resolver.resolve(source, Numbering("04-posterior")) == plain


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{eq}`eq:nowhere`", "label 'eq:nowhere', which no page defines"),
        ("{cite}`nobody1900nothing`", "nobody1900nothing, not in references.bib"),
        ("{doc}`nowhere`", "page 'nowhere', which is not in _toc.yml"),
        ("{term}`noise`", "role 'term'"),
        (":::{mystery}\n:::", "directive 'mystery'"),
        (":::{note}\nno end", "never closed"),
    ],
)
def test_what_cannot_be_resolved_is_an_error(source: str, complaint: str, resolver: Resolver) -> None:
    with pytest.raises(UnknownSyntaxError, match=re.escape(complaint)):
        resolver.resolve(source, Numbering("04-posterior"))


def small_book(folder: Path) -> Path:
    """A book of two pages, with a figure and a solution in code."""
    caption = {"caption": "See {eq}`eq:step`.", "name": "fig-cat"}
    figure = {"mystnb": {"image": {"alt": "A cat."}, "figure": caption}}
    cells = [
        new_markdown_cell("(ch-posterior)=\n# The posterior\n\n$$\na\n$$ (eq:step)"),
        new_code_cell("plot()", metadata=figure),
        new_markdown_cell(
            "```{exercise} Try\n:label: ex-try\n\nDo.\n```\n```{solution-start} ex-try\n```\nSo."
        ),
        new_code_cell("1 + 1"),
        new_markdown_cell(
            "```{solution-end}\n```\n\n```{exercise} Half\n:label: ex-half-power\n\nFind.\n```\n\n"
            "```{solution-start} ex-half-power\n```\nHere."
        ),
        new_markdown_cell("```{solution-end}\n```"),
        new_markdown_cell("```{exercise} Hand\n:label: ex-posterior-by-hand\n\nCount.\n```"),
        new_markdown_cell("```{solution-start} ex-posterior-by-hand\n```"),
        new_markdown_cell("## Further reading\n\n{cite:t}`ho2020denoising`, {doc}`intro`"),
    ]
    (folder / "chapters").mkdir()
    nbformat.write(new_notebook(cells=cells), folder / "chapters" / "04-posterior.ipynb")
    (folder / "chapters" / "intro.md").write_text("# Welcome\n", encoding="utf-8")
    toc = "root: chapters/intro\nparts:\n- chapters:\n  - file: chapters/04-posterior\n"
    (folder / "_toc.yml").write_text(toc, encoding="utf-8")
    (folder / "tools").mkdir()
    (folder / "tools" / "repository.txt").write_text("https://github.com/me/book\n", encoding="utf-8")
    (folder / "references.bib").write_bytes((ROOT / "references.bib").read_bytes())
    return folder


def test_a_whole_notebook(tmp_path: Path) -> None:
    notebook = colab_notebooks(small_book(tmp_path))["04-posterior.ipynb"]
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells] == [
        "*A chapter of Out of the Snow. [Read it as a page](https://me.github.io/book/chapters/04-posterior.html).*",
        "# 4 The posterior\n\n$$\na\n\\tag{4.1}\n$$",
        "plot()",
        "**Fig. 4.1.** See (4.1).",
        "### Exercise 4.1 (Try)\n\nDo.",
        "#### Solution to exercise 4.1\n\nSo.",
        "1 + 1",
        "### Exercise 4.2 (Half)\n\nFind.",
        'def first_below_half(alpha_bar):\n    ...\n\n\ncheck("half-power", first_below_half)',
        "#### Solution to exercise 4.2\n\nHere.",
        "### Exercise 4.3 (Hand)\n\nCount.",
        'by_hand = ...\n\ncheck("posterior-by-hand", by_hand)',
        "#### Solution to exercise 4.3",
        "## 4.1 Further reading\n\nHo et al. ([2020](https://arxiv.org/abs/2006.11239)), "
        "[Welcome](https://me.github.io/book/chapters/intro.html)",
    ]
    folded = notebook.metadata["colab"]["collapsed_sections"]
    assert folded == [cell.id for cell in notebook.cells if cell.source.startswith("#### Solution")]
    assert len(folded) == 3


def test_a_book_that_is_published_nowhere_has_no_links_to_its_pages(tmp_path: Path) -> None:
    book = small_book(tmp_path)
    (book / "tools" / "repository.txt").write_text("", encoding="utf-8")
    notebook = colab_notebooks(book)["04-posterior.ipynb"]
    assert notebook.cells[0].source == "*A chapter of Out of the Snow.*"
    assert notebook.cells[-1].source.endswith("Welcome")


def test_a_label_used_by_two_pages_is_an_error(tmp_path: Path) -> None:
    book = small_book(tmp_path)
    (book / "chapters" / "intro.md").write_text("(ch-posterior)=\n# Welcome\n", encoding="utf-8")
    with pytest.raises(ValueError, match="ch-posterior"):
        read_targets(page_files(book))


def test_an_empty_answer_stands_between_each_exercise_and_its_solution() -> None:
    ready = {}
    for notebook in colab_notebooks(ROOT).values():
        for before, cell, after in zip(notebook.cells, notebook.cells[1:], notebook.cells[2:], strict=False):
            for exercise in EXERCISES.values():
                if cell.source == exercise.stub:
                    assert cell.cell_type == "code"
                    assert not cell.outputs
                    assert exercise.call in before.source.split("### Exercise")[-1]
                    assert after.source.startswith("#### Solution")
                    ready[exercise.name] = cell
    assert set(ready) == set(EXERCISES)


def test_no_chapter_of_the_book_shows_a_directive_or_role_raw() -> None:
    notebooks = colab_notebooks(ROOT)
    assert set(notebooks) == {path.name for path in page_files() if path.suffix == ".ipynb"}
    for name, notebook in notebooks.items():
        nbformat.validate(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                prose = re.sub(r"^```\w*\n.*?^```", "", cell.source, flags=re.DOTALL | re.MULTILINE)
                assert not RAW.search(prose), name
