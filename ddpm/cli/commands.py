"""The command `ddpm`: train, resume, sample, evaluate, export, info."""

import functools
import json
import math
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import SafetensorError
from torch import distributed
from torch.utils.data import Dataset, TensorDataset
from torchvision.utils import make_grid, save_image

from ddpm.cli.cost import Cost, estimate
from ddpm.cli.overrides import PARTS
from ddpm.cli.presets import PRESETS, RUN, RunConfig, choose_preset, completed, with_overrides
from ddpm.data import digits
from ddpm.data.folder import IMAGE_EXTENSIONS
from ddpm.data.names import canonical
from ddpm.diffusion import GaussianDiffusion, Sampler
from ddpm.evaluation.metrics import DigitClassifier
from ddpm.evaluation.report import bits_per_dimension, first_images, report_on_samples
from ddpm.io import checkpoint as checkpoints
from ddpm.io.checkpoint import DamagedCheckpointError
from ddpm.io.paths import MODEL
from ddpm.io.pretrained import Weights, load_pretrained, save_pretrained
from ddpm.training.distributed import draw_images, this_process
from ddpm.training.metrics_logger import read_metrics
from ddpm.training.trainer import Trainer

app = typer.Typer(
    name="ddpm",
    help="Denoising diffusion models: train, sample, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# What bad input, a full disk or a broken file can raise. Anything else is a fault of ours and shows its origin.
EXPECTED = (
    ValueError,
    TypeError,
    OSError,
    RuntimeError,
    ArithmeticError,
    DamagedCheckpointError,
    SafetensorError,
)
TYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
ONE_MINUTE, ONE_HOUR, ONE_DAY = 60, 3600, 86400
KIB = 1024
WIDEST = 110

Run = Annotated[Path, typer.Argument(help="The folder of a run.")]
Model = Annotated[
    Path,
    typer.Argument(
        help='The folder of a run, a checkpoint or an exported model, or a name such as "digits".'
    ),
]
Images = Annotated[int, typer.Option("-n", "--images", min=1, help="How many images.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Network calls per image; the model's own number if not given.")
]
Seed = Annotated[int, typer.Option(min=0, help="Image i is drawn from seed + i.")]
WhichWeights = Annotated[str, typer.Option("--weights", help="ema (the averaged weights) or model.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at a time.")]


def spoken(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors, where a user can mend them, are said in words (DDPM_TRACEBACK=1 shows their origin).

    In its paths, "~" is the home directory, also where the shell did not see it, as in --out=~/run.
    """

    @functools.wraps(command)
    def run(**options: Any) -> None:
        expanded = {
            name: value.expanduser() if isinstance(value, Path) else value for name, value in options.items()
        }
        try:
            this_process()
            command(**expanded)
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(130) from interrupt
        except EXPECTED as error:
            if os.environ.get("DDPM_TRACEBACK"):
                raise
            typer.echo("\n".join([f"error: {message(error)}", *getattr(error, "__notes__", [])]), err=True)
            raise typer.Exit(1) from error
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()

    return run


def message(error: BaseException) -> str:
    """The words of an error, without the number that the system gave it."""
    in_words = isinstance(error, OSError) and error.filename is None and error.strerror
    return str(in_words or error or type(error).__name__)


@app.command()
@spoken
def train(
    data: Annotated[str, typer.Argument(help='"digits", a data set of torchvision by name, or a folder.')],
    out: Annotated[Path | None, typer.Option(help="The folder of the run; runs/DATA if not given.")] = None,
    preset: Annotated[str | None, typer.Option(help=f"{', '.join(PRESETS)}.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Side of the images in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per network call and process.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, order, levels and noise.")] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="no, fp16 or bf16.")] = None,
    data_root: Annotated[str | None, typer.Option(help="Where torchvision keeps its files.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other option as part.option=value, such as network.dropout=0.2."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and stop.")] = False,
) -> None:
    """Train a model, from settings that suit the data."""
    name, run_config = choose_preset(data, preset)
    run_config = run_config.changed("data", root=data_root and os.path.expanduser(data_root))  # noqa: PTH111 (it is text)
    run_config = run_config.changed("diffusion", image_size=image_size)
    run_config = run_config.changed(
        "training",
        train_num_steps=steps,
        train_batch_size=batch_size,
        train_lr=lr,
        seed=seed,
        mixed_precision=mixed_precision,
    )
    run_config = completed(with_overrides(run_config, change or []))
    folder = out or Path("runs") / (Path(run_config.data["name_or_path"]).name or "all")
    run_config = run_config.changed("training", results_folder=str(folder))
    torch.manual_seed(run_config.training.get("seed", 0))
    diffusion = run_config.build_diffusion()
    if dry_run:
        there = run_config.data_at_hand()
        trainer = Trainer(
            diffusion, stand_in(diffusion, run_config) if there is None else there, **run_config.training
        )
        show(f"preset {name}", *described(run_config, trainer, known=there is not None))
        with trainer.explained():
            cost = estimate(
                diffusion, batch_size=trainer.train_batch_size, precision=TYPES[trainer.mixed_precision]
            )
        show(*costs(cost, trainer), "dry run: nothing was trained, nothing was written")
        return
    check_folder(folder, run_config)
    trainer = Trainer(diffusion, run_config.load_data(), **run_config.training)
    show(f"preset {name}", *described(run_config, trainer))
    with trainer.locked():  # so that a run which is under way there keeps its settings
        if this_process().is_main_process:
            run_config.save(folder)
    trainer.train()
    finish(trainer)


@app.command()
@spoken
def resume(
    run: Run, steps: Annotated[int | None, typer.Option(min=1, help="Train up to this many updates.")] = None
) -> None:
    """Take up a run where its newest whole checkpoint left it."""
    run_config = RunConfig.load(run).changed("training", results_folder=str(run), train_num_steps=steps)
    if not checkpoints.list_checkpoints(run):
        raise FileNotFoundError(
            f"{run} holds no checkpoint yet, so there is nothing to take up: begin again with `ddpm train"
            f" {run_config.data['name_or_path']} --out {run}` and the options you gave; {run / RUN} has them"
        )
    trainer = Trainer(run_config.build_diffusion(), run_config.load_data(), **run_config.training)
    trainer.load()
    if trainer.step >= trainer.train_num_steps:
        more = f"`ddpm resume {run} --steps {2 * trainer.step}`"
        if steps is not None:
            raise ValueError(
                f"--steps {steps} is not beyond step {trainer.step}, where the run stands; give a larger number, as in"
                f" {more}"
            )
        show(f"{run} is finished, at step {trainer.step}; to train on: {more}")
        return
    show(f"taking up {run} at step {trainer.step} of {trainer.train_num_steps}")
    with trainer.locked():
        if this_process().is_main_process:
            run_config.save(run)
    trainer.train()
    finish(trainer)


@app.command()
@spoken
def sample(
    model: Model,
    out: Annotated[Path, typer.Option(help="A .png for one grid; anything else is a folder of PNGs.")] = Path(
        "samples.png"
    ),
    images: Images = 64,
    steps: Steps = None,
    sampler: Annotated[str | None, typer.Option(help="ddim or ancestral.")] = None,
    eta: Annotated[float | None, typer.Option(help="η of DDIM: 0 deterministic, 1 as ancestral.")] = None,
    seed: Seed = 0,
    label: Annotated[int | None, typer.Option(help="Class, for a model that takes classes.")] = None,
    weights: WhichWeights = "ema",
    batch_size: BatchSize = 64,
) -> None:
    """Draw images from a trained model."""
    state, diffusion = this_process(), load_pretrained(model, weights=checked_weights(weights))
    if sampler == "ancestral" and eta is not None:
        raise ValueError("--eta is for --sampler ddim: ancestral sampling has no η")
    if sampler == "ancestral" and steps is None:
        steps = diffusion.schedule.timesteps
    prepare_output(out)
    drawn = draw_images(
        diffusion.to(state.device),
        range(seed, seed + images),
        labels=None if label is None else [label] * images,
        batch_size=batch_size,
        rank=state.process_index,
        world_size=state.num_processes,
        sampling_timesteps=steps,
        sampler=checked_sampler("ddim" if sampler is None and eta is not None else sampler),
        eta=eta,
        progress=state.is_main_process and sys.stderr.isatty(),
    )
    if not state.is_main_process:
        return
    if is_png(out):
        save_image(make_grid(drawn, nrow=math.ceil(math.sqrt(images)), padding=1, pad_value=1.0), out)
    else:
        for number, image in enumerate(drawn, start=seed):
            save_image(image, out / f"{number:06d}.png")
    show(f"{counted(images, 'image')} in {out}")


@app.command()
@spoken
def evaluate(
    run: Run,
    images: Annotated[int, typer.Option("-n", "--images", min=4, help="How many images.")] = 1000,
    steps: Steps = None,
    bound_images: Annotated[int, typer.Option(min=0, help="Images for the bound; 0 leaves it out.")] = 64,
    levels: Annotated[int, typer.Option(min=1, help="Noise levels drawn per image for the bound.")] = 100,
    seed: Seed = 0,
    weights: WhichWeights = "ema",
    batch_size: BatchSize = 64,
) -> None:
    """Judge a run's model by its samples and by its bound, and write the figures to evaluation.json."""
    run_config, state = RunConfig.load(run), this_process()
    diffusion = load_pretrained(run, weights=checked_weights(weights)).to(state.device)
    data = run_config.changed("data", augment_horizontal_flip=False).load_data()
    count = min(images, size(data))
    real, labels = first_images(data, count)
    takes_classes = run_config.network.get("num_classes") is not None
    drawn = draw_images(
        diffusion,
        range(seed, seed + count),
        labels=labels.tolist() if takes_classes and labels is not None else None,
        batch_size=batch_size,
        rank=state.process_index,
        world_size=state.num_processes,
        sampling_timesteps=steps,
        progress=state.is_main_process and sys.stderr.isatty(),
    )
    if not state.is_main_process:
        return
    judgement = report_on_samples(drawn, real, judge_for(run_config))
    calls = counted(steps or diffusion.sampling_timesteps, "network call")
    between = f"{judgement.halves:.4f} between halves of the data"
    show(
        f"{count} samples, {calls} each, beside as many images",
        f"  Fréchet distance  {judgement.distance:.4f} on raw pixels ({between})",
        f"  nearest image     at {judgement.nearest:.2f} of the distance among the images (far below 1: copies)",
    )
    figures: dict[str, Any] = asdict(judgement)
    if judgement.recognised is not None:
        show(f"  recognised        {judgement.recognised:.0%} of the samples as a digit")
    if bound_images:
        chosen, classes, part = bound_data(run_config, bound_images)
        bound = bits_per_dimension(diffusion, chosen, classes if takes_classes else None, levels=levels)
        mean, error = float(bound.mean), float(bound.standard_error)
        of = counted(len(chosen), f"{part} image")
        show(f"  bound             {mean:.3f} ± {error:.3f} bits per dimension, on {of}")
        figures |= {"bits_per_dimension": mean, "standard_error": error, "of": of}
    (run / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    show(f"written to {run / 'evaluation.json'}")


@app.command()
@spoken
def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="The folder to write; it holds two files then.")],
    half: Annotated[
        bool, typer.Option("--half", help="16-bit weights, for a file of half the size.")
    ] = False,
    weights: WhichWeights = "ema",
) -> None:
    """Write a trained model by itself, without its run: model.safetensors and config.json."""
    diffusion = load_pretrained(model, weights=checked_weights(weights))
    if (out / MODEL).exists():
        raise FileExistsError(f"{out} already holds a model; choose another folder, or delete that one")
    if not this_process().is_main_process:
        return
    save_pretrained(diffusion, out, dtype=torch.float16 if half else None)
    size_of_it = (out / MODEL).stat().st_size
    show(f"{out / MODEL}, {size_of_it / 2**20:.1f} MiB; read it with ddpm.load_pretrained")


