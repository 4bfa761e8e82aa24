"""Two photographs that come with scikit-image and scikit-learn, cut to a square of 300 pixels.

Each is resized to `size`, a whole number of at least 1, and returned as float32 of shape (3, size, size) in [0, 1].
"""

from PIL import Image
from skimage.data import chelsea
from sklearn.datasets import load_sample_image
from torch import Tensor

from ddpm.data.images import PrepareImage

# left, upper, right, lower edge of a square in the photograph, in pixels
CAT_FACE = (85, 0, 385, 300)
FLOWER_HEAD = (158, 71, 458, 371)


def cat_photograph(size: int = 64) -> Tensor:
    """Chelsea the cat, from scikit-image: her face."""
    return PrepareImage(size, 3)(Image.fromarray(chelsea()).crop(CAT_FACE))


def flower_photograph(size: int = 64) -> Tensor:
    """The dahlia from scikit-learn: its head."""
    return PrepareImage(size, 3)(Image.fromarray(load_sample_image("flower.jpg")).crop(FLOWER_HEAD))
