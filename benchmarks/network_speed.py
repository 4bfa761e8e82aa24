"""How fast is the network? Ours beside diffusers and denoising-diffusion-pytorch, in one run on one machine.

    OMP_NUM_THREADS=2 python benchmarks/network_speed.py

Measured are whole training steps and network calls without gradients, each in a process of its own, eager and
compiled. Those that are compared stay alive together and are timed in turn, a few steps each, round after round, so
that a machine whose speed drifts drifts for all alike; a product of two matrices takes its turn as well and says what
the machine can do at that time.

Ours trains by `Trainer.training_step` and diffusers' `UNet2DModel` as their script for unconditional training does it;
the two are the same architecture, parameter for parameter. denoising-diffusion-pytorch has one of its own, and trains
as its `Trainer` does; its width is chosen so that its floating-point operations (FLOPs) are within 5 % of ours, and the
rates are compared per FLOP. Each has its own defaults in all that is not the architecture. Nobody keeps an average of
the weights, and all have one batch of random images in memory.

The measurements go to results/, line by line, so that `--resume` takes up a run that was stopped; the figures go to
network_speed.json (network_speed_cuda.json with `--device cuda`), from which `--redraw` makes the tables of the README
and the picture without measuring anything. A run of some of the networks, modes and so on leaves the other figures of
that file as they are.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import os
import re
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from network_speed_report import (
    IMPLEMENTATIONS,
    KEY,
    MODES,
    PEERS,
    PRECISIONS,
    TASKS,
    Figures,
    draw,
    machine,
    merged,
    summarised,
    tables,
    write_tables,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm.cli.presets import CIFAR10

HERE = Path(__file__).parent
MATCHED = 0.05  # how far the FLOPs of another architecture may lie from ours
LONGEST = 1800  # seconds that a process may take to answer, compiling included
CUDA_BATCH = 128  # the paper's
SEARCHED = tuple(CUDA_BATCH * 2**doubling for doubling in range(7))  # until the memory is full
MATRIX = {"cpu": 2048, "cuda": 8192}  # side of the matrices that are multiplied
CALLS = {"cpu": 1, "cuda": 10}  # steps between two looks at the clock, for which a GPU must have finished
MIB = 2**20
ERROR = re.compile(
    r"^[\w.]*(?:Error|Exception|Exit)\b.*", re.MULTILINE
)  # the line of a traceback that says why
LOADED_FIRST = {  # so that their own memory does not count as the network's
    "ours": ("ddpm.training.trainer",),
    "diffusers": ("diffusers.models.unets.unet_2d", "diffusers.schedulers.scheduling_ddpm"),
    "denoising-diffusion-pytorch": ("denoising_diffusion_pytorch",),
}

Step = Callable[[], object]


@dataclass(frozen=True)
class Network:
    """A size at which all are compared.

    Attributes:
        shape: (C, H, W) of an image.
        unet: arguments of our `Unet`; diffusers' follow from them.
        peer: those of the `Unet` of denoising-diffusion-pytorch.
        batches: images per step on the CPU, by task.
        rounds: how often everything is measured.
    """

    shape: tuple[int, int, int]
    unet: Figures
    peer: Figures
    batches: dict[str, int]
    rounds: int


NETWORKS = {
    "small": Network(
        shape=(1, 32, 32),
        unet={"dim": 32, "dim_mults": (1, 2, 3), "channels": 1},
        peer={"dim": 32, "dim_mults": (1, 2, 4), "channels": 1},
        batches={"train": 32, "evaluate": 64},
        rounds=4,
    ),
    "paper": Network(  # Ho et al. 2020, appendix B, for CIFAR-10
        shape=(3, 32, 32),
        unet=CIFAR10.network,
        peer={"dim": 152, "dim_mults": (1, 2, 2, 2), "dropout": 0.1},
        batches={"train": 8, "evaluate": 16},
        rounds=3,
    ),
}


@dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        kind: "step" (a training step or a network call), "matmul" (the product of matrices) or "count" (the FLOPs).
        network: of `NETWORKS`.
        task: of `TASKS`.
        batch: images per step.
        mode: of `MODES`.
        precision: of `PRECISIONS`.
        implementation: of `IMPLEMENTATIONS`.
        device: "cpu" or "cuda".
        compile_mode: of torch.compile.
        steps: how many are timed at least, in each round.
        seconds: how long they take at least, in each round.
    """

    kind: str
    network: str = ""
    task: str = ""
    batch: int = 0
    mode: str = ""
    precision: str = "float32"
    implementation: str = ""
    device: str = "cpu"
    compile_mode: str = "default"
    steps: int = 1
    seconds: float = 3.0

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells its row from others."""
        return (self.kind, *(getattr(self, name) for name in KEY))

    def __str__(self) -> str:
        """The key in words."""
        return " ".join(str(part) for part in self.key if part)


# The networks


def our_unet(network: Network) -> nn.Module:
    """Ours, as it comes."""
    from ddpm import Unet

    return Unet(**network.unet)


def diffusers_unet(network: Network) -> nn.Module:
    """Our architecture in diffusers: the same layers with the same sizes."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    channels, side, _ = network.shape
    mults = network.unet["dim_mults"]
    attend = network.unet.get("attention_resolutions", (2 ** (len(mults) - 1),))
    with_attention = [2**level in attend for level in range(len(mults))]
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(network.unet["dim"] * mult for mult in mults),
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in with_attention),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(with_attention)),
        layers_per_block=network.unet.get("num_res_blocks", 2),
        attention_head_dim=None,  # one head
        norm_num_groups=network.unet.get("resnet_block_groups", 8),
        norm_eps=1e-6,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
        dropout=network.unet.get("dropout", 0.0),
    )


