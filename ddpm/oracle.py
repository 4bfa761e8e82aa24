"""Oracles: data sets for which the best possible denoiser is known exactly, so that it needs no training.

Each has the two things that samplers and likelihoods ask of a model, `.schedule` and `.predict`, and can stand wherever
a trained network stands. What then is still wrong with a sample is the sampler's doing.

Here is that of a finite data set; that of a mixture of Gaussians is in `ddpm.mixture_oracle`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm.prediction import Prediction, clipped
from ddpm.schedule import NoiseSchedule
from ddpm.support.checks import check_whole
from ddpm.support.tensor_checks import check_images, check_labels, check_t, check_within, may_look_at


class Oracle(ABC):
    """What all exact denoisers share: from E[x_0 | x_t] to a `Prediction`.

    Images have shape (B, C, H, W), and t shape (B,), in 1 … T if nothing else is said; what has not is a ValueError.
    Computations run in `dtype` on the device of the data; images are returned in the type in which they came in.

    Attributes:
        schedule: the `NoiseSchedule`.
        shape: (C, H, W) of one image.
        dtype: the type in which the oracle computes.
        num_classes: how many classes it knows, 0 … `num_classes` − 1; None for none.
        null_label: the label that stands for none, `num_classes`; None where there are no classes.
    """

    num_classes: int | None = None

    def __init__(
        self, schedule: NoiseSchedule, shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.schedule = schedule
        self.shape = tuple(shape)
        self.dtype = dtype
        self._alpha_bar = schedule.exact_alpha_bar.to(device)

    @property
    def null_label(self) -> int | None:
        """The label that stands for none."""
        return self.num_classes

    @property
    def dimensions(self) -> int:
        """D = C·H·W, the number of values in an image."""
        return math.prod(self.shape)

    @abstractmethod
    def expected_x0(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], shaped like `x_t`: no guess has a smaller squared error (eq:best-guess)."""

    def predict(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
    ) -> Prediction:
        """E[x_0 | x_t], clipped to [-1, 1] if asked, as a prediction (eq:three-coordinates).

        With `labels`, for an oracle with classes, E[x_0 | x_t, y].
        """
        check_images("x_t", x_t)
        t = check_t(t, x_t, self.schedule.timesteps)
        told: dict[str, Any] = {} if labels is None else {"labels": self._checked(labels, x_t)}
        x = x_t.to(torch.promote_types(x_t.dtype, self.dtype))
        x0 = self.expected_x0(x, t, **told)
        x0 = clipped(x0) if clip_x0 else x0
        alpha_bar = self._alpha_bar[_one_if_equal(t)].view(-1, 1, 1, 1)
        exact = Prediction.from_x0(x, x0, alpha_bar.sqrt().to(x), (1 - alpha_bar).sqrt().to(x))
        return Prediction(*(value.to(x_t.dtype) for value in (exact.noise, x0, exact.signal, exact.sigma)))

    def _checked(self, labels: Tensor | None, x_t: Tensor) -> Tensor | None:
        """One class per image, or None; ValueError for any that the oracle does not know."""
        if labels is not None and self.num_classes is None:
            raise ValueError("this oracle knows no classes, so labels must be None")
        labels, classes = check_labels(labels, x_t), self.num_classes
        if labels is None or classes is None:
            return None
        if may_look_at(labels) and len(labels) and not (labels.min() >= 0 and labels.max() <= classes):
            raise ValueError(
                f"labels must lie in 0 … {classes - 1}, or be {classes} for none, but got values from"
                f" {labels.min().item()} to {labels.max().item()}"
            )
        return labels

    def _flat(self, x_t: Tensor, t: Tensor, lowest: int = 1) -> tuple[Tensor, Tensor]:
        """x_t as vectors of shape (B, D), and ᾱ_t as (B, 1) or, if there is only one t, (1, 1)."""
        check_images("x_t", x_t, self.shape)
        t = check_t(t, x_t, self.schedule.timesteps, lowest)
        return x_t.flatten(1).to(self.dtype), self._alpha_bar[_one_if_equal(t)][:, None]


