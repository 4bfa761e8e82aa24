"""Words for figures."""

import pytest

from ddpm.cli import report


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "less than a second"),
        (1, "1 second"),
        (85, "1 minute and 25 seconds"),
        (720, "12 minutes"),
        (3.5 * 3600 + 20, "3 hours and 30 minutes"),
        (653 * 86400 + 70, "653 days"),
        (2.0**63, "10,000 years or more"),
    ],
)
def test_duration_is_told_in_units_that_fit(seconds, words):
    assert report.duration(seconds) == words


def test_counted_has_a_plural():
    words = [report.counted(*pair) for pair in ((0, "image"), (1, "process"), (2, "process"), (1000, "core"))]
    assert words == ["0 images", "1 process", "2 processes", "1,000 cores"]


def test_paragraphs_are_no_wider_than_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    values = {f"option_{number}": [number, number + 1] for number in range(12)}
    said, other = report.paragraphs({"network": values | {"nothing": None}, "on": "cpu"})
    lines = said.splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("  network    option_0=[0, 1], ")
    assert all(line.startswith(" " * 13 + "option_") for line in lines[1:])
    assert "nothing" not in said
    assert other == "  on         cpu"