def peer_unet(network: Network) -> nn.Module:
    """The network of denoising-diffusion-pytorch."""
    from denoising_diffusion_pytorch import Unet

    return Unet(**network.peer)


UNETS = {"ours": our_unet, "diffusers": diffusers_unet, "denoising-diffusion-pytorch": peer_unet}


def compiled(network: nn.Module, job: Job) -> Any:
    """The network as it is run."""
    return torch.compile(network, mode=job.compile_mode) if job.mode == "compiled" else network


def in_precision(job: Job) -> torch.autocast:
    """Mixed precision, if the job wants it."""
    return torch.autocast(job.device, dtype=torch.bfloat16, enabled=job.precision == "bf16")


# What is timed


def our_training(job: Job) -> Step:
    """A step of our `Trainer`, which keeps no average here."""
    from torch.utils.data import TensorDataset

    from ddpm import GaussianDiffusion, Trainer

    spec = NETWORKS[job.network]
    images = torch.rand(job.batch, *spec.shape)
    trainer = Trainer(
        GaussianDiffusion(our_unet(spec), image_size=spec.shape[1:]),
        TensorDataset(images),
        train_batch_size=job.batch,
        mixed_precision="bf16" if job.precision == "bf16" else "no",
    )
    del trainer.ema
    batches = itertools.repeat((images.to(job.device), None))
    running = ExitStack()  # kept with the step: when it closes, the network is itself again
    network = compiled(running.enter_context(trainer.running()), job)

    def step(_: object = running) -> None:
        trainer.training_step(network, batches)
        trainer.step += 1

    return step


