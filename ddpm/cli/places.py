"""What words and paths on the command line stand for, by the rule of `ddpm.io.paths`, and data that have moved."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ddpm.cli import report
from ddpm.cli.checks import check_writable
from ddpm.cli.run_config import RunConfig
from ddpm.data.names import TORCHVISION, check_name_or_folder, known_name
from ddpm.data.names import described as data_described
from ddpm.io.checkpoint import CHECKPOINTS, list_checkpoints
from ddpm.io.paths import RUN, expanded, locate_model
from ddpm.io.streams import as_typed


def path(text: str | Path) -> Path:
    """A path, "~" being the home directory, also where the shell did not see it, as in --out=~/run."""
    return expanded(word(text))


def word(text: str | Path) -> str:
    """A word or path as it was written: "./digits" is a folder, "digits" may be a name. An empty one is refused."""
    if str(text) == "":
        raise ValueError("it is empty, as an unset variable of a script would be")
    return str(text)


_MODEL_HELP = 'The folder of a run, a checkpoint or an exported model, or a name such as "digits".'
_MOVED_HELP = "The folder of the run's images, if they have moved."

Run = Annotated[Path, typer.Argument(parser=path, help="The folder of a run.")]
Model = Annotated[str, typer.Argument(parser=word, help=_MODEL_HELP)]
DataAt = Annotated[Path | None, typer.Option("--data", parser=path, help=_MOVED_HELP)]
DataRoot = Annotated[Path | None, typer.Option(parser=path, help="For torchvision's files.")]


def absolute(place: str | Path) -> str:
    """A path that means the same in any working directory; ".." goes, as the folder before it might."""
    given = expanded(place)
    return str(given.resolve() if os.pardir in given.parts else given.absolute())


def with_absolute_root(run_config: RunConfig) -> RunConfig:
    """The run config with the folder of torchvision's files as a path that means the same when the run is resumed."""
    if known_name(run_config.data["name_or_path"]) not in TORCHVISION and "root" not in run_config.data:
        return run_config
    return run_config.changed("data", root=absolute(run_config.data.get("root", "data")))


def check_root(source: str, data_root: Path | None, overrides: Sequence[str] = ()) -> None:
    """Refuse a folder for torchvision's files, by either option, where the data have none."""
    given = [] if data_root is None else [f"--data-root {data_root}"]
    given += [f"--set {text}" for text in overrides if text.startswith("data.root=")]
    if given and known_name(source) not in TORCHVISION:
        raise ValueError(
            f"{given[0]} is for the files of torchvision's data sets, but the data are {data_described(source)}: leave"
            " it out"
        )


def load_run(run: Path, data: Path | None, data_root: Path | None) -> RunConfig:
    """The config of the run in a folder, with its data where they are now; None is where they were.

    Raises:
        FileNotFoundError: if it is not the folder of a run.
        PermissionError: if it cannot be written, as all do that load a run.
        ValueError: if `data` or `data_root` is not for such data as the run's, or its config is spoiled.
    """
    run_config = RunConfig.load(run).changed("training", results_folder=str(run))
    source = run_config.data["name_or_path"]
    if data is not None and known_name(source):
        raise ValueError(
            f"--data {data} is for a run on a folder of images, but {run} learns from {source}: leave it out; where"
            " torchvision's files are is said by --data-root"
        )
    check_root(source, data_root)
    check_writable(run, by=", and copy the run there, whose samples and figures are written to it")
    return run_config.changed(
        "data",
        name_or_path=data and absolute(data),
        root=data_root and absolute(data_root),
    )


def described(model: str) -> list[str]:
    """What lies where a word leads: a run, how far it got and which of its checkpoints are whole, or a model."""
    run = path(model)
    there, begun = list_checkpoints(run), (run / RUN).is_file()
    if there or begun:
        return report.described_folder(run, there, RunConfig.load(run) if begun else None)
    try:
        return report.described_config(locate_model(model))
    except FileNotFoundError as error:
        what = f"{model} is not the folder of a run: it holds neither {RUN} nor checkpoints, and there is {error}"
        raise FileNotFoundError(what) from error


def images_of(model: Path) -> Path | None:
    """The folder of images that the model in a folder learned from, where it lies in its run and that says so."""
    checkpoints = model.absolute().parent
    if checkpoints.name != CHECKPOINTS:
        return None
    with contextlib.suppress(OSError, ValueError):
        source = RunConfig.load(checkpoints.parent).data["name_or_path"]
        return None if known_name(source) else expanded(source)
    return None


def load_data(run_config: RunConfig, run: Path, command: str) -> Any:
    """A run's data; an error says where the run has them from, and how to say where they are now."""
    check_there(run_config, run, command)
    with _told_where(run_config, run, command):
        return run_config.load_data()


def check_there(run_config: RunConfig, run: Path, command: str) -> None:
    """Refuse the data of a run that are not where the run has them from."""
    with _told_where(run_config, run, command):
        check_name_or_folder(run_config.data["name_or_path"])


@contextlib.contextmanager
def _told_where(run_config: RunConfig, run: Path, command: str) -> Iterator[None]:
    """Meanwhile a run's data are looked for: an error says where the run has them from, and how to give others."""
    source = run_config.data["name_or_path"]
    name = known_name(source)
    option = "--data-root" if name in TORCHVISION else "--data"
    where = run_config.data.get("root", "data") if name in TORCHVISION else source
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        # Of a folder that is there, it is a cache that cannot be written.
        if isinstance(error, OSError) and name is None and Path(source).is_dir():
            error.add_note(
                f'Its place is data.cache in {run / RUN}: "prepared" is in the run, null does without.'
            )
            raise
        error.add_note(
            f"{run} says that the data are in {where}. If they have moved:"
            f" ddpm {command} {as_typed(run)} {option} FOLDER"
        )
        raise
