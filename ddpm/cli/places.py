"""What words and paths on the command line stand for, by the rule of `ddpm.io.paths`, and data that have moved."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ddpm.cli.checks import check_data
from ddpm.cli.run_config import RunConfig
from ddpm.data.names import TORCHVISION, known_name
from ddpm.io.paths import RUN, FoundModel, locate_model


def path(text: str | Path) -> Path:
    """A path, "~" being the home directory, also where the shell did not see it, as in --out=~/run."""
    return Path(word(text)).expanduser()


def word(text: str | Path) -> str:
    """A word or path as it was written: "./digits" is a folder, "digits" may be a name. An empty one is refused."""
    if str(text) == "":
        raise ValueError("it is empty, as an unset variable of a script would be")
    return str(text)


def absolute(place: str | Path) -> str:
    """A path that means the same in any working directory; ".." goes, as the folder before it might."""
    given = Path(place).expanduser()
    return str(given.resolve() if os.pardir in given.parts else given.absolute())


def with_absolute_root(run_config: RunConfig) -> RunConfig:
    """The run config with the folder of torchvision's files as a path that means the same when the run is resumed."""
    if known_name(run_config.data["name_or_path"]) not in TORCHVISION and "root" not in run_config.data:
        return run_config
    return run_config.changed("data", root=absolute(run_config.data.get("root", "data")))


def with_data_at(run_config: RunConfig, run: Path, data: Path | None, data_root: Path | None) -> RunConfig:
    """A run's config, its own folder being `run`, with its data where they are now; None is where they were.

    Raises:
        ValueError: if the run's data have a name and `data` is given.
    """
    run_config = run_config.changed("training", results_folder=str(run))
    source = run_config.data["name_or_path"]
    if data is not None and known_name(source):
        raise ValueError(
            f"--data {data} is for a run on a folder of images, but {run} learns from {source}: leave it out; where"
            " torchvision's files are is said by --data-root"
        )
    return run_config.changed(
        "data",
        name_or_path=data and absolute(data),
        root=data_root and absolute(data_root),
    )


def no_run(model: str) -> FoundModel:
    """The model of this word, or path, which is not the folder of a run."""
    try:
        return locate_model(model)
    except FileNotFoundError as error:
        what = f"{model} is not the folder of a run: it holds neither {RUN} nor checkpoints, and there is {error}"
        raise FileNotFoundError(what) from error


@contextlib.contextmanager
def data_of(run_config: RunConfig, run: Path, command: str) -> Iterator[None]:
    """Errors about a run's data say where the run has them from, and how to say where they are now."""
    source = run_config.data["name_or_path"]
    name = known_name(source)
    option = "--data-root" if name in TORCHVISION else "--data"
    where = run_config.data.get("root", "data") if name in TORCHVISION else source
    try:
        check_data(source)
        yield
    except (OSError, ValueError, RuntimeError) as error:
        error.add_note(
            f"{run / RUN} says that the data are in {where}. If they have moved: ddpm {command} {run} {option} FOLDER"
        )
        raise
