"""Small training runs that several tests share."""

from pathlib import Path

import torch
from PIL import Image
from torch import nn

from ddpm import GaussianDiffusion, Trainer, Unet
from ddpm.data import digits
from ddpm.io.checkpoint import list_checkpoints


def model(seed: int = 0, *, network: dict | None = None, **options) -> GaussianDiffusion:
    """A small model whose every weight was drawn, since a fresh network answers 0."""
    torch.manual_seed(seed)
    shape = {"dim_mults": (1, 2), "num_res_blocks": 1, "attention_resolutions": (), "resnet_block_groups": 4}
    unet = Unet(8, **({"channels": 1} | shape | (network or {})))
    nn.init.normal_(unet.last.weight, std=0.1)
    defaults = {"image_size": 8, "timesteps": 50, "sampling_timesteps": 2, "objective": "pred_v"}
    return GaussianDiffusion(unet, **(defaults | {"beta_schedule": "cosine"} | options))


def trainer(folder: Path, diffusion: GaussianDiffusion | None = None, data=None, **config) -> Trainer:
    """A trainer that takes a blink: a small model on the digits."""
    quiet = {"progress": False, "tensorboard": False, "num_samples": 4}
    small = {"train_batch_size": 8, "train_num_steps": 4, "save_and_sample_every": 2, "log_every": 1}
    return Trainer(
        model() if diffusion is None else diffusion,
        digits() if data is None else data,
        results_folder=folder,
        **(quiet | small | config),
    )


def trained(folder: Path, *args, **config) -> Trainer:
    """The same, after its training."""
    ours = trainer(folder, *args, **config)
    ours.train()
    return ours


def weights(module: nn.Module) -> torch.Tensor:
    """All parameters of a module in one row."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def saved_files(run: Path) -> dict[str, bytes]:
    """The tensors of a run's newest checkpoint, as the bytes of their files."""
    return {path.name: path.read_bytes() for path in sorted(list_checkpoints(run)[-1].glob("*.safetensors"))}


def pictures(folder: Path, count: int, size: tuple[int, int] = (12, 10)) -> Path:
    """A folder of coloured pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        colours = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(colours.numpy()).save(folder / f"{number}.png")
    return folder


class Spy(nn.Module):
    """A small network that remembers what it was given, and whose output a test may spoil.

    Attributes:
        calls: one dict a call.
        spoil: what becomes of the output.
    """

    channels = 1

    def __init__(self, *, self_condition: bool = False, spoil=lambda output, calls: output):  # noqa: ARG005
        super().__init__()
        self.layer = nn.Conv2d(2, 1, 3, padding=1)
        self.self_condition, self.spoil, self.calls = self_condition, spoil, []

    def forward(self, x_t, t, labels=None, x_self_cond=None):
        guess = torch.zeros_like(x_t) if x_self_cond is None else x_self_cond
        output = self.layer(torch.cat([x_t, guess], 1)) * t.view(-1, 1, 1, 1) / 50
        if torch.compiler.is_compiling():
            return output
        inside = {"type": output.dtype, "grad": output.requires_grad, "training": self.training}
        self.calls.append({"x_t": x_t, "t": t, "labels": labels, "guess": x_self_cond} | inside)
        return self.spoil(output, self.calls)


def spied(folder: Path, spy: dict | None = None, **config) -> Trainer:
    """A trainer of a `Spy`, for one step unless `config` says otherwise."""
    torch.manual_seed(0)
    options = {"image_size": 8, "timesteps": 50, "objective": "pred_v", "sampling_timesteps": 2}
    ours = trainer(
        folder, GaussianDiffusion(Spy(**(spy or {})), **options), **({"train_num_steps": 1} | config)
    )
    ours.diffusion.network.calls.clear()  # of the trial before work starts
    return ours