@app.command()
@spoken
def info(run: Run) -> None:
    """Say what a run is, how far it got and which of its checkpoints are whole."""
    run_config = RunConfig.load(run) if (run / RUN).is_file() else None
    there = checkpoints.list_checkpoints(run)
    if not there and run_config is None:
        raise FileNotFoundError(f"{run} is not the folder of a run: it holds neither {RUN} nor checkpoints")
    problems = {folder: problem_of(folder) for folder in there}
    whole = [folder for folder, problem in problems.items() if problem is None]
    if whole:
        show(*described_checkpoint(run, checkpoints.read_checkpoint(whole[-1]), run_config))
    else:
        show(f"{run}: {'no checkpoint is whole' if there else 'no checkpoint yet'}")
        if run_config is not None:
            show(*[paragraph(part, options(getattr(run_config, part))) for part in PARTS])
    for line in read_metrics(run)[-1:]:
        figures = f"loss {line['loss']:.4f}, {line['images_per_second']:,.0f} images/s"
        show(paragraph("metrics", f"step {line['step']:,}: {figures}"))
    for folder, problem in problems.items():
        show(paragraph(folder.name, "whole" if problem is None else problem))


# Words


def show(*lines: str) -> None:
    """Print, from one process only."""
    if this_process().is_main_process:
        typer.echo("\n".join(lines))


