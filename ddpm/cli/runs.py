"""Runs that begin, go on, or have ended, by whichever command."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.cli import report
from ddpm.cli.places import check_there, load_data
from ddpm.cli.report import show
from ddpm.cli.run_config import RunConfig
from ddpm.data.names import canonical, known_name
from ddpm.io.checkpoint import list_checkpoints
from ddpm.io.paths import RUN, holds_run
from ddpm.io.streams import as_typed

if TYPE_CHECKING:
    import ddpm

# What a run takes by its machine, and keeps, so that it computes the same bits when it goes on.
_OF_THE_MACHINE = ("num_threads", "num_workers", "mixed_precision")


def continued(folder: Path, fresh: RunConfig, *, by_preset: bool) -> RunConfig:
    """What `ddpm train … --resume` starts from: the run in the folder, if there is one, else a fresh run config.

    The options of the command line are to be laid over it. `by_preset` is for a preset that is named: that counts then.
    A folder of images may have moved: then it is no longer where it was.

    Raises:
        ValueError: if the run in the folder learns from other data.
    """
    if not holds_run(folder):
        return fresh
    saved = RunConfig.load(folder)
    before, now = (config.data["name_or_path"] for config in (saved, fresh))
    by_name = any(known_name(source) for source in (before, now))
    if canonical(before) != canonical(now) if by_name else _is_another(Path(before), Path(now)):
        meant = (
            f"; or, if these are its images, `ddpm resume {as_typed(folder)} --data {as_typed(Path(now))}`"
        )
        raise ValueError(
            f"{folder} holds a run that learns from {before}, not from {now}: choose another folder by --out"
            f"{'' if by_name else meant}"
        )
    if before == now:
        check_there(saved, folder, "resume")
    if by_preset:
        kept = {name: saved.training[name] for name in _OF_THE_MACHINE if name in saved.training}
        return fresh.changed("training", **kept)
    return saved.changed("data", name_or_path=now)


def _is_another(before: Path, now: Path) -> bool:
    """Whether both folders are there, and are two."""
    return before.is_dir() and now.is_dir() and not before.samefile(now)


def with_warm_up_that_fits(run_config: RunConfig, overrides: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """The run config with a tenth of the run as warm-up, where the preset's is longer, and a line that says so.

    A preset's is meant for its own number of updates. One that the user chose stays.
    """
    config = run_config.training_config
    longest = config.train_num_steps // 10
    if config.lr_warmup_steps <= longest or any("lr_warmup_steps" in text for text in overrides):
        return run_config, []
    said = f"{longest} of {config.train_num_steps:,} updates, as the preset's {config.lr_warmup_steps:,} are too many"
    return run_config.changed("training", lr_warmup_steps=longest), report.paragraphs({"warm-up": said})


def load_images(run_config: RunConfig, run: Path) -> Any:
    """The data of a run that goes on: of one that a program began the folder, so that the Trainer takes it as there."""
    if (run / RUN).is_file():
        return load_data(run_config, run, "resume")
    check_there(run_config, run, "resume")
    return Path(run_config.data["name_or_path"])


def with_class_names(run_config: RunConfig, diffusion: "ddpm.GaussianDiffusion", images: Any) -> RunConfig:
    """The run config, and the model, with the names that the data set has for the classes, where none are known yet.

    Raises:
        ValueError: if the sub-folders are no longer those that are the model's classes.
    """
    count, given = getattr(diffusion.network, "num_classes", None), getattr(images, "classes", None)
    names = [name for name in given or () if isinstance(name, str)]
    if diffusion.class_names is None:
        if count is None or len(set(names)) != count:
            return run_config
        diffusion.class_names = names
    elif run_config.data.get("classes") == "folders" and diffusion.class_names != names:
        raise ValueError(
            f"the sub-folders of {run_config.data['name_or_path']} are {', '.join(names)}, but the run's classes are"
            f" {', '.join(diffusion.class_names)}: a run goes on with the classes that it began with"
        )
    return run_config.changed("diffusion", class_names=diffusion.class_names)


def go_on(trainer: "ddpm.Trainer", run_config: RunConfig, folder: Path) -> None:
    """Train from the newest checkpoint, or from the beginning where there is none, unless all is done."""
    steps = run_config.training_config.train_num_steps
    if list_checkpoints(folder):
        trainer.load()
        if trainer.step >= steps:
            more = f"`ddpm resume {as_typed(folder)} --train-steps {2 * trainer.step}`"
            show(f"{folder} is finished, at step {trainer.step}; to train on: {more}")
            return
        show(f"resuming {folder} at step {trainer.step} of {steps}, on {report.described_data(run_config)}")
    else:
        show(f"{folder} has no checkpoint yet: beginning at step 0 of {steps}")
    train(trainer, run_config, folder)


def train(trainer: "ddpm.Trainer", run_config: RunConfig, folder: Path) -> None:
    """Keep the run config, train, and say what comes next."""
    by_program = list_checkpoints(folder) and not (folder / RUN).is_file()
    with trainer.locked():  # so that a run which is under way there keeps its own
        if trainer.accelerator.is_main_process and not by_program:
            run_config.save(folder)
    trainer.train()
    # Interrupted by a Ctrl-C that this shell ignores, as for a job with &.
    if trainer.step < run_config.training_config.train_num_steps:
        raise KeyboardInterrupt
    show(
        f"done: {trainer.step} steps in {report.duration(trainer.seconds)}; the model is in {folder}",
        f"draw from it with: ddpm sample {as_typed(folder)} -n 64 --out samples.png",
    )
