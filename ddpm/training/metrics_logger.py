"""What a run says of itself while it works: its progress, lines of metrics, an alarm when the loss is not finite."""

import contextlib
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddpm.io.files import write_whole
from ddpm.io.progress import Progress
from ddpm.training.config import TrainingConfig

if TYPE_CHECKING:
    from accelerate import PartialState

METRICS = "metrics.jsonl"
ALL_SKIPPED = 20  # updates in a row without a finite gradient that a loss scaler is allowed at most


class MetricsLogger:
    """Collects the loss and the gradient of every update on the device, and reads them all at once when a line is due.

    Each line of `metrics.jsonl` is a JSON object: `step`, `loss` (mean since the line before), `grad_norm`, `lr`,
    `images` (seen so far), `images_per_second` and `seconds` (of training so far, over all parts of the run, without
    checkpoints and samples). Lines of later steps than `step`, written before a crash, are removed at the start: those
    updates are about to be made again.
    """

    def __init__(
        self, config: TrainingConfig, accelerator: "PartialState", step: int, images_per_step: int
    ) -> None:
        self._config, self._images_per_step = config, images_per_step
        self._folder, self._writes = Path(config.results_folder), accelerator.is_main_process
        self._pending: list[Tensor] = []
        self._events: Any = None
        if self._writes:
            kept = [json.dumps(line) + "\n" for line in read_metrics(self._folder) if line["step"] <= step]
            write_whole(self._folder / METRICS, "".join(kept).encode())
            with contextlib.suppress(ImportError):
                from torch.utils.tensorboard import SummaryWriter

                # It drops what an earlier part of the run wrote from `purge_step` on.
                events = str(self._folder / "tensorboard")
                self._events = SummaryWriter(events, purge_step=step + 1) if config.tensorboard else None
        shown = config.progress and self._writes
        self._progress = Progress(config.train_num_steps, "step", initial=step, shown=shown)
        self.restart_clock()

    def add(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Count one update; nothing waits for the device."""
        self._pending.append(torch.stack([loss, grad_norm.to(loss)]))
        self._progress.update()

    def write(self, step: int, images: int, seconds: float) -> float:
        """Read what has been collected, and write a line, at this step and after so many images over all processes.

        Takes the `seconds` of training up to the line before, and returns those up to this one; a loss or a gradient
        that is not finite is a FloatingPointError, which names the update.
        """
        if not self._pending:
            return seconds
        from accelerate.utils import reduce

        mean: Any = reduce(torch.stack(self._pending), "mean")
        figures = mean.tolist()  # here, and only here, the CPU waits
        self._pending = []
        elapsed = time.monotonic() - self._started
        self.restart_clock()
        self._check_finite(figures, step)
        rate = len(figures) * self._images_per_step / max(elapsed, 1e-9)
        line = {
            "step": step,
            "loss": sum(loss for loss, _ in figures) / len(figures),
            "grad_norm": figures[-1][1] if math.isfinite(figures[-1][1]) else None,
            "lr": self._config.learning_rate(step - 1),
            "images": images,
            "images_per_second": round(rate, 1),
            "seconds": round(seconds + elapsed, 2),
        }
        self._progress.tell(f"loss {line['loss']:.4f}, {rate:,.0f} img/s")
        if self._writes:
            with (self._folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self._events is not None:
            for name in ("loss", "lr", "images_per_second"):
                self._events.add_scalar(f"training/{name}", line[name], step)
        return seconds + elapsed

    def _check_finite(self, figures: list[list[float]], last: int) -> None:
        """Refuse to go on from a loss, or a gradient, that is not finite; `last` is the step of the last one."""
        # A loss scaler skips updates whose gradient overflows, and lowers the scale; if it skips all, it is of no help.
        hopeless = len(figures) >= ALL_SKIPPED and not any(math.isfinite(norm) for _, norm in figures)
        may_overflow = self._config.mixed_precision == "fp16" and not hopeless
        for step, (loss, norm) in enumerate(figures, start=last - len(figures) + 1):
            if not math.isfinite(loss) or not (may_overflow or math.isfinite(norm)):
                self.close()
                what = f"the gradient's length is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
                other = ", or bf16 in place of fp16" if self._config.mixed_precision == "fp16" else ""
                raise FloatingPointError(
                    f"{what} at step {step}: the weights are of no use from there on, and are not saved. Try a lower"
                    f" train_lr or a longer warm-up{other}"
                )

    def show_images(self, grid: Tensor, step: int) -> None:
        """A grid of samples, shape (C, H, W) in [0, 1], for TensorBoard."""
        if self._events is not None:
            self._events.add_image("samples", grid, step)

    def restart_clock(self) -> None:
        """Count from now on: what went before, a checkpoint or samples, was not training."""
        self._started = time.monotonic()

    def close(self) -> None:
        """Put the progress and the files away."""
        self._progress.close()
        if self._events is not None:
            self._events.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics, oldest first; a line that was cut off is left out."""
    path, lines = folder / METRICS, []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines
