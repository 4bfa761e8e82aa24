"""Options that several commands take, with their names and their help."""

from typing import Annotated, Literal

import typer

_STEPS_HELP = "Steps, each of one network call (heun: two); the model's own number if not given."
_WEIGHTS_HELP = "The averaged weights, ema; an extra average, such as ema-0.9999; or those themselves, model."

_MOST_IMAGES = 10**7

Images = Annotated[int, typer.Option("-n", "--images", min=1, max=_MOST_IMAGES, help="How many images.")]
EvaluatedImages = Annotated[
    int, typer.Option("-n", "--images", min=4, max=_MOST_IMAGES, help="How many images.")
]
BoundImages = Annotated[
    int, typer.Option(min=0, max=_MOST_IMAGES, help="Images for the bound; 0 leaves it out.")
]
TrainSteps = Annotated[int | None, typer.Option("--train-steps", "--steps", min=1, help="Updates in all.")]
SamplingSteps = Annotated[int | None, typer.Option("--sampling-steps", "--steps", min=1, help=_STEPS_HELP)]
ChosenSampler = Annotated[Literal["ancestral", "ddim", "heun", "dpm++"] | None, typer.Option("--sampler")]
ChosenSpacing = Annotated[
    Literal["even", "log-snr", "karras", "quadratic"] | None,
    typer.Option("--spacing", help="How fewer than all timesteps are spread."),
]
Timesteps = Annotated[int, typer.Option("--timesteps", "--levels", min=1, help="Drawn for the bound.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Image i is drawn from seed + i.")]
Precision = Annotated[
    Literal["auto", "no", "fp16", "bf16"],
    typer.Option(
        "--mixed-precision", help="auto: what the machine is best at, if the model was checked in it."
    ),
]
Weights = Annotated[str, typer.Option(help=_WEIGHTS_HELP)]
BatchSize = Annotated[int, typer.Option(min=1, max=_MOST_IMAGES, help="Images at a time.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other option as part.option=value, such as network.dropout=0.2."),
]
