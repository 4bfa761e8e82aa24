"""Processes that load images, where each runs the program anew: the last words say what to change."""

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddpm.training import spawning
from tests.runs import trainer

ROOT = Path(__file__).parents[2]
SCRIPT = """
import multiprocessing, sys
sys.path.insert(0, {root!r})
from tests.runs import trainer
{setting}
multiprocessing.set_start_method({method!r}, force=True)
{before}
    {guard}trainer({folder!r}, num_workers=1, train_num_steps=1).train()
"""


@pytest.mark.parametrize(
    ("method", "before", "said"),
    [
        (
            "spawn",
            "if True:",
            "runs your program anew as it starts: what the program does belongs under `if __name__",
        ),
        ("spawn", 'if __name__ == "__main__":', None),
    ],
)
def test_last_words_name_the_guard_that_is_missing(tmp_path, method, before, said):
    script = tmp_path / "mine.py"
    names = {"root": str(ROOT), "folder": str(tmp_path / "run"), "setting": "", "guard": ""}
    script.write_text(SCRIPT.format(method=method, before=before, **names))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    assert (done.returncode == 0) == (said is None), done.stderr[-1500:]
    assert said is None or said in last
    assert said is None or f"{script} has none; or lower num_workers (now 1; 0 loads" in last


@pytest.mark.parametrize(
    ("method", "text", "words"),
    [
        ("fork", "train()", ", perhaps because memory ran out"),
        ("spawn", "if __name__ == '__main__': train()", ", perhaps because memory ran out"),
        ("spawn", "train()", "and {file} has none"),
        ("forkserver", "train()", "and {file} has none"),
        ("spawn", "train()  # not under `if __name__ == '__main__':`", "and {file} has none"),
        ("spawn", "'if __name__ == \"__main__\":'; train()", "and {file} has none"),
        ("spawn", "if '__main__' == __name__ and ready: train()", ", perhaps because memory ran out"),
        ("spawn", "if __name__ == ", ", perhaps because memory ran out"),
        ("spawn", None, "at the prompt or in a notebook: put the data set's class into a file"),
    ],
)
def test_why_a_worker_died_looks_at_the_program(monkeypatch, tmp_path, method, text, words):
    file = tmp_path / "mine.py"
    main = SimpleNamespace() if text is None else SimpleNamespace(__file__=str(file))
    file.write_text(text or "")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: method)
    assert words.format(file=file) in spawning.why_a_worker_died()


def test_why_a_worker_died_does_without_the_program(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=str(tmp_path / "gone")))
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    assert spawning.why_a_worker_died() == ", perhaps because memory ran out"


def test_train_is_refused_in_a_process_that_is_still_starting(monkeypatch, tmp_path):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match=r"under `if __name__ == .__main__.:`, trainer\.train\(\) as well"):
        trainer(tmp_path).train()
    assert list(tmp_path.iterdir()) == []


class Unpicklable(torch.utils.data.Dataset):
    """Of images, with a transform that no other process can be handed."""

    def __init__(self):
        self.transform = lambda image: image

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return self.transform(torch.zeros(1, 8, 8))


@pytest.fixture
def spawning_processes():
    """As on Windows and macOS."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("spawning_processes")
def test_explained_says_what_to_do_about_data_that_cannot_be_pickled(tmp_path):
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)) as caught:
        trainer(tmp_path, data=Unpicklable(), num_workers=1).train()
    assert any("not within a function or as a lambda" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("error", "about"),
    [
        (pickle.PicklingError("Can't pickle <function>"), True),
        (AttributeError("Can't pickle local object 'f.<locals>.g'"), True),
        (TypeError("cannot pickle '_io.BufferedReader' object"), True),
        (AttributeError("no attribute 'x'"), False),
        (RuntimeError("cannot pickle"), False),
    ],
)
def test_about_pickling_is_about_nothing_else(error, about):
    assert (spawning.about_pickling(error) is not None) is about