def diffusers_training(job: Job) -> Step:
    """A step as in diffusers' examples/unconditional_image_generation/train_unconditional.py."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    spec = NETWORKS[job.network]
    clean = 2 * torch.rand(job.batch, *spec.shape, device=job.device) - 1
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    network = diffusers_unet(spec).to(job.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    run = compiled(network, job)

    def step() -> None:
        noise = torch.randn_like(clean)
        t: Any = torch.randint(0, 1000, (job.batch,), device=job.device)
        noisy = scheduler.add_noise(clean, noise, t)
        with in_precision(job):
            output = run(noisy, t).sample
        F.mse_loss(output.float(), noise).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def peer_training(job: Job) -> Step:
    """A step as in the `Trainer` of denoising-diffusion-pytorch."""
    from denoising_diffusion_pytorch import GaussianDiffusion

    spec = NETWORKS[job.network]
    images = torch.rand(job.batch, *spec.shape, device=job.device)
    network = peer_unet(spec)
    diffusion = GaussianDiffusion(network, image_size=spec.shape[1]).to(job.device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.9, 0.99))
    diffusion.model = compiled(network, job)

    def step() -> None:
        with in_precision(job):
            loss = diffusion(images)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


TRAINING = {
    "ours": our_training,
    "diffusers": diffusers_training,
    "denoising-diffusion-pytorch": peer_training,
}


def evaluation(job: Job) -> Step:
    """A network call, as the samplers of each make it."""
    spec = NETWORKS[job.network]
    network = UNETS[job.implementation](spec).to(job.device).eval()
    run = compiled(network, job)
    x_t = torch.randn(job.batch, *spec.shape, device=job.device)
    t = torch.full((job.batch,), 500, device=job.device)
    # The pipelines of diffusers and our samplers use no_grad, denoising-diffusion-pytorch uses inference_mode.
    without_gradients = torch.inference_mode if job.implementation == PEERS[1] else torch.no_grad

    def step() -> None:
        with without_gradients(), in_precision(job):
            run(x_t, t)

    return step


# A process of its own


class Memory:
    """Memory beyond what the process had at the start; on the CPU it is the resident set."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.forget_peak()
        self.start = self.peak()

    def forget_peak(self) -> None:
        """Let the peak be what is in use now, where the system can do that."""
        if self.device == "cuda":
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """The peak in bytes."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        with contextlib.suppress(OSError):
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def growth(self) -> float:
        """The peak above the start, in MiB."""
        return (self.peak() - self.start) / MIB


def seconds(step: Step, device: str, calls: int = 1) -> float:
    """The time of a step, as the mean of so many."""
    started = time.perf_counter()
    for _ in range(calls):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / calls


def times(step: Step, job: Job) -> list[float]:
    """Times of single steps, as many as the job asks for."""
    taken: list[float] = []
    calls = CALLS[job.device]
    while len(taken) < job.steps or sum(taken) * calls < job.seconds:
        taken.append(seconds(step, job.device, calls))
    return taken


def measure_step(job: Job) -> Iterator[Figures]:
    """Time and memory of a training step or a network call, measured whenever they are asked for."""
    for module in LOADED_FIRST[job.implementation]:
        importlib.import_module(module)
    if job.mode == "compiled":
        importlib.import_module("torch._inductor.compile_fx")
    memory = Memory(job.device)
    step = TRAINING[job.implementation](job) if job.task == "train" else evaluation(job)
    first = seconds(step, job.device)
    while True:
        memory.forget_peak()  # the compiler's does not count
        step()  # warms up what the others have cooled
        taken = times(step, job)
        yield {
            "images_per_second": job.batch / statistics.median(taken),
            "peak_memory_mib": memory.growth(),
            "first_call_seconds": first,
            "steps": len(taken),
        }
        if job.device == "cuda":
            torch.cuda.empty_cache()  # the others need it


def measure_matmul(job: Job) -> Iterator[Figures]:
    """The rate of a product of two square matrices, measured whenever it is asked for."""
    side = MATRIX[job.device]
    dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=job.device, dtype=dtype) for _ in range(2))

    def product() -> Tensor:
        return a @ b

    while True:
        product()
        yield {"gflops": 2 * side**3 / statistics.median(times(product, job)) / 1e9}


def count(job: Job) -> Iterator[Figures]:
    """Parameters of each network, and its FLOPs for one image.

    Raises:
        ValueError: if the architecture of diffusers is not ours, or the FLOPs of the other are too far from ours.
    """
    from ddpm.cli.cost import count_flops

    spec = NETWORKS[job.network]
    x_t, t = torch.randn(1, *spec.shape), torch.tensor([500])
    figures: Figures = {}
    for name, build in UNETS.items():
        network = build(spec).eval()

        def call(network: nn.Module = network) -> Tensor:
            output = network(x_t, t)
            return output if isinstance(output, Tensor) else output.sample

        with torch.no_grad():
            forward = count_flops(call)
        figures[name] = {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "flops": {"evaluate": forward, "train": count_flops(lambda call=call: call().sum().backward())},
        }
    check_matched(job.network, figures)
    yield figures


def check_matched(network: str, figures: Figures) -> None:
    """Refuse to compare what is not alike."""
    ours = figures["ours"]
    if figures["diffusers"] != ours:
        raise ValueError(
            f"{network}: diffusers' is not our architecture: {figures['diffusers']}, ours {ours}"
        )
    for task, flops in figures[PEERS[1]]["flops"].items():
        if abs(flops / ours["flops"][task] - 1) > MATCHED:
            raise ValueError(
                f"{network}: {PEERS[1]} has {flops:,} FLOPs ({task}) and ours {ours['flops'][task]:,}, more than"
                f" {MATCHED:.0%} apart; choose another `dim` for it in NETWORKS"
            )


DUTIES = {"step": measure_step, "matmul": measure_matmul, "count": count}


def child(job: Job) -> None:
    """Answer each line from the parent with a line of figures."""
    torch.manual_seed(0)
    figures = DUTIES[job.kind](job)
    for _ in sys.stdin:
        signal.alarm(LONGEST)
        print(json.dumps(next(figures)), flush=True)
        signal.alarm(0)


class Worker:
    """A process that does one job as often as it is asked."""

    def __init__(self, job: Job, threads: int) -> None:
        # A cache of its own: every compilation is seen whole, and one that was cut off spoils no later run.
        self.cache = tempfile.TemporaryDirectory(prefix="network-speed-", ignore_cleanup_errors=True)
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": self.cache.name,
        }
        if job.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, __file__, "--child", json.dumps(asdict(job))]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed when the worker ends)
        self.process = subprocess.Popen(
            command,
            env=environment,
            cwd=HERE.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            start_new_session=True,  # so that its compilers end with it
        )

    def ask(self) -> Figures:
        """The figures of a round; `{"error": …}` if the process has ended."""
        asked, answers = self.process.stdin, self.process.stdout
        assert asked is not None
        assert answers is not None
        with contextlib.suppress(BrokenPipeError):
            print(file=asked, flush=True)
            for line in answers:
                if line.startswith('{"'):  # and is not something that a package prints
                    return json.loads(line)
        status = self.process.wait()
        self.errors.seek(0)
        said = ERROR.findall(self.errors.read())
        return {"error": said[-1] if said else f"exit status {status}"}

    def end(self) -> None:
        """End the process and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self.errors.close()
        self.cache.cleanup()


