"""The loop of a run: step after step, with a line of metrics, a checkpoint and samples when they are due."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from ddpm.io.streams import say
from ddpm.training import distributed, run_folder
from ddpm.training.metrics_logger import MetricsLogger
from ddpm.training.recipe import how_to_resume
from ddpm.training.samples import grid_path
from ddpm.training.signals import Interrupts
from ddpm.training.state import Training

Batches = Iterator[tuple[Tensor, Tensor | None]]


class Trains(Training, Protocol):
    """What the loop asks of the `Trainer`, whose methods these are."""

    batches: Callable[[], Batches]
    training_step: Callable[[nn.Module, Batches], tuple[Tensor, Tensor]]
    count_step: Callable[[], None]
    draw_samples: Callable[[], Tensor]
    save: Callable[[], Path]


class Loop:
    """The steps of a trainer from where it stands to the last, or to the signal that ends them."""

    def __init__(
        self, trainer: Trains, network: nn.Module, logger: MetricsLogger, interrupts: Interrupts
    ) -> None:
        self._trainer, self._network, self._logger, self._interrupts = trainer, network, logger, interrupts
        self._folder = Path(trainer.config.results_folder)
        self._batches, self._last_save = trainer.batches(), time.monotonic()

    def run(self) -> None:
        """Step after step."""
        trainer, logger, config, stopping = self._trainer, self._logger, self._trainer.config, False
        if trainer.step and self._samples_are_due() and not grid_path(self._folder, trainer.step).exists():
            # The run was ended between this checkpoint and its samples.
            self._show_samples()
        while trainer.step < config.train_num_steps and not stopping:
            self._update()
            sampling = self._samples_are_due()
            reporting = sampling or trainer.step % config.log_every == 0
            wishes = self._interrupts.received is not None, self._overdue()
            stopping, overdue = distributed.agreed(trainer.accelerator, *wishes, meeting=reporting)
            if reporting or stopping or overdue:
                trainer.seconds = logger.write(trainer.step, trainer.images_seen, trainer.seconds)
            if sampling or stopping or overdue:
                trainer.save()
                self._last_save = time.monotonic()
                if sampling and not stopping:
                    self._show_samples()
                logger.restart_clock()
        if stopping or self._interrupts.received is not None:
            self._say_saved()

    def _update(self) -> None:
        """One step, or none where the signal that ends the run has ended the processes that load images, too."""
        try:
            self._logger.add(*self._trainer.training_step(self._network, self._batches))
            self._trainer.count_step()
        except (RuntimeError, EOFError, ConnectionError) as error:
            # One of them may have been handing over a batch, which ends the line to it. No update is lost by that.
            line_broke = isinstance(error, EOFError | ConnectionError)
            loading = line_broke or run_folder.WORKER_DIED.search(str(error))
            several = self._trainer.accelerator.num_processes > 1
            if self._interrupts.received is None or several or not loading:
                raise

    def _samples_are_due(self) -> bool:
        """Whether the step at which the trainer stands ends with samples."""
        step, config = self._trainer.step, self._trainer.config
        return step == config.train_num_steps or step % config.save_and_sample_every == 0

    def _show_samples(self) -> None:
        """Draw the samples of the checkpoint that was just written, with which a signal may end the run at once."""
        try:
            with self._interrupts.let_through():
                self._logger.show_images(self._trainer.draw_samples(), self._trainer.step)
        except KeyboardInterrupt:
            self._say_saved()
            raise

    def _say_saved(self) -> None:
        """Say how the run goes on."""
        if self._trainer.accelerator.is_main_process:
            say(f"Saved at step {self._trainer.step}. {how_to_resume(self._folder)}")

    def _overdue(self) -> bool:
        """Whether a checkpoint is due by the clock."""
        minutes = self._trainer.config.save_every_minutes
        return minutes is not None and time.monotonic() - self._last_save >= 60 * minutes
