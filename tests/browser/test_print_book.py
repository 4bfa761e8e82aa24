"""The PDF: what is folded is open, what belongs to the screen is gone, and a missing picture is an error."""

import re
import zlib

import pytest
from print_book import print_page

PAGE = """<!doctype html><meta charset="utf-8"><html><body><article><h1>One</h1>
<details><summary>more</summary><p>folded away</p></details><div class="toggle-hidden">a solution</div>
<img src="{source}" width="9"><img class="on-dark" src="{source}" width="9"><h1>Two</h1></article></body></html>"""
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


@pytest.fixture
def page(chromium):
    page = chromium.new_page()
    yield page
    page.close()


def test_two_chapters_are_two_sheets_with_an_outline_and_all_is_open(page, tmp_path):
    source, pdf = tmp_path / "book.html", tmp_path / "out" / "book.pdf"
    source.write_text(PAGE.format(source=PIXEL), encoding="utf-8")
    print_page(page, source, pdf)
    assert page.locator("text=folded away").is_visible()
    assert page.locator("img").count() == 1
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF-")
    whole = data + b"".join(unpacked(data))
    assert len(re.findall(rb"/Type\s*/Page\b", whole)) == 2
    assert b"/Outlines" in whole


def unpacked(data):
    """The compressed parts of a PDF."""
    for match in re.finditer(rb"stream\r?\n(.*?)endstream", data, re.DOTALL):
        try:
            yield zlib.decompress(match.group(1))
        except zlib.error:
            continue


def test_a_missing_picture_is_an_error(page, tmp_path):
    source = tmp_path / "book.html"
    source.write_text(PAGE.format(source="nowhere.png"), encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"the page lacks 1 pictures, such as file:.*nowhere"):
        print_page(page, source, tmp_path / "book.pdf")
