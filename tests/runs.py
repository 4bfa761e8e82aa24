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


def trainer(folder: Path, diffusion: GaussianDiffusion | None = None, data=None, **settings) -> Trainer:
    """A trainer that takes a blink: a small model on the digits."""
    quiet = {"progress": False, "tensorboard": False, "num_samples": 4}
    small = {"train_batch_size": 8, "train_num_steps": 4, "save_and_sample_every": 2, "log_every": 1}
    return Trainer(
        model() if diffusion is None else diffusion,
        digits() if data is None else data,
        results_folder=folder,
        **(quiet | small | settings),
    )


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
