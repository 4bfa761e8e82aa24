"""Processes that load images, where they are not copies of this one: what a program has to look out for."""

import ast
import multiprocessing
import pickle
import sys
from pathlib import Path

GUARD = 'if __name__ == "__main__":'
_RUNS_ANEW = f"which runs your program anew as it starts: what the program does belongs under `{GUARD}`"


def refuse_in_the_making() -> None:
    """Refuse to train in a process that is being started to load images, and to that end runs the program anew."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(f"this is a process that loads images, {_RUNS_ANEW}, trainer.train() as well")


def why_a_worker_died() -> str:
    """The likeliest reason, to come after "a process that loads images died"."""
    if multiprocessing.get_start_method() == "fork":
        return ", perhaps because memory ran out"
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None:
        return (
            ", perhaps because it cannot import what was defined at the prompt or in a notebook: put the data set's"
            " class into a file and import it"
        )
    if not _is_guarded(Path(file)):
        return f", {_RUNS_ANEW}, and {file} has none"
    return ", perhaps because memory ran out"


def about_pickling(error: Exception) -> str | None:
    """What to do if this error says that the data set cannot be handed to a process; None for any other error."""
    words = str(error).lower()
    says_so = isinstance(error, pickle.PicklingError) or (
        isinstance(error, AttributeError | TypeError) and "pickle" in words
    )
    if not says_so:
        return None
    return (
        "The data set is handed to processes that load images by pickling it: define its class and its transforms at"
        " the top of a file, not within a function or as a lambda, and open files when an item is asked for; or load in"
        " the training process, num_workers=0."
    )


def _is_guarded(program: Path) -> bool:
    """Whether a program compares its `__name__` with anything; of one that cannot be read it is taken for granted."""
    try:
        nodes = ast.walk(ast.parse(program.read_bytes()))
    except (OSError, SyntaxError, ValueError):
        return True
    return any(isinstance(node, ast.Compare) and "Name(id='__name__'" in ast.dump(node) for node in nodes)
