"""The directive ``{live-model}``: a panel in which the reader draws with a shipped model, on the page itself.

    ```{live-model} images/live-digits.png
    :alt: what the still picture shows
    :models: digits fashion-mnist
    :controls: seed model
    :steps: 50
    :seed: 1

    A caption.
    ```

The picture stands where no script runs. The models are written to ``_static/live`` at the end of the build, by
tools/export_live_model.py, which has to import PyTorch; what it wrote is kept in _build as long as nothing has changed.
"""

from __future__ import annotations

import hashlib
import html
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "export_live_model.py"
STORE = ROOT / "_build" / "live"
SCRIPTS = "_static/live"
WITHOUT = "No script runs on this page, so this is a still picture of the panel that stands here otherwise."


class LiveModel(SphinxDirective):
    """Puts a panel in its place, with its script after it."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {
        "alt": directives.unchanged_required,
        "models": directives.unchanged_required,
        "controls": directives.unchanged,
        "steps": directives.positive_int,
        "seed": directives.nonnegative_int,
    }

    def run(self) -> list[nodes.Node]:
        """The figure: what the script has to know, the still picture, the caption."""
        missing = {"alt", "models"} - self.options.keys()
        if missing:
            raise self.error(f"the directive live-model needs {' and '.join(sorted(missing))}")
        settings = {"models": "", "controls": "seed", "steps": 50, "seed": 1} | self.options
        del settings["alt"]
        known = "".join(f' data-{name}="{html.escape(str(value))}"' for name, value in settings.items())
        folder = "../" * self.env.docname.count("/") + SCRIPTS
        still = nodes.image(uri=self.arguments[0], alt=self.options["alt"], classes=["dark-light"])
        return [
            _raw(f'<link rel="stylesheet" href="{folder}/panel.css"><figure class="live-model"{known}>'),
            still,
            _raw(f"<noscript><p>{WITHOUT}</p></noscript><figcaption>"),
            *self.parse_content_to_nodes(),
            _raw(f'</figcaption></figure><script src="{folder}/panel.js"></script>'),
        ]


def _raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def fingerprint(name: str) -> str:
    """Changes whenever the model does, or the tool that writes it."""
    files = [TOOL, *sorted((ROOT / "checkpoints" / name).glob("*.*"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def write_models(app: Sphinx, exception: Exception | None) -> None:
    """Put the script of every model beside the engine."""
    if exception or app.builder.format != "html":
        return
    sys.path[:0] = [] if str(TOOL.parent) in sys.path else [str(TOOL.parent)]
    folder = Path(app.outdir) / SCRIPTS
    STORE.mkdir(parents=True, exist_ok=True)
    for name in ("digits", "fashion-mnist"):
        kept = STORE / f"{name}-{fingerprint(name)}.js"
        if not kept.exists():
            from export_live_model import exported

            unfinished = kept.with_suffix(".part")
            unfinished.write_text(exported(name), encoding="utf-8")
            unfinished.replace(kept)
        (folder / f"{name}.js").write_bytes(kept.read_bytes())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("live-model", LiveModel)
    app.connect("build-finished", write_models)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
