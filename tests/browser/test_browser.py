"""The built book in a real browser: formulas are typeset, nothing is asked of the network, pages fit a phone.

Each page is shown in two frames, as wide as a laptop and as a phone, by a wrapper that waits for the
formulas and reports what it finds. The book is served on the loopback address; every other name is
made unresolvable, and the browser's own log of the network says what it asked for.
"""

import functools
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from book_numbers import ROOT, page_files
from bs4 import BeautifulSoup

HTML = ROOT / "_build" / "html"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--enable-logging=stderr",
]
WIDTHS = (1280, 390)
NO_PAGE = "not an origin"  # so the log calls the initiator of what the browser asks for itself
PAGES = [path.stem for path in page_files()]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"no Chromium found (looked for {', '.join(NAMES)})")

WRAPPER = """<!doctype html><title>wrapper</title><link rel="icon" href="data:,"><body><script>
const widths = WIDTHS, address = "ADDRESS";
async function look(width) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.style.height = "900px"; frame.src = address;
  const loaded = new Promise(done => { frame.onload = done; });
  document.body.append(frame);
  await loaded;
  const page = frame.contentWindow, text = page.document;
  if (page.MathJax?.startup?.promise) await page.MathJax.startup.promise;
  await text.fonts.ready;
  const overflowing = [...text.querySelectorAll("article *")].filter(element => {
    if (element.closest("mjx-container, pre, .pst-scrollable-table-container, .sr-only")) return false;
    return element.getBoundingClientRect().right > text.documentElement.clientWidth + 1;
  }).map(element => element.outerHTML.slice(0, 120));
  const cut = [...text.querySelectorAll("article .math, article .math mjx-container")].filter(element =>
    element.scrollWidth > element.clientWidth + 1 && page.getComputedStyle(element).overflowX === "hidden"
  ).map(element => element.textContent.slice(0, 120));
  const pictures = [...text.querySelectorAll("article img")].filter(image => image.complete && !image.naturalWidth);
  const code = text.querySelector("article div.highlight pre");
  const style = code && page.getComputedStyle(code);
  const ruler = document.createElement("canvas").getContext("2d");
  if (code) ruler.font = style.font;
  return {
    width: text.documentElement.clientWidth,
    scroll_width: text.documentElement.scrollWidth,
    formulas: text.querySelectorAll("article .math").length,
    typeset: text.querySelectorAll("article .math mjx-container").length,
    wrong: [...text.querySelectorAll("mjx-merror, [data-mjx-error]")].map(element => element.textContent),
    overflowing,
    cut,
    broken_pictures: pictures.map(image => image.src),
    columns: code ? (code.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight))
      / ruler.measureText("0").width : null,
  };
}
(async () => {
  const found = [];
  for (const width of widths) found.push(await look(width));
  const result = document.createElement("pre");
  result.id = "result"; result.textContent = JSON.stringify(found);
  document.body.append(result);
})();
</script></body>"""


@dataclass
class Site:
    """A running server of the book, and the paths it could not serve."""

    address: str
    missing: list[str] = field(default_factory=list)


@dataclass
class Visit:
    """What one page did in the browser: a report for each width, JavaScript errors, names it asked for."""

    reports: list[dict[str, Any]]
    errors: list[str]
    foreign: set[str]


@pytest.fixture
def site() -> Iterator[Site]:
    """The book on a free port of the loopback address, with a wrapper for each page under /wrapper/."""
    if not (HTML / "index.html").exists():
        pytest.fail("The book is not built. Run `make book` first, or `make pages`, which does.")
    served = Site("")

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/wrapper/"):
                return super().do_GET()
            page = WRAPPER.replace("WIDTHS", json.dumps(WIDTHS)).replace(
                "ADDRESS", self.path.removeprefix("/wrapper")
            )
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            return self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

        def log_error(self, *_: object) -> None:
            served.missing.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(HTML)))
    served.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield served
    server.shutdown()


def asked_for(log: Path, own: str) -> set[str]:
    """The addresses of other hosts that a page asked for, in the browser's log of the network.

    What the browser asks for itself (updates, the time of day) has no page as its initiator.
    """
    events = [event.get("params", {}) for event in json.loads(log.read_text(encoding="utf-8"))["events"]]
    of_pages = [event for event in events if event.get("initiator", NO_PAGE) != NO_PAGE and "url" in event]
    return {event["url"] for event in of_pages if not event["url"].startswith((own, "file:", "data:"))}


def visit(address: str, own: str, folder: Path) -> tuple[str, Visit]:
    """Show one address; return the resulting DOM and what happened, without reports."""
    log = folder / "network.json"
    command = [
        str(CHROMIUM),
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--window-size=1400,1000",
        "--virtual-time-budget=30000",
        "--dump-dom",
        address,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line and is_error(line)]
    return done.stdout, Visit([], errors, asked_for(log, own))


def is_error(line: str) -> bool:
    """Whether a line of the console speaks of a mistake of the page."""
    return any(word in line for word in ("Uncaught", "Error", "Failed to load", "ERR_", "Refused"))


@pytest.mark.parametrize("page", PAGES)
def test_page_over_http(page: str, site: Site, tmp_path: Path) -> None:
    dom, seen = visit(f"{site.address}/wrapper/chapters/{page}.html", site.address, tmp_path)
    result = BeautifulSoup(dom, "html.parser").find(id="result")
    assert result is not None, "the page did not finish loading"
    seen.reports = json.loads(result.get_text())
    assert seen.errors == []
    assert seen.foreign == set()
    assert site.missing == []
    assert [report["width"] for report in seen.reports] == list(WIDTHS)
    for report in seen.reports:
        assert report["typeset"] == report["formulas"]
        assert report["wrong"] == []
        assert report["broken_pictures"] == []
        assert report["overflowing"] == []
        assert report["cut"] == []
        assert report["scroll_width"] == report["width"]
    # The widest line that `ruff format` lets a chapter have is shown without scrolling on a laptop.
    assert seen.reports[0]["columns"] is None or seen.reports[0]["columns"] >= 88


@pytest.mark.parametrize("page", PAGES)
def test_page_over_file(page: str, tmp_path: Path) -> None:
    if not (HTML / "index.html").exists():
        pytest.fail("The book is not built. Run `make book` first, or `make pages`, which does.")
    address = (HTML / "chapters" / f"{page}.html").as_uri()
    dom, seen = visit(address, "file://", tmp_path)
    document = BeautifulSoup(dom, "html.parser")
    assert seen.errors == []
    assert seen.foreign == set()
    formulas = document.select("article .math")
    assert [str(formula)[:80] for formula in formulas if not formula.find("mjx-container")] == []
    assert document.find("mjx-merror") is None


def test_a_request_to_another_host_and_an_error_would_be_noticed(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        """<script src="http://script.invalid/x.js"></script><style>p { background: url(https://css.invalid/) }</style>
        <p>x</p><script>fetch("https://fetch.invalid/").catch(() => 0); missing();</script>""",
        encoding="utf-8",
    )
    _, seen = visit(bad.as_uri(), "file://", tmp_path)
    assert seen.foreign == {"http://script.invalid/x.js", "https://css.invalid/", "https://fetch.invalid/"}
    assert any("missing is not defined" in line for line in seen.errors)