def finish(trainer: Trainer) -> None:
    """Say that a run is finished, and what comes next."""
    if (
        trainer.step < trainer.train_num_steps
    ):  # interrupted by a Ctrl-C that this shell ignores, as for a job with &
        raise KeyboardInterrupt
    folder = trainer.results_folder
    show(
        f"done: {trainer.step} steps in {duration(trainer.seconds)}; the model is in {folder}",
        f"draw from it with: ddpm sample {folder} -n 64 --out samples.png",
    )


def described(run_config: RunConfig, trainer: Trainer, *, known: bool = True) -> Iterable[str]:
    """The settings of a run, a paragraph each; the data are not `known` where they have to be downloaded."""
    count = sum(parameter.numel() for parameter in trainer.diffusion.network.parameters())
    images = f"{len(trainer.data):,} images" if known else "to be downloaded"
    yield paragraph("data", f"{images}; {options(run_config.data)}")
    yield paragraph("network", f"{count:,} parameters; {options(run_config.network)}")
    yield paragraph("diffusion", options(trainer.diffusion.config))
    yield paragraph("training", options(run_config.training))
    yield paragraph(
        "on", f"{trainer.accelerator.device}, {counted(trainer.accelerator.num_processes, 'process')}"
    )


def described_checkpoint(
    run: Path, newest: checkpoints.Checkpoint, run_config: RunConfig | None
) -> Iterable[str]:
    """What a run is and how far it got, a paragraph each."""
    config, state = newest.documents["config"], newest.documents["state"]
    training = config["training"] | ({} if run_config is None else run_config.training)
    count = sum(tensor.numel() for tensor in newest.tensors["model"].values())
    yield f"{run}: step {state['step']:,} of {training['train_num_steps']:,}"
    yield paragraph("data", options(config["data"] if run_config is None else run_config.data))
    yield paragraph("network", f"{count:,} parameters; {options(config['network'])}")
    yield paragraph("diffusion", options(config["diffusion"]))
    yield paragraph("training", options(training))
    where = f"{config['device']}, {counted(config['processes'], 'process')}; {options(config['versions'])}"
    yield paragraph("trained", f"{duration(state['seconds'])} on {where}")


