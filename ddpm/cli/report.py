"""What the command line says, in words and figures."""

import shutil
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import humanize

import ddpm
from ddpm.cli.checks import checked_precisions
from ddpm.cli.run_config import RunConfig
from ddpm.data.names import described
from ddpm.io.checkpoint import DamagedCheckpointError, read_checkpoint, verify
from ddpm.io.paths import FoundModel, read_config

_WIDEST = 110
_HOUR, _DAY, _LONGEST = 3600, 86400, 10_000 * 365 * 86400


def show(*lines: str) -> None:
    """Print, from one process only."""
    from ddpm.training.distributed import this_process

    if this_process().is_main_process:
        print("\n".join(lines), flush=True)


def described_run(run_config: RunConfig, trainer: "ddpm.Trainer", *, known: bool = True) -> list[str]:
    """What a run is made from; the data are not `known` where they have to be downloaded."""
    parameters = sum(parameter.numel() for parameter in trainer.diffusion.network.parameters())
    images = f"{len(trainer.data):,} images" if known else "to be downloaded"
    return paragraphs(
        {
            "data": f"{images}; {_listed(run_config.data)}; {described_data(run_config)}",
            "network": f"{parameters:,} parameters; {_listed(run_config.network)}",
            "diffusion": trainer.diffusion.config,
            "training": run_config.training,
            "on": f"{trainer.accelerator.device}, {counted(trainer.accelerator.num_processes, 'process')}",
        }
    )


def described_data(run_config: RunConfig) -> str:
    """What the data's word was taken for."""
    return described(run_config.data["name_or_path"], run_config.data.get("root"))


def described_model(found: FoundModel) -> list[str]:
    """What a word for a model was taken for."""
    return paragraphs({"model": found.said})


def described_config(found: FoundModel) -> list[str]:
    """A model that is no run: what it is and how it is made."""
    config = read_config(found.folder)
    parts = {part: config[part] for part in ("network", "diffusion")}
    checked = checked_precisions(found.folder)
    return [found.said, *paragraphs(parts | ({"checked in": ", ".join(checked)} if checked else {}))]


def described_folder(run: Path, checkpoints: list[Path], run_config: RunConfig | None) -> list[str]:
    """What a run is, how far it got, and which of its checkpoints are whole."""
    from ddpm.training.metrics_logger import read_metrics

    states = {folder: _state(folder) for folder in checkpoints}
    whole = [folder for folder, state in states.items() if state == "whole"]
    title = "no checkpoint is whole" if checkpoints else "no checkpoint yet"
    parts: dict[str, Any] = {} if run_config is None else asdict(run_config)
    begun_with = parts.pop("start", None)
    if run_config is not None and "name_or_path" in run_config.data:
        parts["data"] = f"{_listed(run_config.data)}; {described_data(run_config)}"
    if whole:
        newest = read_checkpoint(whole[-1])
        config, state = newest.documents["config"], newest.documents["state"]
        parameters = sum(tensor.numel() for tensor in newest.tensors["model"].values())
        where = (
            f"{config['device']}, {counted(config['processes'], 'process')}; {_listed(config['versions'])}"
        )
        parts = {
            "data": parts.get("data", config["data"]),
            "network": f"{parameters:,} parameters; {_listed(config['network'])}",
            "diffusion": config["diffusion"],
            "training": config["training"] | parts.get("training", {}),
            "trained": f"{duration(state['seconds'])} on {where}",
        }
        title = f"step {state['step']:,} of {parts['training']['train_num_steps']:,}"
    if begun_with is not None:
        parts["weights"] = f"begin as those of {begun_with}"
    for line in read_metrics(run)[-1:]:
        figures = f"loss {line['loss']:.4f}, {line['images_per_second']:,.0f} images/s"
        parts["metrics"] = f"step {line['step']:,}: {figures}"
    return [f"{run}: {title}", *paragraphs(parts | {folder.name: state for folder, state in states.items()})]


def _state(checkpoint: Path) -> str:
    """Whether a checkpoint is whole, or what is wrong with it."""
    try:
        verify(checkpoint)
    except DamagedCheckpointError as problem:
        return str(problem).removeprefix(f"{checkpoint} is ")
    except OSError as problem:
        return f"cannot be read: {problem}"
    return "whole"


def described_evaluation(figures: dict[str, Any]) -> Iterable[str]:
    """The figures of `ddpm evaluate`, a line each."""
    model, settings = figures["model"], figures["settings"]
    calls, part = counted(model["network_calls"], "network call"), settings["part"]
    yield f"{settings['images']} samples, {calls} each, and as many {part} images, by {settings['features']}"
    yield f"  Fréchet distance  {figures['distance']:.4f} ({figures['halves']:.4f} between halves of the data)"
    if figures["kernel_distance"] is None:
        yield "  kernel distance   left out: torchmetrics is not installed"
    else:
        yield f"  kernel distance   {figures['kernel_distance']:.5f} ± {figures['kernel_error']:.5f}"
    yield f"  precision         {figures['precision']:.3f}, recall {figures['recall']:.3f}"
    searched = f"{settings['searched_for_copies']:,} of training"
    nearest = f"  nearest image     {figures['nearest_training']:.3f} in {searched}"
    if figures["nearest_ratio"] is not None:
        nearest += f", {figures['nearest_held_out']:.3f} in as many held-out ones; in the mean at"
        nearest += f" {figures['nearest_ratio']:.3f} of their distance (far below 1: copies)"
    yield nearest
    if figures["recognised"] is not None:
        yield f"  recognised        {figures['recognised']:.0%} of the samples as a digit"
    if "bound_images" in settings:
        bound = f"{figures['bits_per_dimension']:.3f} ± {figures['standard_error']:.3f} bits per dimension"
        images = counted(settings["bound_images"], f"{part} image")
        yield f"  bound             {bound}, on {images}, {settings['dimensions']:,} dimensions"


def paragraphs(parts: Mapping[str, str | dict[str, Any]]) -> list[str]:
    """For each title its text, or its options, indented by it on as many lines as it takes."""
    width, indent = min(_WIDEST, shutil.get_terminal_size().columns), " " * 13
    wrapper = textwrap.TextWrapper(
        max(width, 3 * len(indent)), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    said = []
    for title, part in parts.items():
        wrapper.initial_indent = f"  {title:<10} "
        said.append(wrapper.fill(part if isinstance(part, str) else _listed(part)))
    return [text.replace("\N{NO-BREAK SPACE}", " ") for text in said]


def _listed(values: dict[str, Any]) -> str:
    """Such as "dim=16, dropout=0.1"; what is None is left out, and a value stays on one line."""
    given = {name: str(value) for name, value in values.items() if value is not None}
    return ", ".join(f"{name}={value}".replace(" ", "\N{NO-BREAK SPACE}") for name, value in given.items())


def counted(number: int, thing: str) -> str:
    """Such as "1 image", "2 images", "2 processes"."""
    plural = "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}{plural * (number != 1)}"


def duration(seconds: float) -> str:
    """Such as "1 minute and 25 seconds" or "653 days"; long ones are not told to the second."""
    if seconds < 1:
        return "less than a second"
    if seconds > _LONGEST:
        return "10,000 years or more"
    unit = "seconds" if seconds < _HOUR else "minutes" if seconds < _DAY else "hours"
    return humanize.precisedelta(seconds, minimum_unit=unit, suppress=("months", "years"), format="%.0f")
