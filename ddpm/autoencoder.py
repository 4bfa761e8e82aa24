"""A small autoencoder of our own, so that latent diffusion can be seen whole on small images."""

from torch import Tensor, nn
from torch.nn import functional as F

from ddpm.support.checks import check_whole
from ddpm.support.scales import to_model_scale
from ddpm.support.tensor_checks import check_images, check_within
from ddpm.unet_blocks import Upsample


class SmallAutoencoder(nn.Module):
    """Convolutions down to a code and up again, for images as small as the digits.

    An image (B, C, H, W) becomes a code (B, c, H/f, W/f), with f = 2^`downsamplings`. Nothing is sampled inside and the
    code is not penalised, so that its scale is as it comes: `ddpm.latent_scale` measures it.

    Attributes:
        channels: C, of the images.
        latent_channels: c, of the code.
        factor: f.
    """

    def __init__(
        self, channels: int = 1, latent_channels: int = 2, *, dim: int = 32, downsamplings: int = 1
    ) -> None:
        """Build it, `dim` features wide; a whole number below 1 is a ValueError."""
        super().__init__()
        self.channels = check_whole("channels", channels)
        self.latent_channels = check_whole("latent_channels", latent_channels)
        dim, depth = check_whole("dim", dim), check_whole("downsamplings", downsamplings)
        self.factor = 2**depth
        down: list[nn.Module] = [nn.Conv2d(self.channels, dim, 3, padding=1), nn.SiLU()]
        up: list[nn.Module] = [nn.Conv2d(self.latent_channels, dim, 3, padding=1), nn.SiLU()]
        for _ in range(depth):
            down += [nn.Conv2d(dim, dim, 3, stride=2, padding=1), nn.SiLU()]
            up += [Upsample(dim), nn.SiLU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(dim, self.latent_channels, 3, padding=1))
        self.decoder = nn.Sequential(*up, nn.Conv2d(dim, self.channels, 3, padding=1))

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1], with H and W divisible by f → codes (B, c, H/f, W/f)."""
        if x.ndim != 4 or x.shape[1] != self.channels or any(side % self.factor for side in x.shape[2:]):
            raise ValueError(
                f"this autoencoder takes images of shape (B, {self.channels}, H, W) with H and W divisible by"
                f" {self.factor}, but got {tuple(x.shape)}"
            )
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Codes (B, c, h, w) → images (B, C, f·h, f·w), about in [-1, 1]."""
        return self.decoder(z)

    def forward(self, images: Tensor) -> Tensor:
        """The loss of images in [0, 1]: the mean squared error of what comes back, in the [-1, 1] scale; a scalar."""
        check_images("images", images)
        check_within("images", images, 0, 1, "as they are at the door of a model")
        x = to_model_scale(images)
        return F.mse_loss(self.decode(self.encode(x)), x)
