"""Published autoencoders: diffusers' `AutoencoderKL`, by folder or Hub name, as latent diffusion takes them."""

import os
from typing import Any

from torch import Tensor, nn

from ddpm.io.paths import expanded


class PublishedAutoencoder(nn.Module):
    """An `AutoencoderKL` of diffusers; its code is the mean of what its encoder predicts.

    Attributes:
        channels: of its images.
        mean, deviation: m and s of eq:latent-scale as its authors measured them: `shift_factor`, or 0, and
            1/`scaling_factor`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.channels: int = model.config.in_channels
        self.mean = float(model.config.get("shift_factor") or 0.0)
        self.deviation = 1 / float(model.config.scaling_factor)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] → codes (B, c, h, w)."""
        return self.model.encode(x).latent_dist.mode()

    def decode(self, z: Tensor) -> Tensor:
        """Codes (B, c, h, w) → images (B, C, H, W), about in [-1, 1]."""
        return self.model.decode(z).sample


def load_autoencoder(name_or_folder: str | os.PathLike[str]) -> PublishedAutoencoder:
    """A trained `AutoencoderKL`, in evaluation mode on the CPU, in float32.

        autoencoder = load_autoencoder("stabilityai/sd-vae-ft-mse")
        LatentDiffusion(network, autoencoder, image_size=256, mean=autoencoder.mean, deviation=autoencoder.deviation)

    `name_or_folder` is a folder that `AutoencoderKL.save_pretrained` wrote, by itself or as the part `vae` of a
    pipeline's, or a name on the Hugging Face Hub. Pickles are not read.

    Raises:
        ImportError: if diffusers is not installed.
        OSError: if there is no such folder or name, or it holds no safetensors.
    """
    try:
        from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]
    except ImportError as error:
        raise ImportError("load_autoencoder needs diffusers: pip install diffusers") from error
    folder = expanded(name_or_folder)
    part = {"subfolder": "vae"} if (folder / "vae").is_dir() else {}
    source = folder if folder.is_dir() else name_or_folder
    model = AutoencoderKL.from_pretrained(source, use_safetensors=True, **part)
    return PublishedAutoencoder(model.float()).eval()
