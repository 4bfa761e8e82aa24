"""Training: from a folder of pictures to samples, on a laptop, a GPU or several (Hugging Face accelerate)."""

import contextlib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset

from ddpm.data.batches import loader, open_batches
from ddpm.diffusion import GaussianDiffusion
from ddpm.io import checkpoint as checkpoints
from ddpm.support.randomness import rand
from ddpm.training import distributed, machine, run_folder, spawning
from ddpm.training.average import Averages
from ddpm.training.config import Configured, TrainingConfig, check_keywords
from ddpm.training.loop import Batches, Loop
from ddpm.training.memory import keep_freed_memory
from ddpm.training.metrics_logger import MetricsLogger
from ddpm.training.precision import trainable, with_precision
from ddpm.training.sampler import Purpose, ShuffledBatches, mixed_seed, noise_for
from ddpm.training.samples import draw_grid
from ddpm.training.signals import Interrupts
from ddpm.training.state import gather_state, restore_state
from ddpm.weighting import stratified_timesteps


class Trainer(Configured):
    """Trains a diffusion model and keeps everything that a run needs to be resumed.

    A run's folder holds `checkpoints/`, `samples/` (grids drawn with the averaged weights), `metrics.jsonl` and
    `tensorboard/`. On several GPUs or machines, start the same program with `accelerate launch` or `torchrun`: every
    process then takes `train_batch_size` images at a time. Several machines need a `results_folder` that all can see.

    Attributes:
        diffusion: the model; it is moved to the device and trained in place.
        folder_or_dataset: the path of a folder of images, or a map-style data set of images or (image, label) pairs,
            the images in [0, 1] and of the model's shape, or Pillow images, which are resized and cropped.
        config: the other keywords, those of `TrainingConfig`; `trainer.train_num_steps` is `trainer.config`'s.
        step: updates so far.
        images_seen: images so far, over all processes: the position in the data.
        accelerator: accelerate's `PartialState`: which process this is of how many, and its device.
        averages: the average of the weights (eq:ema), and those of `extra_ema_decays`, in `averages.models` by name.

    Raises:
        ValueError: if a value is out of range, the data do not fit the model, or a batch is larger than the data.
        NotADirectoryError: if the path is not a folder.
        TypeError: if a keyword is unknown; for those of the ports the message says what to write.
    """

    def __init__(
        self, diffusion: GaussianDiffusion, folder_or_dataset: str | Path | Dataset[Any], **config: Any
    ) -> None:
        check_keywords(config)
        self.config = self.adopted(TrainingConfig(**config))
        keep_freed_memory()
        diffusion = trainable(diffusion)
        data = Path(folder_or_dataset) if isinstance(folder_or_dataset, os.PathLike) else folder_or_dataset
        self.diffusion, self.folder_or_dataset = diffusion, data
        machine.check_launcher(os.environ, vars(self.config))
        self.accelerator = distributed.this_process()
        kind = diffusion.to(self.accelerator.device).device.type
        self.scaler = distributed.loss_scaler(self.config.mixed_precision, kind)
        self.data = open_batches(data, diffusion, flip=self.config.augment_horizontal_flip)
        self.data.check_batch_size(self.config.train_batch_size, self.accelerator.num_processes)
        os.environ |= machine.missing_environment(kind, os.environ, deterministic=self.config.deterministic)
        layout = machine.memory_format(kind, channels_last=self.config.channels_last)
        diffusion.network.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        distributed.try_network(diffusion, self.config)
        self.averages = Averages(diffusion, self.config.extra_ema_decays)
        self.optimizer = distributed.make_optimizer(diffusion.network, kind, self.config)
        self.step, self.images_seen, self.seconds = 0, 0, 0.0
        self._owns_checkpoints = False  # whether it wrote or loaded those in its folder

    _own = list(inspect.signature(__init__).parameters.values())[1:-1]
    __signature__ = inspect.Signature([*_own, *inspect.signature(TrainingConfig).parameters.values()])

    def adopted(self, config: TrainingConfig) -> TrainingConfig:
        """The config with the precision of this machine, where it is to be chosen."""
        return with_precision(config)

    @property
    def ema(self) -> AveragedModel:
        """The average of `ema_decay`, `ema.module` being a `GaussianDiffusion`."""
        return self.averages.first

    @property
    def ema_model(self) -> GaussianDiffusion:
        """The model with the averaged weights, in evaluation mode: the one to sample with."""
        return self.ema.module  # pyright: ignore[reportReturnType]

    @property
    def images_per_step(self) -> int:
        """Images of one update, over all processes."""
        return self.train_batch_size * self.gradient_accumulate_every * self.accelerator.num_processes

    # The step

    def training_step(self, network: torch.nn.Module, batches: Batches) -> tuple[Tensor, Tensor]:
        """Algorithm 1 of Ho et al. 2020, over `gradient_accumulate_every` batches, and one update (eq:l-simple).

        `network` is the model's as `running` gives it: compiled, distributed, in mixed precision. Returned are the mean
        loss and the length of the gradient before clipping, on the device.
        """
        scaler, count = self.scaler, self.config.gradient_accumulate_every
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.optimizer.zero_grad()  # first, in case an error ended the step before in its middle
        losses = []
        for number in range(count):
            images, labels = next(batches)
            x0 = self.diffusion.to_x0(self.on_device(images))
            labels = None if labels is None else self.on_device(labels)
            t, noise, masks = self.draw(len(x0), number)
            last = number == count - 1
            with contextlib.nullcontext() if last else distributed.not_yet_shared(network):
                loss = self.diffusion.loss(x0, t, noise, labels, network=network, **masks)
                scaler.scale(loss / count).backward()
            losses.append(loss.detach())
        scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.step)
        distributed.update(self.optimizer, scaler)
        return torch.stack(losses).mean(), norm.detach()

    def batches(self) -> Batches:
        """This process's batches from the run's position on, without end."""
        size, config, accelerator = len(self.data), self.config, self.accelerator
        mine = (accelerator.process_index, accelerator.num_processes)
        order = ShuffledBatches(size, config.train_batch_size, config.seed, self.images_seen, *mine)
        pins = machine.pins_memory(self.diffusion.device.type)
        # torch's loader draws from its generator, which is of the CPU, on the default device.
        with torch.device("cpu"):
            return iter(loader(self.data, order, num_workers=config.num_workers, pin_memory=pins))

    def on_device(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU on the device, where it can be while the copy is still under way."""
        device = self.diffusion.device
        return tensor.to(device, non_blocking=machine.copies_without_waiting(device.type))

    def draw(self, count: int, number: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Timesteps, noise and what else `loss` would draw for `count` images of this process (eq:low-discrepancy).

        They follow from the seed, the step, the `number` of the batch within it, and each image's place among those of
        all processes. So several processes do what one would do with all their images, and a resumed run does what it
        would have done. The masks are those of `loss`, where the network has self-conditioning or label dropout.
        """
        device, seed = self.diffusion.device, (self.config.seed, self.step, number)
        everyone, first = count * self.accelerator.num_processes, count * self.accelerator.process_index
        mine = slice(first, first + count)
        # Timesteps and masks are one number an image: everyone's are drawn, and cut.
        generator = torch.Generator().manual_seed(mixed_seed(Purpose.TIMESTEPS, *seed))
        t = stratified_timesteps(everyone, self.diffusion.schedule.timesteps, generator=generator)[mine]
        chances = {"self_condition_mask": 0.5} if self.diffusion.self_condition else {}
        if self.diffusion.null_label is not None:
            chances["label_mask"] = 1 - self.diffusion.label_dropout
        coins = {name: rand(everyone, generator, t.device)[mine] < chance for name, chance in chances.items()}
        noise = noise_for(range(everyone)[mine], everyone, self.diffusion.x_shape, *seed, device=device)
        return self.on_device(t), noise, {name: self.on_device(coin) for name, coin in coins.items()}

    def count_step(self) -> None:
        """Count an update, and take the weights into the average when it is due; the first time they are copied."""
        self.step += 1
        self.images_seen += self.images_per_step
        if self.step % self.config.ema_update_every == 0 or int(self.ema.n_averaged) == 0:
            self.averages.step(self.config.average_decays(self.images_seen, self.images_per_step))

    # The run

    def train(self, *, resume: bool = False) -> None:
        """Train until `train_num_steps` updates are done, from wherever the trainer stands.

        With `resume` from the newest whole checkpoint in the run's folder, or from the beginning where there is none:
        the same call begins a run and goes on with it, whenever and however it was stopped. On one process of the same
        machine it ends with the same weights, bit for bit, as if it had never stopped; a GPU needs
        `deterministic=True` for that.

        Ctrl-C, SIGTERM, a terminal that closes (SIGHUP) and a scheduler's warning (SIGUSR1, SIGUSR2, SIGXCPU) end the
        run after the current step, with a checkpoint.

        Raises:
            FileExistsError: if the folder already holds a run, or another program is training in it.
            OSError: if the folder cannot be written, or the disk is full.
            FloatingPointError: if the loss is not finite; the last checkpoint stays.
            RuntimeError: if memory runs out, an image cannot be read, or a process that loads images dies.
            DamagedCheckpointError, ValueError: with `resume`, as for `load`.
        """
        spawning.refuse_in_the_making()
        with (
            self.locked(resume=resume),
            Interrupts() as interrupts,
            self.explained(),
            self.running() as network,
        ):
            self.config.warn_of_length(self.step)
            if self.step == 0:
                # For dropout; the rest has generators of its own.
                set_seed((self.config.seed + self.accelerator.process_index) % 2**32)
            distributed.check_optimizer(self.optimizer, self.diffusion)
            self.averages.attach(self.diffusion, self.config.extra_ema_decays)
            logger = MetricsLogger(self.config, self.accelerator, self.step, self.images_per_step)
            with contextlib.closing(logger):
                Loop(self, network, logger, interrupts).run()
        interrupts.deliver()

    @contextlib.contextmanager
    def locked(self, *, resume: bool = False) -> Iterator[None]:
        """Have the run's folder to oneself; refused if it cannot be written, or holds a run that this is not.

        With `resume` the trainer goes where the newest checkpoint stands, if there is one.
        """
        folder, main = self.results_folder, self.accelerator.is_main_process
        with run_folder.locked(folder) if main else contextlib.nullcontext():
            if resume:
                there = bool(checkpoints.list_checkpoints(folder))
                if any(distributed.agreed(self.accelerator, there)):
                    self.load()
            if main:
                run_folder.refuse_used(folder, self.step, continued=self._owns_checkpoints)
            yield

    def explained(self) -> contextlib.AbstractContextManager[None]:
        """Errors that come up while training say what to do about them, and which checkpoint is left."""
        return run_folder.explained(self.results_folder, self.config)

    def running(self) -> contextlib.AbstractContextManager[torch.nn.Module]:
        """The network as it is trained, and put back afterwards."""
        return distributed.running(self.diffusion, self.accelerator, self.config, self.scaler)

    def draw_samples(self) -> Tensor:
        """Draw images with the averaged weights, write them to `samples/`, return their grid of shape (C, H, W)."""
        return draw_grid(self.ema_model, self.step, self.config, self.accelerator)

    # Checkpoints

    def save(self) -> Path:
        """Write a checkpoint of everything, whole or not at all; returns its folder.

        Raises:
            OSError: if it cannot be written; the checkpoints before it stay.
        """
        tensors, documents = gather_state(self)
        if self.accelerator.is_main_process:
            keep = self.config.checkpoints_to_keep
            checkpoints.write_checkpoint(self.results_folder, self.step, tensors, documents, keep=keep)
            self._owns_checkpoints = True
        self.accelerator.wait_for_everyone()
        return self.results_folder / checkpoints.CHECKPOINTS / f"step-{self.step:08d}"

    def load(self, step: int | None = None) -> None:
        """Put the trainer where it stood when the checkpoint of `step` was written; None means the newest whole one.

        Raises:
            FileNotFoundError: if there is no such checkpoint.
            DamagedCheckpointError: if it, or every one, is damaged.
            ValueError: if it is that of another model.
        """
        restore_state(self, run_folder.find_checkpoint(self.results_folder, step))
        self._owns_checkpoints = True

    def resume(self) -> None:
        """Go on with a run as `train(resume=True)` does; FileNotFoundError if none was ever begun there."""
        run_folder.refuse_unbegun(self.results_folder)
        self.train(resume=True)
