"""What is measured: the networks, and one job for each process."""

from dataclasses import dataclass
from typing import Any

from ddpm.cli.presets import CIFAR10

IMPLEMENTATIONS = ("ours", "diffusers", "denoising-diffusion-pytorch")
PEERS = IMPLEMENTATIONS[1:]
MODES, PRECISIONS, TASKS = ("eager", "compiled"), ("float32", "bf16"), ("train", "evaluate")
KEY = ("network", "task", "batch", "mode", "precision", "implementation")

YARDSTICKS = ("matmul", "convolution")

Figures = dict[str, Any]


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
    # Ho et al. 2020, appendix B, for CIFAR-10
    "paper": Network(
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
        kind: "step" (a training step or a network call), "yardsticks" (a product, a convolution), "count" (FLOPs).
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
