"""The set-up cell of the chapters, run as on Colab: what it installs, and what it refuses."""

import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from execute_notebooks import TIME_LIMIT
from IPython.core.inputtransformer2 import TransformerManager
from notebook_form import LINE_LIMIT, setup_cell

from ddpm.book.runtime import LIMIT, describe

HERE = "https://github.com/me/book"


class Shell:
    """Stands for Colab's shell, and keeps what it was told to do."""

    def __init__(self, clone: Path | None, versions: dict[str, str]) -> None:
        self.told: list[str] = []
        self.clone, self.versions = clone, versions

    def system(self, line: str) -> None:
        self.told.append(f"!{line}")
        if self.clone:
            self.clone.mkdir()

    def run_line_magic(self, name: str, line: str) -> None:
        self.told.append(f"%{name} {line}")
        if name == "pip" and self.versions:
            self.versions["torch"] = "0.0"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that runs the cell as Colab would, in a folder that stands for /content."""

    def run(repository: str, *, on_colab: bool = True, spoils_torch: bool = False) -> list[str]:
        versions: dict[str, str] = {"torch": "2.9"} if spoils_torch else {}
        shell = Shell(tmp_path / "book" if repository else None, versions)
        if on_colab:
            monkeypatch.setitem(sys.modules, "google.colab", object())
        true = metadata.version
        monkeypatch.setattr(metadata, "version", lambda name: versions.get(name) or true(name))
        cell = TransformerManager().transform_cell(setup_cell(repository).replace("/content", str(tmp_path)))
        # A shell fills in what stands in braces.
        names: dict[str, object] = {"get_ipython": lambda: shell}
        exec(cell, names)
        return [
            line.replace("{wheel or book}", str(names.get("wheel") or names.get("book")))
            for line in shell.told
        ]

    return run


def test_elsewhere_it_does_nothing(run) -> None:
    assert run(HERE, on_colab=False) == []


def test_published_it_clones_a_tag_and_installs_without_dependencies(run, tmp_path, capsys) -> None:
    clone, install, change = run(HERE)
    assert clone.startswith("!git clone -q --depth 1 --branch v")
    assert install == f"%pip install --quiet --no-deps {tmp_path}/book"
    assert change == f"%cd -q {tmp_path}/book/chapters"
    assert describe() in capsys.readouterr().out


def test_published_nowhere_it_says_what_to_upload(run) -> None:
    with pytest.raises(AssertionError, match="upload the wheel, or a clone as"):
        run("")


@pytest.mark.parametrize("repository", ["", HERE])
def test_an_uploaded_wheel_is_taken_and_nothing_is_fetched(repository, run, tmp_path) -> None:
    (tmp_path / "out_of_the_snow-0.1.0-py3-none-any.whl").touch()
    (install,) = run(repository)
    assert install == f"%pip install --quiet --no-deps {tmp_path}/out_of_the_snow-0.1.0-py3-none-any.whl"


def test_an_uploaded_clone_is_taken(run, tmp_path) -> None:
    (tmp_path / "book").mkdir()
    assert [line.split()[0] for line in run(HERE)] == ["%pip", "%cd"]


def test_an_install_that_changes_torch_is_refused(run, tmp_path) -> None:
    (tmp_path / "book").mkdir()
    with pytest.raises(AssertionError, match="torch or numpy changed"):
        run("", spoils_torch=True)


def test_it_keeps_to_the_form_of_a_cell() -> None:
    lines = setup_cell(HERE).splitlines()
    assert len(lines) <= LINE_LIMIT
    assert max(map(len, lines)) <= 88


def test_the_time_it_names_is_the_limit_and_a_gpu_is_named(monkeypatch) -> None:
    assert LIMIT * 60 == TIME_LIMIT
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert describe().startswith("No GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert describe().startswith("GPU: Tesla T4.")
