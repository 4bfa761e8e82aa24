"""Say where the repository is published, in every place that has to know.

    python tools/set_repository.py https://github.com/OWNER/NAME
    python tools/set_repository.py --none

The address stands in tools/repository.txt, which is empty as long as the book is published nowhere: then no page and no
notebook names an address, since anybody could open an account of that name. From there come the buttons of the pages
(_ext/repository.py) and the links in the notebooks for Colab; this program also writes it into CITATION.cff and into
the set-up cell of every chapter. The publishing workflow calls it with the address of the repository in which it runs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = "tools/repository.txt"
FORM = re.compile(r"https://github\.com/([A-Za-z0-9][A-Za-z0-9-]*)/([\w.-]+)")
CITATION_LINE = re.compile(r"^repository-code: .*\n", re.MULTILINE)


def address(root: Path = ROOT) -> str:
    """Where the repository is published; empty if nowhere."""
    return (root / FILE).read_text(encoding="utf-8").strip()


def pages_address(repository: str) -> str:
    """Where GitHub shows the pages of a repository; empty if there is none."""
    if not repository:
        return ""
    owner, name = check(repository).groups()
    site = f"https://{owner.lower()}.github.io/"
    return site if name.lower() == f"{owner.lower()}.github.io" else f"{site}{name}/"


def check(repository: str) -> re.Match[str]:
    """Refuse what is no address of a repository on GitHub."""
    match = FORM.fullmatch(repository)
    if match is None or repository.endswith(".git"):
        raise ValueError(
            f"{repository!r} is no address of a repository: write https://github.com/OWNER/NAME, without .git"
        )
    return match


def set_citation(repository: str, root: Path) -> None:
    """Write the address into CITATION.cff, or take it out."""
    path = root / "CITATION.cff"
    text = CITATION_LINE.sub("", path.read_text(encoding="utf-8"))
    line = f"repository-code: {repository}\n" if repository else ""
    path.write_text(text.replace("keywords:\n", f"{line}keywords:\n", 1), encoding="utf-8")


def set_repository(repository: str, root: Path = ROOT) -> None:
    """Write the address, or none, into all places.

    Raises:
        ValueError: if it is no address of a repository.
    """
    from notebook_form import normalise, read, serialise, setup_cell

    if repository:
        check(repository)
    (root / FILE).write_text(f"{repository}\n" if repository else "", encoding="utf-8")
    set_citation(repository, root)
    setup = setup_cell(repository)
    for path in sorted((root / "chapters").glob("*.ipynb")):
        path.write_text(serialise(normalise(read(path), setup)), encoding="utf-8")


def main() -> None:
    """Read the command line."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        set_repository("" if sys.argv[1] == "--none" else sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
