"""A browser for every test of this folder, and a word where there was none; pages with panels; the book on a port."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from book_numbers import ROOT

from tests.browser.panels import folder, show  # noqa: F401 (fixtures)
from tests.chromium import chromium, pytest_sessionfinish  # noqa: F401 (a fixture and a hook)

HTML = ROOT / "_build" / "html"


@pytest.fixture(scope="module")
def built():
    """The book has been built."""
    if not (HTML / "index.html").exists():
        pytest.fail("The book is not built. Run `make book` first, or `make pages`, which does.")


class Handler(SimpleHTTPRequestHandler):
    """Serves files without a word; what is missing gets 404.html, as on the servers of GitHub."""

    def log_message(self, *_):
        pass

    def send_error(self, code, message=None, explain=None):
        lost = HTML / "404.html"
        if code != 404 or not lost.exists():
            return super().send_error(code, message, explain)
        self.send_response(404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(lost.read_bytes())
        return None


@pytest.fixture(scope="module")
def site(built):  # noqa: ARG001
    """The address of the book on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
