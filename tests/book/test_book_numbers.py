"""What the tools take for prose: not code, but what a directive holds, and what comes after it."""

import pytest
from book_numbers import prose_lines


@pytest.mark.parametrize(
    ("source", "prose"),
    [
        ("# One\ntext", ["# One", "text"]),
        ("a\n```python\n# no heading\n```\nb", ["a", "b"]),
        ("```{figure} x\nwords\n```\n# Two", ["```{figure} x", "words", "```", "# Two"]),
        ("```{live-model} draw\nwords\n```\na\n```{solution-end}\n```\n## Three", "all"),
        (
            "````{exercise} A\n```text\n# none\n```\nwords\n````\n# Four",
            ["````{exercise} A", "words", "````", "# Four"],
        ),
        ("```text\n```{x}\n```\nb", ["b"]),
    ],
)
def test_prose_lines(source: str, prose: list[str] | str) -> None:
    assert list(prose_lines(source)) == (source.split("\n") if prose == "all" else prose)
