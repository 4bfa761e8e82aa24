"""What a run says of itself while it works: a progress bar, lines of metrics, an alarm when the loss is no number."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

METRICS = "metrics.jsonl"
ALL_SKIPPED = 20  # updates in a row without a finite gradient that a loss scaler is allowed at most


class MetricsLogger:
    """Collects the figures of every update on the device, and reads them all at once when a line is due.

    Each line of `metrics.jsonl` is a JSON object: `step`, `loss` (mean since the line before), `grad_norm`, `lr`,
    `images` (seen so far), `images_per_second` and `seconds` (of training so far, over all parts of the run).

    Attributes:
        seconds: time spent in training so far, over all parts of the run, without checkpoints and samples.
    """

    def __init__(
        self,
        folder: Path,
        *,
        step: int,
        total: int,
        images: int,
        images_per_step: int,
        seconds: float,
        gather: Callable[[Tensor], Tensor],
        writes: bool,
        progress: bool,
        tensorboard: bool,
    ) -> None:
        """Take up the record of a run at `step`.

        Args:
            folder: the folder of the run.
            step: updates so far; lines of later ones, written before a crash, are removed.
            total: updates in all.
            images: images so far, over all processes.
            images_per_step: images of one update, over all processes.
            seconds: time spent so far.
            gather: averages a tensor over the processes.
            writes: whether this is the process that keeps the record.
            progress: whether to show a bar.
            tensorboard: whether to write for TensorBoard too, if it is installed.
        """
        self.path, self.writes = folder / METRICS, writes
        self.step, self.images, self.images_per_step = step, images, images_per_step
        self.seconds, self.gather = seconds, gather
        self.pending: list[Tensor] = []
        self.events: Any = None
        if writes:
            drop_lines_after(self.path, step)
            self.events = tensorboard_writer(folder / "tensorboard", step) if tensorboard else None
        self.bar = tqdm(total=total, initial=step, unit="step", disable=not (progress and writes))
        self.resume_clock()

    def note(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Keep the figures of one update; nothing waits for the device."""
        self.step += 1
        self.images += self.images_per_step
        self.pending.append(torch.stack([loss, grad_norm.to(loss)]))
        self.bar.update(1)

    def write(self, lr: float, *, gradients_may_overflow: bool) -> None:
        """Read what was kept, write a line, and stop the run if a figure is not finite.

        Args:
            lr: the learning rate of the last update.
            gradients_may_overflow: whether an infinite gradient is the business of a loss scaler (fp16).

        Raises:
            FloatingPointError: if a loss or a gradient was not finite; the message names the update.
        """
        if not self.pending:
            return
        first = self.step - len(self.pending) + 1
        figures = self.gather(torch.stack(self.pending)).tolist()  # here, and only here, the CPU waits
        self.pending = []
        now = time.monotonic()
        elapsed, self.started = now - self.started, now
        self.seconds += elapsed
        # A loss scaler skips updates whose gradient overflows, and lowers the scale; if it skips all, it is of no help.
        hopeless = len(figures) >= ALL_SKIPPED and not any(math.isfinite(norm) for _, norm in figures)
        for step, (loss, norm) in enumerate(figures, start=first):
            overflow = not math.isfinite(norm) and (hopeless or not gradients_may_overflow)
            if not math.isfinite(loss) or overflow:
                self.close()
                what = (
                    f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's length is {norm}"
                )
                raise FloatingPointError(
                    f"{what} at step {step}: the weights are of no use from there on, and are not saved. Try a lower"
                    " train_lr, a longer warm-up, or bf16 in place of fp16"
                )
        rate = len(figures) * self.images_per_step / max(elapsed, 1e-9)
        line = {
            "step": self.step,
            "loss": sum(loss for loss, _ in figures) / len(figures),
            "grad_norm": figures[-1][1] if math.isfinite(figures[-1][1]) else None,
            "lr": lr,
            "images": self.images,
            "images_per_second": round(rate, 1),
            "seconds": round(self.seconds, 2),
        }
        self.bar.set_postfix_str(f"loss {line['loss']:.4f}, {rate:,.0f} img/s")
        if self.writes:
            self.append(line)

    def append(self, line: dict[str, Any]) -> None:
        """One line to the file, and to TensorBoard."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.events is not None:
            for name in ("loss", "lr", "images_per_second"):
                self.events.add_scalar(f"training/{name}", line[name], self.step)

    def show_images(self, grid: Tensor) -> None:
        """A grid of samples, shape (C, H, W) in [0, 1], for TensorBoard."""
        if self.events is not None:
            self.events.add_image("samples", grid, self.step)

    def resume_clock(self) -> None:
        """Count from now on: what went before, a checkpoint or samples, was not training."""
        self.started = time.monotonic()

    def close(self) -> None:
        """Put the bar and the files away."""
        self.bar.close()
        if self.events is not None:
            self.events.close()


def tensorboard_writer(folder: Path, step: int) -> Any:
    """Writes for TensorBoard and drops what an earlier part of the run wrote after `step`; None without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics, oldest first; a last line that was cut off is left out."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for text in lines if (line := parsed(text)) is not None]


def parsed(text: str) -> dict[str, float] | None:
    """A line of metrics, or None if it is not whole."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def drop_lines_after(path: Path, step: int) -> None:
    """Remove the lines of updates that were not saved: they are about to be made again."""
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    unfinished = path.with_suffix(".part")
    unfinished.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    unfinished.replace(path)
