"""Training: from a folder of pictures to samples, on a laptop, a GPU or several (Hugging Face accelerate)."""

import contextlib
import math
import random
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object, set_seed
from filelock import FileLock, Timeout
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset
from torchvision.utils import make_grid, save_image

from ddpm.data.folder import image_folder
from ddpm.diffusion import GaussianDiffusion, to_model_scale
from ddpm.io import checkpoint as checkpoints
from ddpm.io.checkpoint import Checkpoint
from ddpm.io.pretrained import model_config
from ddpm.training.config import FREE_TO_CHANGE, TrainingConfig, advises
from ddpm.training.distributed import draw_images, this_process
from ddpm.training.metrics_logger import MetricsLogger
from ddpm.training.sampler import Purpose, SeededBatches, ShuffledBatches, loader, mixed_seed
from ddpm.training.signals import Interrupts
from ddpm.weighting import stratified_timesteps

Batches = Iterator[tuple[Tensor, Tensor | None]]

PORT_KEYWORDS = {
    "amp_level": "write mixed_precision='fp16' (on a GPU), 'bf16' or 'no' instead",
    "dynamic_loss_scale": "with mixed_precision='fp16' the loss scale is always dynamic; leave it out",
    "jit": "write compile=True to run the network through torch.compile",
    "akg": "write compile=True to run the network through torch.compile",
    "distributed": "start the program with `accelerate launch` or `torchrun`, and leave it out",
}


SAMPLING_ONLY = {"sampling_timesteps", "ddim_sampling_eta"}  # training does not depend on them
# What torch says when a process that loads images is gone; an error *in* one is passed on as it is.
WORKER_DIED = re.compile(r"DataLoader worker \(pid")


