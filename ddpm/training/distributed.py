"""Processes and devices, which accelerate finds, the precision of a run, and many images divided among processes."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddpm.diffusion import GaussianDiffusion
from ddpm.io.weights import unwrapped
from ddpm.prediction import evaluating, gradients, modes_kept
from ddpm.training import machine
from ddpm.training.config import MixedPrecision, TrainingConfig
from ddpm.training.precision import computing_in, trainable


def this_process() -> PartialState:
    """Which of the processes this is that `accelerate launch` or `torchrun` started, and its device.

    Where they meet, and by what means, is said in `ddpm.training.machine`: accelerate does it only when it is told to.
    """
    here, told_cpu = machine.Machine.found(), parse_flag_from_env("ACCELERATE_USE_CPU")
    means = machine.backend(here, told_cpu=told_cpu)
    several = {} if means is None else {"backend": means}
    return PartialState(cpu=machine.meets_on_cpu(here, told=told_cpu), **several)


def loss_scaler(precision: MixedPrecision, kind: str) -> torch.amp.GradScaler:
    """The loss scaler of fp16 on a `kind` of device; with another precision it does nothing."""
    if precision == "fp16" and kind != "cuda":
        raise ValueError(
            "mixed_precision='fp16' needs an NVIDIA or AMD GPU, and there is none here; choose 'bf16', 'no', or"
            " 'auto', which is what this machine multiplies natively"
        )
    return torch.amp.GradScaler(kind, enabled=precision == "fp16")


def make_optimizer(network: nn.Module, kind: str, config: TrainingConfig) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, for a `kind` of device.

    It is torch's own: accelerate's looks for a package on the disk at every step, which a small network feels.
    """
    options = {"lr": config.train_lr, "betas": config.adam_betas, "weight_decay": config.weight_decay}
    return torch.optim.AdamW(network.parameters(), fused=machine.fuses_optimizer(kind), **options)


def check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Refuse an optimiser of weights that the model has no longer: those in their place would not be trained."""
    own = {id(weight) for weight in model.parameters()}
    if any(id(weight) not in own for group in optimizer.param_groups for weight in group["params"]):
        raise ValueError(
            "the network, or a layer of it, is another than when the Trainer was made, and would not be trained: give"
            " diffusion.network, whole, and make the Trainer after that"
        )


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """One step; with the loss scaler of fp16 it is left out where gradients have overflowed."""
    scaler.step(optimizer)
    scaler.update()


class _InPrecision(nn.Module):
    """A network that computes in a precision of its own, and none but it.

    accelerate would have one for the whole program.
    """

    def __init__(self, network: nn.Module, precision: MixedPrecision) -> None:
        super().__init__()
        self.network = network
        self._precision: MixedPrecision = precision

    def forward(self, x_t: Tensor, *others: Any, **named: Any) -> Tensor:
        """As the network."""
        with computing_in(self._precision, x_t.device):
            return self.network(x_t, *others, **named)


@contextlib.contextmanager
def running(
    diffusion: GaussianDiffusion,
    accelerator: PartialState,
    config: TrainingConfig,
    scaler: torch.amp.GradScaler,
) -> Iterator[Any]:
    """The network as it is trained: in training mode, in its precision, distributed, compiled; put back afterwards."""
    threads = torch.get_num_threads()
    if config.mixed_precision == "fp16" and not scaler.is_enabled():
        raise ValueError("mixed_precision='fp16' needs a loss scaler: give it when the trainer is made")
    with (
        gradients(),
        modes_kept(diffusion),
        machine.deterministic_kernels(config.deterministic),
        checkpointing(diffusion.network, wanted=config.gradient_checkpointing),
    ):
        trainable(diffusion)  # still, whatever has been done to it since the trainer was made
        network: Any = _InPrecision(diffusion.to(accelerator.device).train().network, config.mixed_precision)
        if accelerator.num_processes > 1:
            network = DistributedDataParallel(network)
        torch.set_num_threads(config.num_threads or threads)
        try:
            yield torch.compile(network) if config.compile else network
        finally:
            torch.set_num_threads(threads)


def not_yet_shared(network: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Meanwhile gradients stay in this process: several batches make one update."""
    return getattr(network, "no_sync", contextlib.nullcontext)()


