"""The buttons that lead to the repository and to Colab, on the pages of a book that is published; else none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def options(repository: str) -> dict[str, object]:
    """The theme's options for a repository at this address, or for none."""
    if not repository:
        return {"use_repository_button": False, "use_issues_button": False, "launch_buttons": {}}
    return {
        "repository_url": repository,
        # Only the Colab button uses the branch: it opens the notebooks made by tools/colab_notebooks.py.
        "repository_branch": "colab",
        "path_to_docs": "",
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }


def configure(_app: Sphinx, config: Config) -> None:
    """Set what depends on the address, before the theme reads it."""
    sys.path[:0] = [] if str(TOOLS) in sys.path else [str(TOOLS)]
    from set_repository import address, pages_address

    config.html_theme_options.update(options(address()))
    config.html_baseurl = pages_address(address())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, before the extensions that copy the options."""
    app.connect("config-inited", configure, priority=1)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