@advises(PORT_KEYWORDS)
@dataclass(eq=False, repr=False)
class Trainer(TrainingConfig):
    """Trains a diffusion model and keeps everything that a run needs to be taken up again.

    The settings are those of `TrainingConfig`. A run's folder holds `checkpoints/`, `samples/` (grids of images drawn
    with the averaged weights), `metrics.jsonl` and `tensorboard/`.

    On several GPUs or machines, start the same program with `accelerate launch` or `torchrun`: every process then takes
    `train_batch_size` images at a time. Several machines need a `results_folder` that all of them see.

    Attributes:
        diffusion: the model; it is moved to the device and trained in place.
        folder_or_dataset: the path of a folder of images, or a map-style data set of images or (image, label) pairs,
            the images in [0, 1] as the model's shape, or as Pillow images, which are resized and cut.
        step: updates so far.
        images_seen: images so far, over all processes: the position in the data.
        averaged: the average of the weights, `averaged.module` being a `GaussianDiffusion`.

    Raises:
        ValueError: if a setting is out of range, the data do not fit the model, or a batch is larger than the data.
        NotADirectoryError: if the path is not a folder.
        TypeError: if a keyword is unknown; for those of the MindSpore port the message says what to write.
    """

    diffusion: GaussianDiffusion
    folder_or_dataset: str | Path | Dataset[Any]

    def __post_init__(self) -> None:
        """Check everything that can be checked before work starts, and set the scene."""
        super().__post_init__()
        self.results_folder = Path(self.results_folder)
        self.accelerator = make_accelerator(self.mixed_precision)
        classes = getattr(self.diffusion.network, "num_classes", None)
        self.data = SeededBatches(self.open_data(), self.diffusion.image_shape, num_classes=classes)
        self.check_batch_size()
        self.diffusion.to(self.accelerator.device)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        self.diffusion.network.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        self.try_network()
        self.averaged = AveragedModel(self.diffusion, multi_avg_fn=self.average)
        self.averaged.requires_grad_(False).eval()
        self.optimizer = self.accelerator.prepare(
            torch.optim.AdamW(
                self.diffusion.network.parameters(),
                lr=self.train_lr,
                betas=self.adam_betas,
                weight_decay=self.weight_decay,
                fused=self.accelerator.device.type in ("cpu", "cuda"),
            )
        )
        self.step, self.images_seen, self.seconds = 0, 0, 0.0
        self.taken_up = False  # whether the folder's checkpoints are this trainer's own

    @property
    def ema_model(self) -> GaussianDiffusion:
        """The model with the averaged weights, in evaluation mode: the one to sample with."""
        model = self.averaged.module
        assert isinstance(model, GaussianDiffusion)
        return model

    @property
    def images_per_step(self) -> int:
        """Images of one update, over all processes."""
        return self.train_batch_size * self.gradient_accumulate_every * self.accelerator.num_processes

    # The data

    def open_data(self) -> Dataset[Any]:
        """The data set, opened if it was given as a folder."""
        if not isinstance(self.folder_or_dataset, str | Path):
            return self.folder_or_dataset
        return image_folder(
            self.folder_or_dataset,
            self.diffusion.image_size,
            channels=self.diffusion.channels,
            augment_horizontal_flip=self.augment_horizontal_flip,
        )

    def check_batch_size(self) -> None:
        """Refuse a batch that is larger than the data."""
        processes = self.accelerator.num_processes
        if self.train_batch_size * processes > len(self.data):
            raise ValueError(
                f"train_batch_size={self.train_batch_size} on {processes} process(es) takes more images at a time than"
                f" the {len(self.data)} there are; lower it to {max(1, len(self.data) // processes)}, or add images"
            )

    @torch.no_grad()
    def try_network(self) -> None:
        """Ask the network about one image of nothing, so that what does not fit is refused before work starts."""
        was_training = {module: module.training for module in self.diffusion.modules()}
        nothing = torch.zeros(1, *self.diffusion.image_shape, device=self.accelerator.device)
        level = torch.ones(1, dtype=torch.long, device=self.accelerator.device)
        label = None if self.data.num_classes is None else torch.zeros_like(level)
        self.diffusion.eval().predict(nothing, level, label)
        for module, training in was_training.items():
            module.training = training

    def batches(self) -> Batches:
        """This process's batches from the run's position on, without end."""
        order = ShuffledBatches(
            len(self.data),
            self.train_batch_size,
            self.seed,
            self.images_seen,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        on_gpu = self.accelerator.device.type == "cuda"
        return iter(loader(self.data, order, num_workers=self.num_workers, pin_memory=on_gpu))

    # The step

    def training_step(self, network: torch.nn.Module, batches: Batches) -> tuple[Tensor, Tensor]:
        """Algorithm 1 of Ho et al. 2020, over `gradient_accumulate_every` batches, and one update (eq:l-simple).

        Args:
            network: the model's network as it is run: compiled, distributed, in mixed precision.
            batches: where images and labels come from.

        Returns:
            The mean loss and the length of the gradient before clipping, on the device.
        """
        accelerator, share = self.accelerator, 1 / self.gradient_accumulate_every
        self.optimizer.zero_grad()  # first, in case an error ended the step before in its middle
        losses = []
        for number in range(self.gradient_accumulate_every):
            images, labels = next(batches)
            x0 = to_model_scale(images.to(accelerator.device, non_blocking=True))
            labels = None if labels is None else labels.to(accelerator.device, non_blocking=True)
            t, noise, mask = self.draw(len(x0), number)
            last = number == self.gradient_accumulate_every - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(network):
                loss = self.diffusion.loss(x0, t, noise, labels, network=network, self_condition_mask=mask)
                accelerator.backward(loss * share)
            losses.append(loss.detach())
        norm = accelerator.clip_grad_norm_(network.parameters(), self.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.optimizer.step()
        return torch.stack(losses).mean(), torch.as_tensor(norm).detach()

    def draw(self, count: int, number: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Levels, noise and the self-conditioning coin for this process's images (eq:low-discrepancy).

        They are cut from those of all processes together, and follow from the seed, the step and the batch's number
        within it. So several processes do what one would do with all their images, and a run that is taken up again
        does what it would have done.

        Args:
            count: images of this process.
            number: of the batch within the step.

        Returns:
            t of shape (B,), noise of shape (B, C, H, W), and the coin of shape (B,) or None.
        """
        device, place = self.accelerator.device, (self.seed, self.step, number)
        everyone = count * self.accelerator.num_processes
        first = count * self.accelerator.process_index
        mine = slice(first, first + count)
        generator = torch.Generator().manual_seed(mixed_seed(Purpose.LEVELS, *place))
        levels = stratified_timesteps(everyone, self.diffusion.schedule.timesteps, generator=generator)
        generator = torch.Generator(device).manual_seed(mixed_seed(Purpose.NOISE, *place))
        shape = (everyone, *self.diffusion.image_shape)
        noise = torch.randn(shape, generator=generator, device=device)[mine]
        mask = None
        if self.diffusion.self_condition:
            mask = (torch.rand(everyone, generator=generator, device=device) < 0.5)[mine]
        return levels[mine].to(device, non_blocking=True), noise, mask

    def average(self, averaged: Any, current: Any, _: Any) -> None:
        """One step of the average of the weights, at its decay for this point of the run (eq:ema)."""
        decay = self.average_decay(self.images_seen, self.images_per_step)
        get_ema_multi_avg_fn(decay)(averaged, current, _)

    def update_average(self) -> None:
        """Take the weights into the average when it is due; the first time they are copied."""
        if self.step % self.ema_update_every == 0 or int(self.averaged.n_averaged) == 0:
            self.averaged.update_parameters(self.diffusion)

    # The run

    def train(self) -> None:
        """Train until `train_num_steps` updates are done, from wherever the trainer stands.

        Ctrl-C and SIGTERM end the run after the step at hand, with a checkpoint.

        Raises:
            FileExistsError: if the folder already holds a run, or another program is training in it.
            OSError: if the folder cannot be written, or the disk is full.
            FloatingPointError: if the loss is not finite; the last checkpoint stays.
            torch.OutOfMemoryError: if the GPU's memory does not suffice; the message says what to lower.
            RuntimeError: if an image cannot be read, or a process that loads images dies.
        """
        with self.locked(), Interrupts() as interrupts, self.explained(), self.running() as network:
            if self.step == 0:
                set_seed(self.seed, device_specific=True)  # of dropout: the rest has generators of its own
            with contextlib.closing(self.open_metrics_logger()) as metrics_logger:
                self.loop(network, metrics_logger, interrupts)
        interrupts.deliver()

    def loop(self, network: torch.nn.Module, metrics_logger: MetricsLogger, interrupts: Interrupts) -> None:
        """Step after step, with a line of metrics, a checkpoint and samples when they are due."""
        batches, asked = self.batches(), False
        while self.step < self.train_num_steps and not asked:
            try:
                metrics_logger.note(*self.training_step(network, batches))
            except RuntimeError as error:
                # A signal to the whole group has ended the processes that load images too. No update is lost by that.
                alone = self.accelerator.num_processes == 1
                if interrupts.received is None or not alone or not WORKER_DIED.search(str(error)):
                    raise
                self.keep(metrics_logger)
                break
            self.step += 1
            self.images_seen += self.images_per_step
            self.update_average()
            finished = self.step == self.train_num_steps
            saving = finished or self.step % self.save_and_sample_every == 0
            looking = saving or self.step % self.log_every == 0
            asked = self.asked_to_stop(interrupts, looking=looking)
            if saving or asked:
                self.keep(metrics_logger)
            elif looking:
                self.record(metrics_logger)
            if saving and not asked:
                metrics_logger.show_images(self.draw_samples())
                metrics_logger.resume_clock()
        if interrupts.received is not None:
            self.accelerator.print(f"Saved at step {self.step}. {self.how_to_resume()}")

    def record(self, metrics_logger: MetricsLogger) -> None:
        """Write a line of metrics, which stops the run if a figure is not finite."""
        lr = self.learning_rate(max(0, self.step - 1))
        metrics_logger.write(lr, gradients_may_overflow=self.mixed_precision == "fp16")
        self.seconds = metrics_logger.seconds

    def keep(self, metrics_logger: MetricsLogger) -> None:
        """Write a line of metrics, and a checkpoint if all is well."""
        self.record(metrics_logger)
        self.save()
        metrics_logger.resume_clock()

    def asked_to_stop(self, interrupts: Interrupts, *, looking: bool) -> bool:
        """Whether the run should stop; several processes agree on it, where they meet anyway."""
        mine = interrupts.received is not None
        if self.accelerator.num_processes == 1:
            return mine
        if not looking:
            return False
        share = self.mean_over_processes(torch.tensor(float(mine), device=self.accelerator.device))
        return bool(share > 0)

    @contextlib.contextmanager
    def running(self) -> Iterator[torch.nn.Module]:
        """The network as it is run, and put back afterwards."""
        network = self.diffusion.network
        was_training = {module: module.training for module in self.diffusion.modules()}
        self.diffusion.train()
        make_accelerator(self.mixed_precision)  # for what accelerate keeps for the whole program
        prepared = self.accelerator.prepare(network)
        try:
            # The checker takes a compiled module for a function.
            yield torch.compile(prepared) if self.compile else prepared  # pyright: ignore[reportReturnType]
        finally:
            self.accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
            for name in (
                "forward",
                "_is_accelerate_prepared",
            ):  # what accelerate left: it would prepare no second time
                network.__dict__.pop(name, None)
            for module, training in was_training.items():
                module.training = training

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Have the folder to oneself, and make sure beforehand that it can be written.

        Raises:
            FileExistsError: if another program is training there, or a run is there that this one would not continue.
            OSError: if it cannot be written.
        """
        folder = Path(self.results_folder)
        if not self.accelerator.is_main_process:
            yield
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "samples").mkdir(exist_ok=True)
            lock = FileLock(folder / ".lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise FileExistsError(
                f"another program is training in {folder}; wait for it, or choose another results_folder"
            ) from error
        except OSError as error:
            raise type(error)(
                error.errno, f"results_folder {folder} cannot be written ({error.strerror}); choose another"
            ) from error
        try:
            self.refuse_used_folder()
            yield
        finally:
            lock.release()

    def refuse_used_folder(self) -> None:
        """Refuse to train where there is a run that has come further: its checkpoints would be lost or come out on top.

        Raises:
            FileExistsError: if the folder holds whole checkpoints of later steps than this trainer's.
        """
        there = checkpoints.list_checkpoints(Path(self.results_folder))
        later = [folder for folder in there if checkpoints.step_of(folder) > self.step]
        if any(map(checkpoints.is_good, later)) or (there and not self.taken_up):
            raise FileExistsError(
                f"{self.results_folder} already holds a run, up to step {checkpoints.step_of(there[-1])}, and this"
                f" trainer stands at step {self.step}. {self.how_to_resume()} Or choose another folder, or delete the"
                " later checkpoints."
            )

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Errors that come up while training say what to do about them, and what is left."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(
                f"the GPU's memory does not suffice: lower train_batch_size (now {self.train_batch_size}) and raise"
                f" gradient_accumulate_every (now {self.gradient_accumulate_every}) by as much, set"
                f" mixed_precision='bf16' (now {self.mixed_precision!r}), or make the network or the images smaller."
                f" {self.what_is_left()} ({error})"
            ) from error
        except RuntimeError as error:
            if WORKER_DIED.search(str(error)):
                raise RuntimeError(
                    f"a process that loads images died, perhaps for want of memory: lower num_workers (now"
                    f" {self.num_workers}; 0 loads in the training process). {self.what_is_left()} ({error})"
                ) from error
            error.add_note(self.what_is_left())
            raise
        except Exception as error:
            error.add_note(self.what_is_left())
            raise

    def what_is_left(self) -> str:
        """Which checkpoint there is to go on from."""
        there = checkpoints.list_checkpoints(Path(self.results_folder))
        if not there:
            return "No checkpoint had been written yet."
        return f"The last checkpoint is that of step {checkpoints.step_of(there[-1])}. {self.how_to_resume()}"

    def how_to_resume(self) -> str:
        """What to type."""
        return f"To take the run up: trainer.resume(), or `ddpm resume {self.results_folder}`."

    def open_metrics_logger(self) -> MetricsLogger:
        """The record of the run, from where it stands."""
        return MetricsLogger(
            Path(self.results_folder),
            step=self.step,
            total=self.train_num_steps,
            images=self.images_seen,
            images_per_step=self.images_per_step,
            seconds=self.seconds,
            gather=self.mean_over_processes,
            writes=self.accelerator.is_main_process,
            progress=self.progress,
            tensorboard=self.tensorboard,
        )

    def mean_over_processes(self, figures: Tensor) -> Tensor:
        """The mean over the processes."""
        mean = self.accelerator.reduce(figures, "mean")
        assert isinstance(mean, Tensor)
        return mean

    # Samples

    def draw_samples(self) -> Tensor:
        """Draw `num_samples` images with the averaged weights, and write them to `samples/` as a grid.

        Returns:
            The grid, shape (C, H, W) in [0, 1].
        """
        images = draw_images(
            self.ema_model,
            range(self.num_samples),
            batch_size=self.train_batch_size,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        columns = math.ceil(math.sqrt(self.num_samples))
        grid = make_grid(images, nrow=columns, padding=1, pad_value=1.0)
        if self.accelerator.is_main_process:
            save_image(grid, Path(self.results_folder) / "samples" / f"step-{self.step:08d}.png")
        return grid

    # Checkpoints

    def save(self) -> Path:
        """Write a checkpoint of everything, whole or not at all.

        Returns:
            Its folder, `checkpoints/step-00001000` in the run's.

        Raises:
            OSError: if it cannot be written; the checkpoints before it stay.
        """
        states = gather_object([random_states()])
        folder = Path(self.results_folder)
        if not self.accelerator.is_main_process:
            self.accelerator.wait_for_everyone()
            return folder / checkpoints.CHECKPOINTS / f"step-{self.step:08d}"
        tensors = {
            "model": self.diffusion.network.state_dict(),
            "ema": self.ema_model.network.state_dict(),
            "optimizer": flat_optimizer(self.optimizer),
            "random": {
                f"{rank}.{name}": state
                for rank, (some, _) in enumerate(states)
                for name, state in some.items()
            },
        }
        documents = {"config": self.config(), "state": self.state([other for _, other in states])}
        written = checkpoints.write_checkpoint(
            folder, self.step, tensors, documents, keep=self.checkpoints_to_keep
        )
        self.taken_up = True
        self.accelerator.wait_for_everyone()
        return written

    def config(self) -> dict[str, Any]:
        """The whole configuration, and the versions of what it ran on."""
        source = self.folder_or_dataset
        name = str(source) if isinstance(source, str | Path) else type(source).__name__
        return model_config(self.diffusion) | {
            "training": self.settings,
            "data": {"source": name, "images": len(self.data)},
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
            "versions": {package: version(package) for package in ("ddpm", "torch", "accelerate", "numpy")},
        }

    def state(self, random_states: list[dict[str, Any]]) -> dict[str, Any]:
        """Where the run stands, apart from its tensors."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "images_seen": self.images_seen,
            "averaged": int(self.averaged.n_averaged),
            "seconds": self.seconds,
            "scaler": None if scaler is None else scaler.state_dict(),
            "random": random_states,
        }

    def load(self, step: int | None = None) -> None:
        """Put the trainer where it stood when a checkpoint was written.

        Args:
            step: which one; None means the newest that is whole.

        Raises:
            FileNotFoundError: if there is no such checkpoint.
            DamagedCheckpointError: if it, or every one, is damaged.
            ValueError: if it is that of another model.
        """
        folder = Path(self.results_folder)
        if step is None:
            self.restore(checkpoints.newest_checkpoint(folder))
            return
        there = {checkpoints.step_of(path): path for path in checkpoints.list_checkpoints(folder)}
        if step not in there:
            raise FileNotFoundError(
                f"{folder} has no checkpoint of step {step}; it has those of {sorted(there) or 'none'}"
            )
        self.restore(checkpoints.read_checkpoint(there[step]))

    def resume(self) -> None:
        """Take the run up at its newest whole checkpoint, and train to the end.

        On one process of the same machine it ends with the same weights, bit for bit, as if it had never stopped. On a
        GPU that takes deterministic kernels: CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment, and
        `torch.use_deterministic_algorithms(True)`.

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if it is that of another model.
        """
        self.load()
        self.train()

    def restore(self, saved: Checkpoint) -> None:
        """Everything from a checkpoint."""
        self.check_model(saved)
        self.warn_of_changes(saved)
        state = saved.documents["state"]
        self.diffusion.network.load_state_dict(saved.tensors["model"])
        self.ema_model.network.load_state_dict(saved.tensors["ema"])
        self.averaged.n_averaged.fill_(state["averaged"])
        restore_optimizer(self.optimizer, saved.tensors["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.images_seen, self.seconds = state["step"], state["images_seen"], state["seconds"]
        self.taken_up = True
        rank = self.accelerator.process_index
        if rank < len(state["random"]):
            restore_random_states(saved.tensors["random"], rank, state["random"][rank])
        else:
            set_seed(mixed_seed(Purpose.PROCESS, self.seed, self.step, rank) % 2**31)

    def check_model(self, saved: Checkpoint) -> None:
        """Refuse the checkpoint of another model, naming the differences."""
        mine = model_config(self.diffusion)
        differences = [
            f"{key} is {theirs!r} there and {mine[part].get(key)!r} here"
            for part in ("network", "diffusion")
            for key, theirs in saved.documents["config"][part].items()
            if key not in SAMPLING_ONLY and mine[part].get(key) != theirs
        ]
        if differences:
            raise ValueError(
                f"{saved.folder} is the checkpoint of another model: {'; '.join(differences)}. Build the model as it"
                " was, or choose another results_folder"
            )

    def warn_of_changes(self, saved: Checkpoint) -> None:
        """Say which settings make the rest of the run another one than it would have been."""
        before, now = saved.documents["config"], self.config()
        free = FREE_TO_CHANGE - ({"train_num_steps"} if self.lr_schedule == "cosine" else set())
        changes = [
            f"{key} was {theirs!r} and is {now['training'].get(key)!r}"
            for key, theirs in before["training"].items()
            if key not in free and now["training"].get(key) != theirs
        ]
        for key in ("processes", "data"):
            if before[key] != now[key]:
                changes.append(f"{key} was {before[key]!r} and is {now[key]!r}")
        if changes:
            warnings.warn(f"the run goes on with other settings: {'; '.join(changes)}", stacklevel=4)


def make_accelerator(mixed_precision: str) -> Accelerator:
    """An accelerator for this trainer, whatever the precision of one before it in the same program."""
    if mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ValueError(
            "mixed_precision='fp16' needs an NVIDIA or AMD GPU, and there is none here; choose 'bf16' or 'no', which on"
            " the CPU is the fastest"
        )
    AcceleratorState._reset_state()  # accelerate keeps one precision for the whole program: that of the last one made
    return Accelerator(mixed_precision=mixed_precision, cpu=str(this_process().device) == "cpu")


# States as tensors and JSON


def flat_optimizer(optimizer: Any) -> dict[str, Tensor]:
    """The optimiser's tensors by name: `12.exp_avg` is that of parameter 12."""
    states = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, state in states.items() for name, value in state.items()}


def restore_optimizer(optimizer: Any, tensors: dict[str, Tensor]) -> None:
    """The optimiser's tensors put back, each in the memory layout of its parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        shaped = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        states.setdefault(int(index), {})[key] = shaped.detach()
    # The settings of the groups are those of this trainer, not those of the checkpoint.
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of this process's global generators, as tensors and as JSON."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (it is saved because data sets may use it)
    return tensors, {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}


def restore_random_states(tensors: dict[str, Tensor], rank: int, others: dict[str, Any]) -> None:
    """The states of this process's global generators put back."""
    torch.set_rng_state(tensors[f"{rank}.cpu"])
    if torch.cuda.is_available() and f"{rank}.cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{rank}.cuda"])
    numbers, words, gauss = others["python"]
    random.setstate((numbers, tuple(words), gauss))
    kind, keys, *rest = others["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