# Rounds


@dataclass
class Log:
    """What was measured: a line of JSON for each measurement in a file, and the same lines here.

    Attributes:
        path: the file.
        lines: what is in it.
    """

    path: Path
    lines: list[Figures]

    def has(self, number: int, job: Job) -> bool:
        """Whether the job was done in this round."""
        key = list(job.key)
        return any(
            line["round"] == number and line["key"] == key and "error" not in line for line in self.lines
        )

    def add(self, number: int, job: Job, figures: Figures, taken: float) -> None:
        """Write the figures down, and a word about them to stderr."""
        self.lines.append({"round": number, "key": list(job.key)} | figures)
        with self.path.open("a") as file:
            print(json.dumps(self.lines[-1]), file=file)
        words = ", ".join(
            f"{value if isinstance(value, str) else format(value, ',.4g')} {name}"
            for name, value in figures.items()
            if not isinstance(value, dict)
        )
        print(f"round {number + 1}: {job}: {words} ({taken:.0f} s)", file=sys.stderr, flush=True)


def comparisons(network: str, options: argparse.Namespace) -> Iterator[list[Job]]:
    """The jobs that are compared with each other, in groups; the matrices come first in each."""
    base = Job(
        "step",
        network,
        device=options.device,
        compile_mode=options.compile_mode,
        steps=options.steps,
        seconds=options.seconds,
    )
    for task, mode, precision in itertools.product(options.tasks, options.modes, options.precisions):
        for batch in batches(network, task, options):
            job = replace(base, task=task, mode=mode, precision=precision, batch=batch)
            yield [
                replace(job, kind="matmul", seconds=min(1.0, job.seconds)),
                *(replace(job, implementation=name) for name in options.implementations),
            ]


def batches(network: str, task: str, options: argparse.Namespace) -> Sequence[int]:
    """The batch sizes, smallest first."""
    chosen = options.train_batches if task == "train" else options.evaluate_batches
    if chosen:
        return sorted(chosen)
    if options.search:
        return SEARCHED
    return [CUDA_BATCH if options.device == "cuda" else NETWORKS[network].batches[task]]


def measure(options: argparse.Namespace, log: Log) -> None:
    """Do all jobs that are not in the log.

    Raises:
        SystemExit: if the networks are not alike.
    """
    for network in options.networks:
        job = Job("count", network)
        figures = in_turn([job], 1, options.threads, log)
        if figures:
            raise SystemExit(f"the networks cannot be compared: {figures[job.key]}")
    too_large: set[tuple[Any, ...]] = set()  # for these, memory did not suffice at a smaller batch
    for network in options.networks:
        for jobs in comparisons(network, options):
            left = [job for job in jobs if replace(job, batch=0).key not in too_large]
            errors = in_turn(left, options.rounds or NETWORKS[network].rounds, options.threads, log)
            too_large |= {replace(job, batch=0).key for job in left if "memory" in errors.get(job.key, "")}


