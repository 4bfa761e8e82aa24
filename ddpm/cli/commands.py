"""The command `ddpm`: train, resume, sample, evaluate, export, info.

Nothing here imports torch, which takes seconds, before the arguments are checked: commands import what they need later.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import humanize
import typer

import ddpm
from ddpm.cli import labels, places, report, runs
from ddpm.cli.application import Application
from ddpm.cli.checks import check_export, check_folder, checked_precisions, prepare_output
from ddpm.cli.options import (
    BatchSize,
    BoundImages,
    ChosenSampler,
    ChosenSpacing,
    EvaluatedImages,
    Images,
    Overrides,
    Precision,
    SamplingSteps,
    Seed,
    Timesteps,
    TrainSteps,
    Weights,
)
from ddpm.cli.places import DataAt, DataRoot, Model, Run
from ddpm.cli.presets import PRESETS, choose_preset
from ddpm.cli.report import counted, show
from ddpm.cli.run_config import completed, with_overrides
from ddpm.data.names import DIGITS, check_name_or_folder, known_name
from ddpm.io.checkpoint import list_checkpoints, newest_step
from ddpm.io.files import json_bytes, write_whole
from ddpm.io.paths import MODEL, holds_run, locate_model, weights_file
from ddpm.io.streams import as_typed

_SEARCHED = 10_000  # training images at most, and as many held-out ones, in which copies are looked for
app = Application(name="ddpm", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ddpm {ddpm.__version__}")
        raise typer.Exit


@app.callback()
def _ddpm(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version)] = False,
) -> None:
    """Denoising diffusion models: train, sample, evaluate."""


@app.command()
def train(
    data: Annotated[str, typer.Argument(help='"digits", a data set of torchvision by name, or a folder.')],
    out: Annotated[
        Path | None, typer.Option(parser=places.path, help="The run's folder; else runs/DATA.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"{', '.join(PRESETS)}.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", parser=places.word, help="Begin with the weights of this model.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Side of the images in pixels.")] = None,
    train_steps: TrainSteps = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per call and process.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, order, timesteps and noise.")] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="auto, no, fp16 or bf16.")] = None,
    data_root: DataRoot = None,
    cache: Annotated[bool, typer.Option("--cache", help="Keep prepared images in the run's folder.")] = False,
    classes: Annotated[
        Literal["folders"] | None, typer.Option("--classes", help="A folder's sub-folders are classes.")
    ] = None,
    change: Overrides = None,
    go_on: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in its folder, if any.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and stop.")] = False,
) -> None:
    """Train a model, from a configuration that suits the data."""
    name, run_config = choose_preset(data, preset)
    source = run_config.data["name_or_path"]
    folder = out or Path("runs") / (Path(source).name or "all")
    if go_on:
        run_config = runs.continued(folder, run_config, by_preset=preset is not None)
    begins = []
    if start is not None:
        run_config, found = run_config.started_from(start)
        begins = report.paragraphs({"weights": f"begin as those of {found}"})
    places.check_root(source, data_root, change or [])
    run_config = run_config.changed("data", root=data_root, cache="prepared" if cache else None)
    run_config = labels.with_classes(run_config, classes)
    run_config = run_config.changed("diffusion", image_size=image_size)
    given = {"train_num_steps": train_steps, "train_batch_size": batch_size, "train_lr": lr, "seed": seed}
    given |= {"mixed_precision": mixed_precision, "results_folder": str(folder)}
    run_config = with_overrides(run_config.changed("training", **given), change or [])
    run_config = places.with_absolute_root(run_config)
    said = []
    if not go_on or preset is not None or not holds_run(folder):
        run_config, said = runs.with_warm_up_that_fits(run_config, change or [])
    run_config.check_size()
    check_name_or_folder(source)
    check_folder(folder, source, go_on=go_on or dry_run)

    from ddpm.cli import cost

    run_config, stands = completed(run_config), newest_step(folder)
    diffusion = run_config.build_diffusion(start=not list_checkpoints(folder))
    run_config, threads = cost.with_threads(run_config, diffusion)
    said = [f"preset {name}", *begins, *said, *threads]
    if dry_run:
        show(*said, *cost.dry_run(run_config, diffusion, stands if go_on else 0))
        return
    images = runs.load_images(run_config, folder) if list_checkpoints(folder) else run_config.load_data()
    run_config = runs.with_class_names(run_config, diffusion, images)
    trainer = ddpm.Trainer(diffusion, images, **run_config.training)
    show(*said, *report.described_run(run_config, trainer))
    if go_on:
        runs.go_on(trainer, run_config, folder)
    else:
        runs.train(trainer, run_config, folder)


@app.command()
def resume(run: Run, train_steps: TrainSteps = None, data: DataAt = None, data_root: DataRoot = None) -> None:
    """Resume a run from its newest whole checkpoint, or begin it where it has none yet."""
    run_config = places.load_run(run, data, data_root).changed("training", train_num_steps=train_steps)
    stands = newest_step(run)
    if train_steps is not None and stands >= train_steps:
        raise ValueError(
            f"--train-steps {train_steps} is not beyond step {stands}, where the run stands; give a larger number, as"
            f" in `ddpm resume {as_typed(run)} --train-steps {2 * stands}`"
        )
    images = runs.load_images(run_config, run)
    diffusion = run_config.build_diffusion(start=not list_checkpoints(run))
    run_config = runs.with_class_names(run_config, diffusion, images)
    trainer = ddpm.Trainer(diffusion, images, **run_config.training)
    runs.go_on(trainer, run_config, run)


@app.command()
def sample(
    model: Model,
    out: Annotated[Path, typer.Option(parser=places.path, help="A .png or a folder.")] = Path("samples.png"),
    images: Images = 64,
    sampling_steps: SamplingSteps = None,
    sampler: ChosenSampler = None,
    spacing: ChosenSpacing = None,
    eta: Annotated[float | None, typer.Option(min=0, max=1, help="Of DDIM: 1 is as ancestral.")] = None,
    variance: Annotated[
        Literal["fixed_small", "fixed_large", "learned"] | None, typer.Option(help="Of ancestral steps.")
    ] = None,
    seed: Seed = 0,
    label: Annotated[
        str | None, typer.Option(help="Class, by its name or number; all in turn if none.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Towards the class; 1 is none, 0 without class.")
    ] = None,
    mixed_precision: Precision = "auto",
    weights: Weights = "ema",
    batch_size: BatchSize = 64,
) -> None:
    """Draw images from a trained model."""
    found = locate_model(model)
    weights_file(found.folder, weights)
    chosen = None if label is None else [labels.label_number(found.folder, label)] * images
    labels.check_guidance(found.folder, guidance)
    prepare_output(out, places.images_of(found.folder))

    from ddpm.cli.drawing import draw_into
    from ddpm.training.precision import sampling_precision

    precision = sampling_precision(mixed_precision, checked_precisions(found.folder))
    diffusion = ddpm.load_pretrained(found.folder, weights=weights)
    options = {"sampling_timesteps": sampling_steps, "sampler": sampler, "spacing": spacing, "eta": eta}
    options |= {"variance": variance, "labels": chosen, "guidance": guidance, "batch_size": batch_size}
    options |= {"precision": precision}
    draw_into(out, diffusion, range(seed, seed + images), **options)
    show(*report.described_model(found))


@app.command()
def evaluate(
    run: Run,
    images: EvaluatedImages = 1000,
    sampling_steps: SamplingSteps = None,
    sampler: ChosenSampler = None,
    spacing: ChosenSpacing = None,
    features: Annotated[
        Literal["pixels", "classifier", "inception"], typer.Option(help="What images are compared by.")
    ] = "pixels",
    bound_images: BoundImages = 64,
    timesteps: Timesteps = 100,
    seed: Seed = 0,
    mixed_precision: Precision = "auto",
    weights: Weights = "ema",
    batch_size: BatchSize = 64,
    data: DataAt = None,
    data_root: DataRoot = None,
) -> None:
    """Evaluate a run's model by its samples and by its bound, and write the figures to evaluation.json.

    Both are held against the data's test part, or where there is none against the training images. Samples are kept in
    the run's folder as they are drawn, so that the same command goes on where it was stopped. The bound is computed in
    float32 whatever the samples are drawn in.
    """
    run_config = places.load_run(run, data, data_root).changed("data", augment_horizontal_flip=False)
    found = locate_model(run)
    weights_file(found.folder, weights)

    import torch

    from ddpm.cli import evaluation
    from ddpm.cli.drawing import draw_kept, drawn_by
    from ddpm.evaluation.features import DigitClassifier, extractor, features_of
    from ddpm.evaluation.report import bits_per_dimension, random_batches, random_images, report_on_samples
    from ddpm.training.precision import sampling_precision

    extract = extractor(features)
    training, dataset, part = evaluation.load_parts(run_config, run)
    diffusion = ddpm.load_pretrained(found.folder, weights=weights)
    runs.with_class_names(run_config, diffusion, training)  # refuses other classes than the model's
    real, given = random_images(dataset, images, seed=seed)
    features_of(real[:1], extract)  # images that they are not for are refused before any is drawn
    takes_classes = run_config.network.get("num_classes") is not None
    how = {"sampling_timesteps": sampling_steps, "sampler": sampler, "spacing": spacing}
    how |= {"precision": sampling_precision(mixed_precision, checked_precisions(found.folder))}
    model = {"model": found.said, "weights": weights, **drawn_by(diffusion, **how)}
    classes = given.tolist() if takes_classes and given is not None else None
    seeds = range(seed, seed + len(real))
    drawn = draw_kept(run / "samples", diffusion, seeds, classes, batch_size=batch_size, **how)
    if drawn is None:
        return
    name = known_name(run_config.data["name_or_path"]) or run_config.data["name_or_path"]
    classifier = DigitClassifier(*dataset.tensors) if name == DIGITS else None  # that has seen all of them
    searched = min(len(training), len(dataset), _SEARCHED)
    settings = {"images": len(real), "data": name, "part": part, "features": features, "seed": seed}
    settings |= {"searched_for_copies": searched, "dimensions": real[0].numel()}
    settings |= {"ddpm": ddpm.__version__, "torch": str(torch.__version__)}
    parts = [training, dataset] if part == "test" else [training]
    near = [random_batches(images, searched, seed=seed) for images in parts]
    figures = asdict(report_on_samples(drawn, real, *near, features=extract, classifier=classifier))
    if bound_images:
        real, given = random_images(dataset, bound_images, seed=seed)
        classes = given if takes_classes else None
        bound = bits_per_dimension(diffusion, real, classes, timesteps_per_image=timesteps, progress=True)
        figures |= {"bits_per_dimension": float(bound.mean), "standard_error": float(bound.standard_error)}
        settings |= {"bound_images": len(real), "bound_timesteps": timesteps}
    written = {**figures, "model": model, "settings": settings}
    show(*report.described_evaluation(written))
    compared = f"{settings['images']:,} of {counted(len(dataset), f'{part} image')}, drawn by the seed; "
    show(*report.paragraphs({"model": found.said, "data": compared + report.described_data(run_config)}))
    write_whole(run / "evaluation.json", json_bytes(written))
    show(f"written to {run / 'evaluation.json'}")


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Argument(parser=places.path, help="The folder to write two files to.")],
    half: Annotated[bool, typer.Option("--half", help="16-bit weights: half the size.")] = False,
    checked: Annotated[
        Literal["fp16", "bf16"] | None,
        typer.Option(help="Its samples are as good in this precision, by `ddpm evaluate`: draw them in it."),
    ] = None,
    weights: Weights = "ema",
) -> None:
    """Write a trained model by itself, without its run: model.safetensors and config.json."""
    found = locate_model(model)
    weights_file(found.folder, weights)
    check_export(out)

    import torch

    from ddpm.training.distributed import this_process

    diffusion = ddpm.load_pretrained(found.folder, weights=weights)
    if this_process().is_main_process:
        kind = torch.float16 if half else None
        ddpm.save_pretrained(diffusion, out, dtype=kind, checked_precisions=[checked] if checked else [])
        size = humanize.naturalsize((out / MODEL).stat().st_size, binary=True)
        show(f"{out / MODEL}, {size}; read it with ddpm.load_pretrained", *report.described_model(found))


@app.command()
def info(model: Model) -> None:
    """Say what a run is, how far it got and which of its checkpoints are whole; or what a model is."""
    show(*places.described(model))