def costs(cost: Cost, trainer: Trainer) -> Iterable[str]:
    """What a run costs, a paragraph each."""
    images = trainer.images_per_step * trainer.train_num_steps
    batch = trainer.train_batch_size
    memory = cost.fixed_bytes + batch * cost.image_bytes
    seconds = cost.seconds_per_image * images / trainer.accelerator.num_processes
    training, forward = cost.training_flops / 1e9, cost.forward_flops / 1e9
    yield paragraph("FLOPs", f"{training:.3g} GFLOP per image in training, {forward:.3g} per network call")
    yield paragraph(
        "memory",
        f"about {byte_count(memory)} per process for batches of {batch}, beside what PyTorch takes for itself",
    )
    yield paragraph(
        "time",
        f"about {duration(seconds)} here for {images:,} images ({1 / cost.seconds_per_image:,.0f} images/s and process,"
        " measured now), beside samples and checkpoints",
    )


def paragraph(title: str, text: str) -> str:
    """A title and its text, which hangs beside it on as many lines as it takes."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    first, other = f"  {title:<10} ", " " * 13
    lines = textwrap.wrap(
        text,
        max(width, 3 * len(other)),
        initial_indent=first,
        subsequent_indent=other,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def options(values: dict[str, Any]) -> str:
    """Such as "dim=16, dropout=0.1"; what is None is left out, and a value stays on one line."""
    given = {name: str(value) for name, value in values.items() if value is not None}
    return ", ".join(f"{name}={value}".replace(" ", "\N{NO-BREAK SPACE}") for name, value in given.items())


def counted(number: int, thing: str) -> str:
    """Such as "1 image", "2 images", "2 processes"."""
    plural = "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}{plural * (number != 1)}"


def duration(seconds: float) -> str:
    """Such as "85 s", "12 min", "3.5 h" or "12 days"."""
    if seconds < 1:
        return "less than a second"
    if seconds < 2 * ONE_MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * ONE_HOUR:
        return f"{seconds / ONE_MINUTE:.0f} min"
    return f"{seconds / ONE_HOUR:.1f} h" if seconds < 2 * ONE_DAY else f"{seconds / ONE_DAY:,.0f} days"


def byte_count(number: int) -> str:
    """Such as "29 MiB" or "3.1 GiB"."""
    return f"{number / KIB**2:.0f} MiB" if number < KIB**3 else f"{number / KIB**3:.1f} GiB"


# Checks, and data


def check_folder(folder: Path, run_config: RunConfig) -> None:
    """Refuse a folder that holds a run, and one among the images, which would take its samples for data."""
    there = checkpoints.list_checkpoints(folder)
    if there:
        raise FileExistsError(
            f"{folder} already holds a run, up to step {checkpoints.step_of(there[-1])}: take it up with `ddpm resume"
            f" {folder}`, or choose another folder by --out"
        )
    source = Path(run_config.data["name_or_path"])
    if source.is_absolute() and folder.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f"{folder} lies within the data, {source}, so that the run's samples would be taken for images of it;"
            " choose another folder by --out"
        )


def stand_in(diffusion: GaussianDiffusion, run_config: RunConfig) -> Dataset[Any]:
    """Data of the right form, just enough for one batch, for a dry run before the data are here."""
    count = run_config.training["train_batch_size"] * this_process().num_processes
    return TensorDataset(torch.zeros(1).expand(count, *diffusion.image_shape), torch.zeros(count).long())


def prepare_output(out: Path) -> None:
    """Make the folder that images will go to, before they are drawn.

    Raises:
        ValueError: if the name is that of a picture file other than PNG.
        OSError: if it cannot be made or written to.
    """
    if out.suffix.lower() in IMAGE_EXTENSIONS and not is_png(out):
        raise ValueError(f"--out {out} must end in .png, or be a folder for single PNGs")
    folder = out.parent if is_png(out) else out
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"you may not write to {folder}; choose another folder by --out")


def is_png(out: Path) -> bool:
    """Whether one grid is asked for."""
    return out.suffix.lower() == ".png"


def bound_data(run_config: RunConfig, count: int) -> tuple[torch.Tensor, torch.Tensor | None, str]:
    """Images and labels for the bound: test images where there are some, else training images."""
    try:
        data, part = run_config.load_data(train=False), "test"
    except ValueError:
        data, part = run_config.changed("data", augment_horizontal_flip=False).load_data(), "training"
    return *first_images(data, min(count, size(data))), part


def judge_for(run_config: RunConfig) -> DigitClassifier | None:
    """A judge that has seen all the digits, if those are the data."""
    if canonical(run_config.data["name_or_path"]) != "digits":
        return None
    side = run_config.diffusion["image_size"]
    images, labels = digits(side, channels=run_config.data["channels"]).tensors
    return DigitClassifier(images, labels)


def size(data: Dataset[Any]) -> int:
    """Number of items of a map-style data set."""
    return len(data)  # pyright: ignore[reportArgumentType]


def problem_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole."""
    try:
        checkpoints.verify(folder)
    except DamagedCheckpointError as problem:
        return str(problem).removeprefix(f"{folder} is ")
    return None


def checked_weights(weights: str) -> Weights:
    """The word, refused unless it names weights that a checkpoint holds."""
    if weights not in ("ema", "model"):
        raise ValueError(f"--weights must be ema or model, but got {weights!r}")
    return weights


def checked_sampler(sampler: str | None) -> Sampler | None:
    """The word, refused unless it names a sampler."""
    if sampler not in (None, "ddim", "ancestral"):
        raise ValueError(f"--sampler must be ddim or ancestral, but got {sampler!r}")
    return sampler


def warn(text: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line, from one process only."""
    if os.environ.get("RANK", "0") == "0":
        print(f"warning: {text}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with its arguments or those of the program."""
    warnings.showwarning = warn
    app(arguments)