def in_turn(jobs: Sequence[Job], rounds: int, threads: int, log: Log) -> dict[tuple[Any, ...], str]:
    """Do some jobs round after round, each first in turn, except what the log has.

    Returns:
        The errors by key; a job that failed is not tried again.
    """
    workers: dict[Job, Worker] = {}
    errors: dict[tuple[Any, ...], str] = {}
    try:
        for number in range(rounds):
            first = number % len(jobs)
            for job in [*jobs[first:], *jobs[:first]]:
                if log.has(number, job) or job.key in errors:
                    continue
                started = time.monotonic()
                if job not in workers:
                    workers[job] = Worker(job, threads)
                figures = workers[job].ask()
                if "error" in figures:
                    errors[job.key] = figures["error"]
                log.add(number, job, figures, time.monotonic() - started)
    finally:
        for worker in workers.values():
            worker.end()
    return errors


# The command


def at_least_one(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number of at least 1, but got {text!r}")
    return int(text)


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument(
        "--implementations", nargs="+", choices=IMPLEMENTATIONS, default=list(IMPLEMENTATIONS)
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, help="float32; on a GPU also bf16")
    parser.add_argument("--device", choices=tuple(CALLS), default="cpu")
    parser.add_argument(
        "--rounds", type=at_least_one, help="how often; 4 for the small network, 3 for the paper's"
    )
    parser.add_argument(
        "--steps", type=at_least_one, default=Job("").steps, help="at least so many in a round"
    )
    parser.add_argument("--seconds", type=float, default=Job("").seconds, help="at least so long in a round")
    parser.add_argument("--train-batches", type=at_least_one, nargs="+", help="images per training step")
    parser.add_argument("--evaluate-batches", type=at_least_one, nargs="+", help="images per network call")
    parser.add_argument(
        "--search", action="store_true", help="batches of 128, 256, … until the memory is full"
    )
    parser.add_argument("--threads", type=at_least_one, default=torch.get_num_threads())
    parser.add_argument("--compile-mode", default=Job("").compile_mode, help="of torch.compile")
    parser.add_argument("--out", type=Path, help="another JSON; the README and the picture then stay")
    parser.add_argument(
        "--resume", action="store_true", help="take up the run of this --out that was stopped"
    )
    parser.add_argument("--redraw", action="store_true", help="tables and picture from the JSON alone")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search and options.device == "cpu":
        parser.error("--search looks for the limit of a GPU's memory: add --device cuda")
    options.precisions = options.precisions or (PRECISIONS if options.device == "cuda" else PRECISIONS[:1])
    return options


def command_line(options: argparse.Namespace) -> str:
    """The command as one would repeat it; a run that was resumed counts as one."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    program = f"OMP_NUM_THREADS={options.threads} python benchmarks/network_speed.py"
    return " ".join([program, *map(shlex.quote, arguments)])


def show(report: Figures, options: argparse.Namespace) -> None:
    """Print the tables; those of the JSON that is committed also go to the README, and the picture with them."""
    print(tables(report))
    if options.out is None:
        write_tables(report, options.device)
        if options.device == "cpu":
            draw(report)


def main() -> None:
    """Measure, write, show."""
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers end as well
    if options.child:
        child(Job(**json.loads(options.child)))
        return
    committed = HERE / ("network_speed_cuda.json" if options.device == "cuda" else "network_speed.json")
    out = options.out or committed
    old = json.loads(out.read_text()) if out.exists() else {}
    if options.redraw and not old:
        raise SystemExit(f"{out} does not exist: measure first, without --redraw")
    if options.redraw:
        show(old, options)
        return
    here = machine(options.threads, options.device)
    if old and old["machine"] != here:
        raise SystemExit(
            f"{out} has figures of {old['machine']}, and this is {here}; delete it, or give --out"
        )
    path = HERE / "results" / f"{out.stem}.jsonl"
    path.parent.mkdir(exist_ok=True)
    if not options.resume:
        path.write_text("")
    log = Log(path, [json.loads(line) for line in path.read_text().splitlines()])
    measure(options, log)
    new = summarised(log.lines)
    report = merged(old, {"command": command_line(options), "machine": here} | new)
    out.write_text(json.dumps(report, indent=2) + "\n")
    show(report, options)


if __name__ == "__main__":
    main()
