"""The two scales of images: [0, 1] at the door, [-1, 1] in the maths."""

from torch import Tensor

from ddpm.support.tensor_checks import check_tensor


def to_model_scale(images: Tensor) -> Tensor:
    """Images from [0, 1] to the [-1, 1] of the maths."""
    check_tensor("images", images, floating=True)
    return images * 2 - 1


def to_image_scale(x: Tensor) -> Tensor:
    """From the [-1, 1] of the maths to images in [0, 1]; what lies outside is clipped."""
    check_tensor("x", x, floating=True)
    return ((x + 1) / 2).clamp(0, 1)
