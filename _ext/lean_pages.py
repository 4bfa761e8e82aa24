"""Leave the scripts of Thebe out of every page.

Jupyter Book always loads the extension for live cells, which this book does not use. It declares
its constants twice on a page, a JavaScript error, and one of them is the address of a foreign host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def belongs_to_thebe(asset: Any) -> bool:
    """Whether a script or style sheet was added by sphinx-thebe."""
    inline = getattr(asset, "attributes", {}).get("body") or ""
    return "thebe" in str(getattr(asset, "filename", asset) or "") or "THEBE_JS_URL" in inline


def drop_thebe(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: object) -> None:
    """Filter one page's scripts and style sheets, in place."""
    for kind in ("script_files", "css_files"):
        context[kind][:] = [asset for asset in context[kind] if not belongs_to_thebe(asset)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, after the extensions that add scripts page by page."""
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
