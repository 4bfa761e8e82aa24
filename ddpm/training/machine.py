"""What a run does on which machine: choices that follow from a few facts, tested without the machine."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

# By what `accelerate launch` divides a network among processes, and what else it is told that a trainer is told itself.
_SHARDING = ("USE_FSDP", "USE_DEEPSPEED", "USE_MEGATRON_LM", "USE_PARALLELISM_CONFIG")
_LAUNCHED = {
    "MIXED_PRECISION": "mixed_precision",
    "GRADIENT_ACCUMULATION_STEPS": "gradient_accumulate_every",
    "DYNAMO_BACKEND": "compile",
}


@dataclass(frozen=True)
class Machine:
    """The facts.

    Attributes:
        device: "cuda" (also AMD's), "mps", "xpu", …, or "cpu".
        processes: how many train together, over all machines.
        here: how many of them on this machine.
        devices: accelerators of this machine.
        nccl: whether torch was built with NCCL; for Windows it is not.
    """

    device: str = "cpu"
    processes: int = 1
    here: int = 1
    devices: int = 0
    nccl: bool = False

    @classmethod
    def found(cls) -> "Machine":
        """This machine, and what the launcher says of the processes."""
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return cls(
            device="cpu" if accelerator is None else accelerator.type,
            processes=int(os.environ.get("WORLD_SIZE", "1")),
            here=int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))),
            devices=0 if accelerator is None else torch.accelerator.device_count(),
            nccl=torch.distributed.is_available() and torch.distributed.is_nccl_available(),
        )


def meets_on_cpu(machine: Machine, *, told: bool = False) -> bool:
    """Whether accelerate has to be told to stay on the CPU.

    That is where the user wants it, or several processes have no other place: it knows none on Apple's GPU.
    """
    return told or (machine.processes > 1 and machine.device in ("cpu", "mps"))


def backend(machine: Machine, *, told_cpu: bool = False) -> str | None:
    """How several processes speak to each other; None for one process, and where accelerate knows best.

    NCCL is the fastest between GPUs, and does not exist on Windows; gloo works everywhere.

    Raises:
        ValueError: if there are more processes than GPUs: two cannot share one.
    """
    if machine.processes == 1:
        return None
    if meets_on_cpu(machine, told=told_cpu):
        return "gloo"
    if machine.here > machine.devices:
        raise ValueError(
            f"{machine.here} processes were started here, and there is a GPU for {machine.devices} of them: start at"
            f" most {machine.devices} (`--nproc_per_node` of torchrun, `--num_processes` of accelerate launch)"
        )
    if machine.device != "cuda":
        return None
    return "nccl" if machine.nccl else "gloo"


def check_launcher(environment: Mapping[str, str], options: Mapping[str, object]) -> None:
    """Refuse what `accelerate launch` was told and would not happen; warn of what the trainer's `options` decide."""
    told = {name: environment.get(f"ACCELERATE_{name}", "").lower() for name in (*_SHARDING, *_LAUNCHED)}
    if sharding := [name for name in _SHARDING if told[name] in ("true", "1")]:
        raise ValueError(
            f"accelerate launch was told to {sharding[0]}, but a Trainer keeps the whole network in every process:"
            " choose multi-GPU without it in `accelerate config`, or start with `torchrun`; where memory is short,"
            " gradient_checkpointing=True"
        )
    for name, option in _LAUNCHED.items():
        own = options[option]
        alike = told[name] in ("", "0", "1", "no", "none", "false", str(own).lower()) or own is True
        if not alike and environment.get("RANK", "0") == "0":
            warnings.warn(
                f"accelerate launch was told {name.lower()}={told[name]}, but the Trainer's own {option}={own!r} holds:"
                f" change it there, or in the command by --set training.{option}=…",
                stacklevel=3,
            )


def pins_memory(device: str) -> bool:
    """Whether batches wait in page-locked memory, out of which NVIDIA's and AMD's GPUs copy while they compute."""
    return device == "cuda"


def copies_without_waiting(device: str) -> bool:
    """Whether a copy to the device may still be under way when the next line runs: out of page-locked memory alone.

    On Apple's GPU such copies hand over other numbers than those that were there (pytorch#139550).
    """
    return pins_memory(device)


def memory_format(device: str, *, channels_last: bool) -> torch.memory_format:
    """How weights and images lie in memory, which convolutions like with the channels last.

    On Apple's GPU always plainly: up to torch 2.5 convolutions gave wrong gradients otherwise (pytorch#140902).
    """
    return torch.channels_last if channels_last and device != "mps" else torch.contiguous_format


def fuses_optimizer(device: str) -> bool:
    """Whether Adam updates all weights in one operation; elsewhere not every version of torch has that."""
    return device in ("cpu", "cuda")


def missing_environment(
    device: str, environment: Mapping[str, str], *, deterministic: bool
) -> dict[str, str]:
    """What a deterministic run needs in its environment besides torch's own switch, and does not have.

    cuBLAS adds in one order only within a workspace of a fixed size, which it must be told before its first product.
    """
    wanted = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if deterministic and device == "cuda" else {}
    return {name: value for name, value in wanted.items() if name not in environment}


@contextlib.contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Meanwhile torch takes only what gives the same bits each time, if that is `wanted`."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    searches = torch.backends.cudnn.benchmark
    if wanted:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False  # it would take what is fastest, now this and now that
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = searches
