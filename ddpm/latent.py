"""Latent diffusion: the same chain, in the code of a frozen autoencoder (Rombach et al. 2022)."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ddpm.diffusion import GaussianDiffusion
from ddpm.prediction import evaluating
from ddpm.support.buffers import HALVES, KeepsPrecision
from ddpm.support.checks import check_whole, shown
from ddpm.support.scales import to_image_scale, to_model_scale
from ddpm.support.tensor_checks import check_images, check_within


class Autoencoder(Protocol):
    """What latent diffusion asks of an autoencoder: two maps, and how many channels its images have."""

    channels: int

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] → their codes (B, c, h, w)."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Codes (B, c, h, w) → images (B, C, H, W), about in [-1, 1]."""
        ...


class _Frozen(nn.Module):
    """An autoencoder that nothing changes: without gradients, in evaluation mode, and one for all copies of a model.

    So it is not rounded either when one of these copies is.
    """

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "_Frozen":  # noqa: ARG002 (as the base class has it)
        """Stay in evaluation mode."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """What `.to`, `.half`, `.cuda` and their like come down to."""

        def kept(x: Tensor) -> Tensor:
            moved = fn(x)
            return x.to(moved.device) if moved.dtype in HALVES else moved

        return super()._apply(kept, recurse)

    def __deepcopy__(self, memo: object) -> "_Frozen":
        """Itself: the averages of a run need no second one."""
        return self


class LatentDiffusion(KeepsPrecision, GaussianDiffusion):
    """A diffusion model of codes: images at the door, (E(x) − m)/s as x_0 inside (eq:latent-scale).

    Everything is as in `GaussianDiffusion`, and a `Trainer` takes it, but for three things. What is called x here has
    the shape of a code, (c, h, w), and so has what the network takes. Codes have no bounds, so that nothing is clipped
    to [-1, 1]; `clip_x0` does nothing. And the likelihood of the codes is not that of the images.

    Attributes:
        autoencoder: frozen, and kept in no file of the model: whoever builds it, or loads it by
            `load_pretrained(…, autoencoder=…)`, brings it. It may be of any floating-point type, and `.half()` and the
            like do not round it. Deep copies share it.
        latent_mean, latent_deviation: m and s, shape (c, 1, 1) or (1, 1, 1).
        x_shape: (c, h, w) of a code.
    """

    clips_x0 = False
    latent_mean: Tensor
    latent_deviation: Tensor

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        *,
        image_size: int | tuple[int, int],
        mean: Tensor | float = 0.0,
        deviation: Tensor | float = 1.0,
        **options: Any,
    ) -> None:
        """Join a network for codes to an autoencoder for images.

        Args:
            network: any module that meets the network contract (see `ddpm`), with the channels of the code.
            autoencoder: a module with `channels`, `encode` and `decode`, already trained.
            image_size: height and width of the images in pixels; one number for square ones.
            mean: m, one number or one of each channel of the code, shape (c, 1, 1), as `latent_scale` gives them.
            deviation: s, likewise, above 0.
            options: further arguments of `GaussianDiffusion`.

        Raises:
            ValueError: if network and code do not fit each other, a decoded image has another shape, s is not positive,
                or the network predicts its variance, whose loss is for images of 8 bits.
            TypeError: if the autoencoder is none, or gives something else than tensors.
        """
        super().__init__(network, image_size=image_size, **options)
        if self.learned_variance:
            raise ValueError("learned_variance is for images of 8 bits; a code has no steps: leave it out")
        codes = self.channels
        _check_autoencoder(autoencoder)
        # From here on these are what images have: data are prepared by them.
        self.channels = check_whole("`channels` of an autoencoder", autoencoder.channels)
        self._code_shape = _tried(autoencoder, self.image_shape, codes)
        for name, value in (("latent_mean", mean), ("latent_deviation", deviation)):
            self.register_buffer(name, _per_channel(name, value, codes), persistent=False)
        if not (self.latent_deviation > 0).all():
            raise ValueError(f"deviation must be above 0, but got {self.latent_deviation.flatten().tolist()}")
        self._frozen = _Frozen(autoencoder)

    @property
    def autoencoder(self) -> Any:
        """The autoencoder."""
        return self._frozen.autoencoder

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one code."""
        return self._code_shape

    @property
    def config(self) -> dict[str, object]:
        """As of `GaussianDiffusion`, with m and s."""
        scale = {name: getattr(self, name).flatten().tolist() for name in ("latent_mean", "latent_deviation")}
        return super().config | scale

    @torch.no_grad()
    def to_x0(self, images: Tensor) -> Tensor:
        """Images in [0, 1] → codes of mean 0 and deviation 1, (B, c, h, w) (eq:latent-scale)."""
        codes = _asked(self.autoencoder, "encode", to_model_scale(images))
        return (codes - self.latent_mean) / self.latent_deviation

    @torch.no_grad()
    def to_images(self, x: Tensor) -> Tensor:
        """The way back: codes → images in [0, 1]."""
        codes = x * self.latent_deviation + self.latent_mean
        return to_image_scale(_asked(self.autoencoder, "decode", codes))


