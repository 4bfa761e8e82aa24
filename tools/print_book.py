"""Print the book to one PDF, from the one long page that `make pdf` builds first.

    python tools/print_book.py [PAGE [PDF]]

A browser prints it, so that formulas and figures are those of the pages. What is folded there is open here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build" / "one" / "_build" / "singlehtml"
PDF = ROOT / "_build" / "pdf" / "out-of-the-snow.pdf"
PATIENCE = 600_000  # milliseconds: all formulas of the book are typeset on one page
# A figure stays on one sheet; what belongs to the screen alone is not printed.
STYLE = """
@page { size: A4; margin: 18mm 16mm 20mm; }
html { font-size: 12px; scroll-behavior: auto !important; }
.bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-footer, .headerlink, .copybtn,
  .skip-link, .toggle-button, #pst-skip-link, #pst-back-to-top { display: none !important; }
ul.chapter-map { grid-template-columns: repeat(3, 1fr) !important; }
ul.chapter-map > li { break-inside: avoid; }
figure, table, div.math, .sd-card, .cell_input { break-inside: avoid; }
h1, h2, h3 { break-after: avoid; }
h1 { break-before: page; }
#jb-print-docs-body h1 { break-before: auto; }
pre { white-space: pre-wrap !important; font-size: .78rem !important; }
.bd-article, .bd-article-container, .bd-content { padding: 0 !important; max-width: none !important; }
"""
READY = """async () => {
  document.documentElement.dataset.theme = document.documentElement.dataset.mode = "light";
  document.querySelectorAll("details").forEach(folded => { folded.open = true; });
  document.querySelectorAll(".toggle-hidden").forEach(folded => folded.classList.remove("toggle-hidden"));
  document.querySelectorAll("img.on-dark, dialog").forEach(image => image.remove());
  const images = [...document.querySelectorAll("article img")];
  images.forEach(image => { image.loading = "eager"; });
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  await document.fonts.ready;
  await Promise.all(images.map(image => image.decode().catch(() => {})));
  return images.filter(image => !image.naturalWidth && image.getClientRects().length).map(image => image.src);
}"""


def print_page(page: Page, source: Path, pdf: Path) -> None:
    """Print one page that is open in a browser.

    Raises:
        RuntimeError: if a picture is missing.
    """
    page.set_default_timeout(PATIENCE)
    page.emulate_media(color_scheme="light")
    page.goto(source.as_uri(), timeout=PATIENCE)
    page.add_style_tag(content=STYLE)
    if missing := page.evaluate(READY):
        raise RuntimeError(f"the page lacks {len(missing)} pictures, such as {missing[0]}")
    pdf.parent.mkdir(parents=True, exist_ok=True)
    number = (
        '<div style="width: 100%; font-size: 8px; text-align: center"><span class="pageNumber"></span></div>'
    )
    page.pdf(
        path=str(pdf),
        format="A4",
        prefer_css_page_size=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=number,
        outline=True,
        tagged=True,
    )


def main(source: Path, pdf: Path) -> None:
    """Print, and say where."""
    sys.path.insert(0, str(ROOT))
    from tests.chromium import launch

    with sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            sys.exit("no Chromium that starts was found: run make browser")
        print_page(browser.new_page(), source, pdf)
        browser.close()
    print(f"{pdf} ({pdf.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    given = [Path(word).resolve() for word in sys.argv[1:]]
    main(given[0] if given else BUILD / "book.html", given[1] if given[1:] else PDF)