class EmpiricalOracle(Oracle):
    """The exact denoiser of a finite data set: what a network that memorised it perfectly would answer.

    E[x_0 | x_t] is the average of the images y_i with the weights of a softmax over −‖x_t − √ᾱ_t y_i‖² / 2(1 − ᾱ_t).
    Sampling with it returns the images themselves.

    The data are read in chunks. Of each, only the logarithm of its total weight and its own weighted mean are kept,
    so that no exponential overflows and memory grows with B · chunk_size, not with the number of images.

    In float32 the squared distances carry an error of about 1e-6 ‖x_t‖², which the exponent divides by 2(1 − ᾱ_t). Only
    images that are that close to a tie notice; where they matter, or for log-densities at the lowest t, take float64.

    Attributes:
        images: the data as vectors y_i, shape (N, D).
        chunk_size: images per matrix product; changes memory and speed, not the answer.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        images: Tensor,
        *,
        chunk_size: int = 4096,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Keep the images: in [-1, 1], shape (N, C, H, W), N at least 1; ValueError for others."""
        check_images("images", images)
        if images.numel() == 0:
            raise ValueError(f"images must be at least one, but got shape {tuple(images.shape)}")
        check_within("images", images, -1, 1, "`to_model_scale` takes them there from [0, 1]")
        chunk_size = check_whole("chunk_size", chunk_size)
        super().__init__(schedule, images.shape[1:], dtype, images.device)
        self.images = images.flatten(1).to(dtype)
        self.chunk_size = chunk_size
        self._squared_norms = torch.linalg.vector_norm(self.images, dim=1) ** 2

    def expected_x0(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], shaped like `x_t` (eq:best-guess)."""
        x, alpha_bar = self._flat(x_t, t)
        total, mean = x.new_full((len(x), 1), -math.inf), torch.zeros_like(x)
        for chunk in self._chunks():
            logits = self._logits(x, alpha_bar, chunk)
            chunk_total = logits.logsumexp(1, keepdim=True)
            chunk_mean = (logits - chunk_total).exp() @ self.images[chunk]
            total = torch.logaddexp(total, chunk_total)
            # A convex combination of what was read before and the new chunk.
            mean = torch.lerp(mean, chunk_mean, (chunk_total - total).exp())
        return mean.view_as(x_t).to(x_t.dtype)

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """∇ log q(x_t), shaped like `x_t` (eq:score)."""
        return self.predict(x_t, t).score

    def log_density(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log q(x_t) in nats, shape (B,); at t = 0 the data have no density."""
        x, alpha_bar = self._flat(x_t, t)
        totals = [self._logits(x, alpha_bar, chunk).logsumexp(1) for chunk in self._chunks()]
        variance = (1 - alpha_bar).to(self.dtype)[:, 0]
        normaliser = 0.5 * self.dimensions * torch.log(2 * math.pi * variance)
        return torch.stack(totals).logsumexp(0) - math.log(len(self.images)) - normaliser

    def weights(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(i | x_t), shape (B, N): which image x_t was made from; not chunked, so for small N."""
        return self._logits(*self._flat(x_t, t), slice(None)).softmax(1)

    def _chunks(self) -> Iterator[slice]:
        """Slices that cover the data set."""
        for first in range(0, len(self.images), self.chunk_size):
            yield slice(first, first + self.chunk_size)

    def _logits(self, x: Tensor, alpha_bar: Tensor, chunk: slice) -> Tensor:
        """−‖x − √ᾱ y_i‖² / 2(1 − ᾱ) for the images of a chunk, shape (B, n), by one matrix product."""
        products = (alpha_bar.sqrt().to(x) * x) @ self.images[chunk].T
        squared_norms = x.square().sum(1, keepdim=True) + alpha_bar.to(x) * self._squared_norms[chunk]
        return (products - 0.5 * squared_norms) / (1 - alpha_bar).to(x)


def _one_if_equal(t: Tensor) -> Tensor:
    """t of shape (B,), or of shape (1,) if all are equal, which saves working out every coefficient B times."""
    return t[:1] if (t == t[:1]).all() else t
