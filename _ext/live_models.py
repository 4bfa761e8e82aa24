"""The directive ``{live-model}``: a panel that the reader moves, on the page itself, without kernel and network.

    ```{live-model} sampling
    :sampler: ddpm

    A caption.
    ```

The argument is one of PANELS, and any of its settings can be given another value. Where no script runs, a still
picture stands there, drawn by tools/draw_live_still.py. What panels load is written to ``_static/live`` at the end of
the build, by tools/export_live_model.py and tools/live_tables.py, which have to import PyTorch; what they wrote is kept
in _build as long as nothing has changed.
"""

from __future__ import annotations

import hashlib
import html
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools"
STORE = ROOT / "_build" / "live"
SCRIPTS = "_static/live"
WITHOUT = "No script runs on this page, so this is a still picture of the panel that stands here otherwise."


def _diffusion(name: str) -> dict[str, Any]:
    """What the card of a shipped model says of the diffusion."""
    return json.loads((ROOT / "checkpoints" / name / "config.json").read_text(encoding="utf-8"))["diffusion"]


_DIGITS = (
    "/chapters/images/live-digits.png",
    "Two pictures of 8 × 8 grey squares: at the left snow, at the right a handwritten 8 that the network made of it.",
)
# The still picture of each panel, and what it shows.
STILLS = {
    "draw": _DIGITS,
    "sampling": _DIGITS,
    "guidance": (
        "/chapters/images/live-guidance.png",
        "Two pictures of 28 × 28 grey squares: at the left snow, at the right the T-shirt that the network made of it.",
    ),
    "mixture": (
        "/chapters/images/live-mixture.png",
        "Eighty points in the plane, each at the end of a grey path, most of them near a blue ring of ten bumps.",
    ),
    "schedule": (
        "/chapters/images/live-schedule.png",
        "Three curves of log SNR falling over t/T, the linear one marked at 0.3; beside them the cat at that level.",
    ),
}
_WALK = {"steps": 50, "seed": 1, "sampler": "ddim", "beside": ""}
_DRAW = {"panel": "draw", "models": "digits fashion-mnist", **_WALK}
# What stands in a figure for its script, by the panel's name; `panel` there is the kind, of which two panels may be.
PANELS: dict[str, dict[str, object]] = {
    "draw": {**_DRAW, "controls": "seed model"},
    "sampling": {**_DRAW, "controls": "model sampler beside steps spacing eta seed"},
    "guidance": {
        **_DRAW,
        "models": "fashion-mnist-classes",
        "classes": ", ".join(_diffusion("fashion-mnist-classes")["class_names"]),
        "label": 0,
        "guidance": 2,
        "steps": 20,
        "controls": "label guidance sampler steps spacing eta seed",
    },
    "mixture": {"panel": "mixture", **_WALK, "controls": "preset sampler steps spacing eta seed"},
    "schedule": {"panel": "schedule"},
}
MODELS = ("digits", "fashion-mnist", "fashion-mnist-classes")
TABLES = ("mixture-tables", "schedule-tables")


class LiveModel(SphinxDirective):
    """Puts a panel in its place, with its script after it."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {
        "models": directives.unchanged_required,
        "controls": directives.unchanged,
        "sampler": directives.unchanged,
        "beside": directives.unchanged,
        "label": directives.nonnegative_int,
        "guidance": directives.unchanged,
        "steps": directives.positive_int,
        "seed": directives.nonnegative_int,
    }

    def run(self) -> list[nodes.Node]:
        """The figure: what the script has to know, the still picture, the caption."""
        panel = self.arguments[0]
        if panel not in PANELS:
            raise self.error(f"no panel {panel!r}; there are {', '.join(PANELS)}")
        (still, alt), settings = STILLS[panel], PANELS[panel]
        if foreign := self.options.keys() - settings.keys():
            raise self.error(f"the panel {panel} has no {' and no '.join(sorted(foreign))}")
        values = {"id": f"live-{panel}"} | {
            f"data-{name}": value for name, value in (settings | self.options).items()
        }
        known = "".join(f' {name}="{html.escape(str(value))}"' for name, value in values.items())
        folder = "../" * self.env.docname.count("/") + SCRIPTS
        picture = nodes.image(uri=still, alt=alt, classes=["dark-light"])
        return [
            _raw(f'<link rel="stylesheet" href="{folder}/panel.css"><figure class="live-model"{known}>'),
            picture,
            _raw(f"<noscript><p>{WITHOUT}</p></noscript><figcaption>"),
            *self.parse_content_to_nodes(),
            _raw(f'</figcaption></figure><script src="{folder}/panel.js"></script>'),
        ]


def _raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def fingerprint(name: str) -> str:
    """Changes whenever the model does, or the package's tables, or a tool that writes them."""
    tools = [TOOLS / "export_live_model.py", TOOLS / "live_tables.py"]
    files = [
        *tools,
        *sorted((ROOT / "ddpm").glob("*.py")),
        *sorted((ROOT / "checkpoints" / name).glob("*.*")),
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def script(name: str) -> str:
    """The script of a model or of a panel's tables."""
    sys.path[:0] = [] if str(TOOLS) in sys.path else [str(TOOLS)]
    from export_live_model import exported
    from live_tables import tables_script

    return exported(name) if name in MODELS else tables_script(name)


def write_scripts(app: Sphinx, exception: Exception | None) -> None:
    """Put the script of every model and of all tables beside the engine."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir) / SCRIPTS
    STORE.mkdir(parents=True, exist_ok=True)
    for name in (*MODELS, *TABLES):
        kept = STORE / f"{name}-{fingerprint(name)}.js"
        if not kept.exists():
            unfinished = kept.with_suffix(".part")
            unfinished.write_text(script(name), encoding="utf-8")
            unfinished.replace(kept)
        (folder / f"{name}.js").write_bytes(kept.read_bytes())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("live-model", LiveModel)
    app.connect("build-finished", write_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