@contextlib.contextmanager
def checkpointing(network: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing where it is `wanted`, of a network that has it; off again afterwards."""
    plain = unwrapped(network)
    if wanted:
        plain.gradient_checkpointing = True
    try:
        yield
    finally:
        if wanted:
            plain.gradient_checkpointing = False


def agreed(accelerator: PartialState, *wishes: bool, meeting: bool = True) -> list[bool]:
    """What any of the processes wishes, which they tell each other where they are `meeting`.

    Elsewhere several wish nothing; one process has its own wishes at any time.
    """
    if accelerator.num_processes == 1:
        return list(wishes)
    everyone = gather_object([wishes]) if meeting else [[False] * len(wishes)]
    return [any(wish) for wish in zip(*everyone, strict=True)]


@torch.no_grad()
def try_network(diffusion: GaussianDiffusion, config: TrainingConfig) -> None:
    """Give the network one blank image, so that what does not fit is refused before work starts."""
    if config.gradient_checkpointing and not hasattr(diffusion.network, "gradient_checkpointing"):
        raise ValueError(
            f"gradient_checkpointing is for a Unet, and the network is a {type(diffusion.network).__name__}: leave it"
            " out, or give the network an attribute of that name, at which it calls torch.utils.checkpoint"
        )
    blank = torch.zeros(1, *diffusion.x_shape, device=diffusion.device, dtype=torch.float32)
    t = torch.ones(1, dtype=torch.long, device=diffusion.device)
    takes_labels = getattr(diffusion.network, "num_classes", None) is not None
    with evaluating(diffusion):
        diffusion.predict(blank, t, torch.zeros_like(t) if takes_labels else None)


def draw_images(
    diffusion: GaussianDiffusion,
    seeds: Sequence[int],
    *,
    labels: Sequence[int] | None = None,
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    precision: MixedPrecision = "no",
    **options: Any,
) -> Tensor:
    """Draw one image per seed, in batches; several processes that call this together divide the work by `rank`.

    Image i depends on seeds[i] and labels[i] alone, not on the batch or the processes. A model that takes labels and is
    given none gets 0, 1, 2, … in turn. The `options`, such as `sampler`, are those of `GaussianDiffusion.sample`. Every
    process gets all images, in [0, 1], shape (N, C, H, W), on the CPU.

    Raises:
        ValueError: if there are no seeds, or the labels are not as many, out of range or not for this model.
    """
    mine = {"batch_size": batch_size, "rank": rank, "world_size": world_size, "precision": precision}
    batches = drawn_batches(diffusion, seeds, labels=labels, **mine, **options)
    drawn = [pair for places, images in batches for pair in zip(places, images, strict=True)]
    together = dict(gather_object(drawn) if world_size > 1 else drawn)
    return torch.stack([together[place] for place in range(len(seeds))])


def drawn_batches(
    diffusion: GaussianDiffusion,
    seeds: Sequence[int],
    *,
    labels: Sequence[int] | None = None,
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    precision: MixedPrecision = "no",
    **options: Any,
) -> Iterator[tuple[range, Tensor]]:
    """The images of `draw_images` that are this process's, batch by batch as they are drawn, with their places."""
    if len(seeds) == 0 or batch_size < 1:
        raise ValueError(
            f"at least one seed and a batch_size of at least 1 are needed, but got {len(seeds)} and {batch_size}"
        )
    labels = chosen_labels(diffusion, labels, len(seeds))
    mine, device = range(rank, len(seeds), world_size), diffusion.device
    for first in range(0, len(mine), batch_size):
        places = mine[first : first + batch_size]
        classes = None if labels is None else torch.tensor([labels[i] for i in places], device=device)
        with computing_in(precision, device):
            images = diffusion.sample(
                len(places), seeds=[seeds[i] for i in places], labels=classes, **options
            )
        yield places, images.cpu()


def chosen_labels(
    diffusion: GaussianDiffusion, labels: Sequence[int] | None, count: int
) -> Sequence[int] | None:
    """The labels, or 0, 1, 2, … in turn for a model that takes some; on a GPU nothing later looks at their range."""
    classes: int | None = getattr(diffusion.network, "num_classes", None)
    if labels is None:
        return None if classes is None else [place % classes for place in range(count)]
    if classes is None:
        raise ValueError("this model was trained without classes (num_classes): leave the label out")
    wrong = [label for label in labels if not 0 <= label < classes]
    if wrong:
        raise ValueError(f"this model has the classes 0 … {classes - 1}, but got the label {wrong[0]}")
    if len(labels) != count:
        raise ValueError(f"one label per image is needed, {count} in all, but got {len(labels)}")
    return labels
