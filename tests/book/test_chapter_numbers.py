"""The Sphinx extension that takes a chapter's number from its file name, in a book made for the test."""

import subprocess
import sys
from pathlib import Path

import pytest
from book_numbers import ROOT
from bs4 import BeautifulSoup
from chapter_numbers import chapter_number

CONFIGURATION = f"""
import sys
sys.path.insert(0, {str(ROOT / "_ext")!r})
extensions = ["myst_parser", "sphinx_exercise", "sphinx_multitoc_numbering", "chapter_numbers"]
myst_enable_extensions = ["dollarmath"]
html_theme = "basic"
math_numfig, numfig, numfig_secnum_depth = True, True, 1
"""

CHAPTER = """
# Title

## Section

$$
a = b
$$ (eq:{name})

```{{figure}} picture.png
:name: fig-{name}
:alt: A picture.

Caption.
```

```{{exercise}}
:label: ex-{name}

Do it.
```

See {{eq}}`eq:{name}`, {{numref}}`fig-{name}`, {{numref}}`ex-{name}`.
"""


def build(folder: Path, parts: list[list[str]]) -> subprocess.CompletedProcess[str]:
    """Build a book whose parts hold the given files, with warnings as errors."""
    (folder / "conf.py").write_text(CONFIGURATION, encoding="utf-8")
    (folder / "chapters").mkdir()
    (folder / "chapters" / "picture.png").write_bytes((ROOT / "_assets" / "favicon.svg").read_bytes())
    lists = ["\n".join(f"chapters/{name}" for name in part) for part in parts]
    trees = [f"```{{toctree}}\n:numbered:\n{names}\n```" for names in lists]
    (folder / "index.md").write_text("# Book\n\n" + "\n\n".join(trees), encoding="utf-8")
    for name in {name for part in parts for name in part}:
        (folder / "chapters" / f"{name}.md").write_text(CHAPTER.format(name=name), encoding="utf-8")
    options = ["-m", "sphinx", "-W", "--keep-going", "-n", "-b", "html"]
    command = [sys.executable, *options, str(folder), str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


NUMBERED = {
    "chapters/04-posterior": "4",
    "12-scores": "12",
    "10-conditioning": "10",
    "chapters/A-gaussians": "A",
}
WITHOUT = ("chapters/00-zero", "chapters/a-small", "AB-two", "chapters/intro", "04-part/intro", "x4-y")


@pytest.mark.parametrize(("docname", "number"), (NUMBERED | dict.fromkeys(WITHOUT)).items())
def test_chapter_number(docname: str, number: str | None) -> None:
    assert chapter_number(docname) == number


def test_gaps_between_chapters_stay_gaps(tmp_path: Path) -> None:
    """Sphinx alone would count 05-five as chapter 2."""
    built = build(tmp_path, [["02-two"], ["05-five", "11-eleven"], ["A-appendix"]])
    assert built.returncode == 0, built.stderr

    def text(page: str) -> str:
        html = (tmp_path / "out" / f"{page}.html").read_text(encoding="utf-8")
        return BeautifulSoup(html, "html.parser").select_one("div.body").get_text()

    for name, chapter in (("02-two", "2"), ("05-five", "5"), ("11-eleven", "11"), ("A-appendix", "A")):
        shown = text(f"chapters/{name}")
        assert f"{chapter}. Title" in text("index").split("\n")
        assert f"{chapter}.1. Section" in shown, (name, shown)
        # Each where it stands, and where the page refers to it.
        for expected in (f"({chapter}.1)", f"Fig. {chapter}.1", f"Exercise {chapter}.1"):
            assert shown.count(expected) == 2, (name, expected, shown)


def test_bad_file_names_stop_the_build(tmp_path: Path) -> None:
    built = build(tmp_path, [["02-two", "five", "02-also"], ["A-one", "A-two"]])
    assert built.returncode != 0
    for complaint in (
        "needs a file name like 04-title",
        *(f"number {n} is taken by another file" for n in ("2", "A")),
    ):
        assert complaint in built.stderr
