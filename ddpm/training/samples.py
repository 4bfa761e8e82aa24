"""The samples that a run draws as it goes: a grid for every checkpoint that is due, in `samples/`."""

import io
import math
import sys
from pathlib import Path

from accelerate import PartialState
from torch import Tensor
from torchvision.utils import make_grid, save_image

from ddpm.diffusion import GaussianDiffusion
from ddpm.io.files import write_whole
from ddpm.io.streams import is_terminal, say
from ddpm.training import distributed
from ddpm.training.config import TrainingConfig


def grid_path(folder: Path, step: int) -> Path:
    """Where the samples of a step are kept."""
    return folder / "samples" / f"step-{step:08d}.png"


def draw_grid(
    model: GaussianDiffusion, step: int, config: TrainingConfig, accelerator: PartialState
) -> Tensor:
    """Draw the samples of a step, write them, and return their grid (C, H, W); all processes draw together."""
    count, rank, main = config.num_samples, accelerator.process_index, accelerator.is_main_process
    shown = config.progress and main and is_terminal(sys.stderr)
    if config.progress and main and not shown:
        say(f"drawing {count} samples of step {step:,}", sys.stderr)
    images = distributed.draw_images(
        model,
        range(count),
        batch_size=config.train_batch_size,
        rank=rank,
        world_size=accelerator.num_processes,
        progress=shown,
    )
    grid = make_grid(images, nrow=math.ceil(math.sqrt(count)), padding=1, pad_value=1.0)
    if main:
        _write_grid(grid_path(Path(config.results_folder), step), grid)
    return grid


def _write_grid(path: Path, grid: Tensor) -> None:
    """Samples as a PNG, whole or not at all: what is there is not drawn again when the run goes on."""
    png = io.BytesIO()
    save_image(grid, png, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, png.getvalue())