@torch.no_grad()
def latent_scale(autoencoder: Autoencoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """m and s of eq:latent-scale: mean and standard deviation of each channel of the codes, both (c, 1, 1).

    Of images in [0, 1], shape (N, C, H, W), of which a few hundred that stand for all will do.

    Raises:
        ValueError: if the images are not in [0, 1], or a channel of the code does not vary.
    """
    _check_autoencoder(autoencoder)
    check_images("images", images)
    check_within("images", images, 0, 1, "as they are at the door of a model")
    with evaluating(autoencoder):
        codes = _asked(autoencoder, "encode", to_model_scale(images))
    mean, deviation = (part.view(-1, 1, 1) for part in (codes.mean((0, 2, 3)), codes.std((0, 2, 3))))
    if not (deviation > 0).all():
        raise ValueError(
            f"a channel of the code is the same for all images: the deviations are {deviation.flatten().tolist()}"
        )
    return mean, deviation


def _check_autoencoder(autoencoder: object) -> None:
    """Refuse what is no autoencoder, before anything is done to it."""
    wanted = all(hasattr(autoencoder, name) for name in ("channels", "encode", "decode"))
    if not (wanted and isinstance(autoencoder, nn.Module)):
        raise TypeError(
            "an autoencoder must be a torch.nn.Module with `channels`, `encode` and `decode`, but got a"
            f" {type(autoencoder).__name__}; of an AutoencoderKL of diffusers load_autoencoder makes one, or"
            " ddpm.io.autoencoders.PublishedAutoencoder(model)"
        )


def _per_channel(name: str, value: Tensor | float, channels: int) -> Tensor:
    """A number, or one for each channel, as a tensor that multiplies codes."""
    table = torch.as_tensor(value, dtype=torch.float32).detach().clone()
    if table.numel() not in (1, channels) or not table.isfinite().all():
        raise ValueError(
            f"{name.removeprefix('latent_')} must be one finite number, or {channels}, one for each channel of the"
            f" code, but got {value!r}"
        )
    return table.reshape(-1, 1, 1)


def _asked(autoencoder: Any, direction: Literal["encode", "decode"], x: Tensor) -> Tensor:
    """What an autoencoder makes of x, in the type and on the device of x, whatever its own are."""
    answer = getattr(autoencoder, direction)(x.to(next(autoencoder.parameters(), x)))
    if not isinstance(answer, Tensor) or answer.ndim != 4:
        raise TypeError(
            f"`{direction}` of an autoencoder must return a tensor of four dimensions, but that of this"
            f" {type(autoencoder).__name__} returned {shown(answer)}; give a module whose `{direction}` takes the"
            " tensor out of it, such as the mean where a code is a distribution"
        )
    return answer.to(x)


@torch.no_grad()
def _tried(autoencoder: Any, image_shape: tuple[int, ...], channels: int) -> tuple[int, int, int]:
    """(c, h, w) of the code of a blank image, once it is sure that it fits the network and becomes an image again."""
    blank = torch.zeros(1, *image_shape)
    with evaluating(autoencoder):
        code = _asked(autoencoder, "encode", blank)
        if code.shape[1] != channels:
            raise ValueError(
                f"the autoencoder makes codes of shape {tuple(code.shape[1:])} of images of {image_shape}, but the"
                f" network takes {channels} channel(s); build it with channels={code.shape[1]}"
            )
        image = _asked(autoencoder, "decode", code)
    if image.shape != blank.shape:
        raise ValueError(
            f"the autoencoder makes images of {tuple(image.shape[1:])} of the codes of those of {image_shape}; its"
            " `channels` must be those of its images, and image_size one that comes back, such as a multiple of 8"
        )
    return code.shape[1], code.shape[2], code.shape[3]
