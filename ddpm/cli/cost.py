"""What a run will cost, before it starts: parameters, arithmetic, memory and time; and how many threads it is worth."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import humanize
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import ddpm
from ddpm.cli import report
from ddpm.cli.run_config import RunConfig
from ddpm.data.batches import Batch, SeededBatches
from ddpm.diffusion import GaussianDiffusion
from ddpm.training.distributed import checkpointing
from ddpm.unet import Stage

# Work below which a further thread is not worth its risk. Two threads on two cores against one, measured: 1.1 times as
# fast on a step of 0.1 GFLOP, 1.6 times at 3 (the digits), 1.8 times at 37; next to a busy core 0.5 to 0.7 times.
FLOPS_PER_THREAD = 4e9
# Of every parameter there are four: itself, its gradient, two moments of Adam; and its averages; each of four bytes.
_KEPT, _BYTES = 4, 4
_TIMED_STEPS = 3
# Seconds that one of them may take.
_LONGEST_STEP = 2.0
_TYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Cost:
    """What a run costs.

    Attributes:
        parameters: of the network.
        forward_flops: of one network call on one image; a multiplication and an addition count as two.
        training_flops: of one image in training, forward and backward.
        fixed_bytes: memory for the parameters, their gradients, the optimiser and the averages, and in half precision
            for the copies of the weights that the layers take.
        image_bytes: memory that each image of a batch adds, for what the backward pass needs; with gradient
            checkpointing that is what is kept, and once what the largest stage computes anew.
        seconds_per_image: of training, measured here, not compiled; loading the images is not in it.
    """

    parameters: int
    forward_flops: int
    training_flops: int
    fixed_bytes: int
    image_bytes: int
    seconds_per_image: float


def measure_cost(
    diffusion: GaussianDiffusion,
    *,
    batch_size: int,
    mixed_precision: str = "no",
    gradient_checkpointing: bool = False,
    averages: int = 1,
) -> Cost:
    """Count and measure on random images, on the model's device (eq:run-memory); its weights stay as they are.

    The options are those of the run; where a batch of `batch_size` would take seconds, fewer images are used.
    """
    device, precision = diffusion.device, _TYPES[mixed_precision]

    def loss_of(count: int, *, checkpointed: bool = gradient_checkpointing) -> Tensor:
        autocast = torch.autocast(device.type, dtype=precision, enabled=precision is not None)
        with autocast, checkpointing(diffusion.network, wanted=checkpointed):
            return _loss(diffusion, count)

    def step(count: int) -> None:
        loss_of(count).backward()
        diffusion.zero_grad(set_to_none=True)

    parameters = sum(parameter.numel() for parameter in diffusion.network.parameters())
    one = _seconds(lambda: step(1), device)
    count = max(1, min(batch_size, int(_LONGEST_STEP / one)))
    # What a second image adds: the rest, such as weights cast to half precision, is there once whatever the batch.
    kept = _saved_bytes(lambda: loss_of(1), diffusion)
    image_bytes = _saved_bytes(lambda: loss_of(2), diffusion) - kept
    fixed_bytes = (_KEPT + averages) * _BYTES * parameters + kept - image_bytes
    if gradient_checkpointing:
        largest = _largest_stage_bytes(lambda: loss_of(count, checkpointed=False), diffusion)
        image_bytes += largest // count
    return Cost(
        parameters=parameters,
        forward_flops=count_flops(lambda: loss_of(1)),
        training_flops=count_flops(lambda: step(1)),
        fixed_bytes=fixed_bytes,
        image_bytes=image_bytes,
        seconds_per_image=one if count == 1 else _seconds(lambda: step(count), device) / count,
    )


def dry_run(run_config: RunConfig, diffusion: GaussianDiffusion, stands: int = 0) -> Iterable[str]:
    """What a run that `stands` at some step is made from, and what its rest costs; nothing is fetched or written."""
    started = time.perf_counter()
    config, data = run_config.training_config, run_config.local_data()
    reading = time.perf_counter() - started  # of a folder every file, as a run does when it begins
    batch, known = config.train_batch_size, data is not None
    if not known:  # just enough of the right form for one batch
        count = batch * int(os.environ.get("WORLD_SIZE", "1"))
        data = TensorDataset(torch.zeros(1).expand(count, *diffusion.image_shape), torch.zeros(count).long())
    trainer = ddpm.Trainer(diffusion, data, **run_config.training)
    yield from report.described_run(run_config, trainer, known=known)
    torch.set_num_threads(run_config.training.get("num_threads") or torch.get_num_threads())
    with trainer.explained():
        cost = measure_cost(
            diffusion,
            batch_size=batch,
            mixed_precision=config.mixed_precision,
            gradient_checkpointing=config.gradient_checkpointing,
            averages=len(trainer.averages.models),
        )
    training, call = (humanize.metric(flops, "FLOP") for flops in (cost.training_flops, cost.forward_flops))
    memory = humanize.naturalsize(cost.fixed_bytes + batch * cost.image_bytes, binary=True)
    loading = loading_seconds(trainer.data, batch) if known else 0.0
    seconds = seconds_per_image(cost.seconds_per_image, loading, config.num_workers, os.cpu_count() or 1)
    images, rate = trainer.images_per_step * max(0, config.train_num_steps - stands), 1 / seconds
    needed = report.duration(images / rate / trainer.accelerator.num_processes + reading)
    share = f"; loading them takes {loading / seconds:.0%}" if loading > 0.1 * seconds else ""
    per_second = f"{rate:,.0f}" if rate >= 1 else f"{rate:.2g}"
    left = " that are left" if stands else ""
    without = "" if known else " reading the images,"
    yield from report.paragraphs(
        {
            "FLOPs": f"{training} per image in training, {call} per network call",
            "memory": f"about {memory} per process for batches of {batch}, besides what PyTorch takes for itself",
            "time": f"about {needed} here for {images:,} images{left} ({per_second} images/s and process, measured"
            f"{share}), besides{without} samples and checkpoints",
        }
    )
    yield "dry run: nothing was trained, nothing was written"


def loading_seconds(batches: SeededBatches, batch_size: int) -> float:
    """How long an image takes to be loaded, in this process: that of a few batches, or of one image after the other."""
    started, loaded = time.perf_counter(), 0
    of_batch = min(batch_size, len(batches))
    batches[Batch((0,), 0)]  # the first may open files, and so is not counted
    first = time.perf_counter() - started
    # Drawn, since the first files of a sorted folder may be unlike the others.
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0)).tolist()
    size = of_batch if first * of_batch < _LONGEST_STEP else 1
    started = time.perf_counter()
    while loaded < 2 * of_batch and time.perf_counter() - started < _LONGEST_STEP:
        places = tuple(order[(loaded + place) % len(batches)] for place in range(size))
        batches[Batch(places, loaded)]
        loaded += size
    return (time.perf_counter() - started) / loaded


def seconds_per_image(training: float, loading: float, workers: int, cores: int) -> float:
    """How long an image takes in all: loaded and learnt from in turn, or at the same time where `workers` load.

    These are no faster than the cores that training, which takes one of them, leaves.
    """
    if workers == 0:
        return training + loading
    return max(training, loading / max(1, min(workers, cores - 1)))


def with_threads(run_config: RunConfig, diffusion: GaussianDiffusion) -> tuple[RunConfig, list[str]]:
    """The run config with as many CPU threads as suit the work, and a line that says so.

    It is kept in run.json, so that a resumed run computes the same bits. Nothing is chosen on a GPU, nor where the
    user has chosen.
    """
    from ddpm.training.distributed import this_process

    chosen = "num_threads" in run_config.training or "OMP_NUM_THREADS" in os.environ
    if chosen or torch.device(this_process().device or "cpu").type != "cpu":
        return run_config, []
    flops = count_flops(lambda: _loss(diffusion, 1).backward()) * run_config.training_config.train_batch_size
    diffusion.zero_grad(set_to_none=True)
    cores = torch.get_num_threads()
    threads = choose_threads(flops, cores)
    why = " (small work: more would wait for each other)" if threads < cores else ""
    said = report.paragraphs({"threads": f"{threads} of {report.counted(cores, 'core')}{why}"})
    return run_config.changed("training", num_threads=threads), said


def choose_threads(flops_per_step: int, cores: int) -> int:
    """How many CPU threads suit a training step: one for each `FLOPS_PER_THREAD` of it, at most as many as cores.

    OpenMP's threads wait for each other after every operation, so that on small work more of them are slower, and a
    hundred times slower where another process keeps one of the cores busy.
    """
    return max(1, min(cores, int(flops_per_step / FLOPS_PER_THREAD)))


def count_flops(call: Callable[[], object]) -> int:
    """Floating-point operations of a call, those of attention as its products of matrices."""
    # The counter does not know every fused form of attention, that of the CPU for instance.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _loss(diffusion: GaussianDiffusion, count: int) -> Tensor:
    """The training loss of random images."""
    images = torch.rand(count, *diffusion.image_shape, device=diffusion.device)
    classes = getattr(diffusion.network, "num_classes", None)
    labels = None if classes is None else torch.zeros(count, dtype=torch.long, device=diffusion.device)
    return diffusion(images, labels)


def _saved_bytes(
    call: Callable[[], Tensor], diffusion: GaussianDiffusion, kept: dict[int, int] | None = None
) -> int:
    """Memory of what a forward pass keeps for the backward pass, besides the parameters; listed in `kept`."""
    own = {parameter.untyped_storage().data_ptr() for parameter in diffusion.parameters()}
    kept = {} if kept is None else kept

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = call()  # held until the sum is made, so that no memory is used twice
    total = sum(kept.values())
    del loss
    return total


def _largest_stage_bytes(call: Callable[[], Tensor], diffusion: GaussianDiffusion) -> int:
    """Memory of the stage that keeps most, in a forward pass without gradient checkpointing."""
    kept: dict[int, int] = {}
    began, sizes = [0], [0]
    hooks = []
    for module in diffusion.network.modules():
        if isinstance(module, Stage):
            hooks.append(module.register_forward_pre_hook(lambda *_: began.append(sum(kept.values()))))
            hooks.append(
                module.register_forward_hook(lambda *_: sizes.append(sum(kept.values()) - began[-1]))
            )
    try:
        _saved_bytes(call, diffusion, kept)
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """The shortest of a few steps, after one that warms up."""
    times = []
    for _ in range(1 + _TIMED_STEPS):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])
