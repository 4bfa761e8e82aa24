"""Oracles: data sets for which the best possible denoiser is known exactly, so that it needs no training.

Each has the two things that samplers and likelihoods ask of a model, `.schedule` and `.predict`, and can stand wherever
a trained network stands. What then is still wrong with a sample is the sampler's doing.

Noise is Gaussian, so that a mixture of Gaussians stays one at every level: a component N(μ_k, Σ_k) of the data becomes
N(√ᾱ_t μ_k, ᾱ_t Σ_k + (1 − ᾱ_t) I). A finite data set is the limit Σ_k → 0 with one component per image.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ddpm import gaussians, samplers
from ddpm.checks import check_images, check_levels
from ddpm.diffusion import Prediction
from ddpm.schedule import NoiseSchedule

Numbers = Tensor | np.ndarray | Sequence[float] | Sequence[Sequence[float]]


class Oracle(ABC):
    """What all exact denoisers share: from E[x_0 | x_t], in one coordinate, to a `Prediction` in all four.

    Computations run in `dtype` on the device of the data; images are returned in the type in which they came in.

    Attributes:
        schedule: the `NoiseSchedule`.
        shape: (C, H, W) of one image.
        dtype: the type in which the oracle computes.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.schedule = schedule
        self.shape = tuple(shape)
        self.dtype = dtype
        self.alpha_bar = schedule.exact_alpha_bar.to(device)

    @property
    def dimensions(self) -> int:
        """D = C·H·W, the number of values in an image."""
        return math.prod(self.shape)

    @abstractmethod
    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], shaped like `x_t`, for t in 1 … T: no guess has a smaller squared error (eq:best-guess)."""

    def predict(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
    ) -> Prediction:
        """E[x_0 | x_t] as noise, x0, v and score (eq:three-coordinates).

        Args:
            x_t: noisy images, shape (B, C, H, W).
            t: their noise levels 1 … T, shape (B,).
            labels: must be None; an oracle knows no classes.
            clip_x0: clip the clean image to [-1, 1] and re-derive the rest from it, so that all four still agree.

        Returns:
            The prediction, in the type of `x_t`.

        Raises:
            ValueError: if shapes, types or levels are wrong, or labels are given.
        """
        if labels is not None:
            raise ValueError("an oracle knows no classes, so labels must be None")
        check_images("x_t", x_t)
        x = x_t.to(torch.promote_types(x_t.dtype, self.dtype))
        x0 = self.posterior_mean(x, t)
        if clip_x0:
            x0 = x0.clamp(-1, 1)
        alpha_bar = self.alpha_bar[one_level(t)].view(-1, 1, 1, 1)
        signal, sigma = alpha_bar.sqrt().to(x), (1 - alpha_bar).sqrt().to(x)
        noise = (x - signal * x0) / sigma
        v, score = signal * noise - sigma * x0, -noise / sigma
        return Prediction(*(value.to(x_t.dtype) for value in (noise, x0, v, score)))

    def flat(self, x_t: Tensor, t: Tensor, lowest: int = 1) -> tuple[Tensor, Tensor]:
        """x_t as vectors of shape (B, D), and t as (B, 1) or, if there is only one level, (1, 1)."""
        check_images("x_t", x_t)
        if tuple(x_t.shape[1:]) != self.shape:
            raise ValueError(
                f"x_t must have shape (B, {', '.join(map(str, self.shape))}), but got {tuple(x_t.shape)}"
            )
        t = check_levels(t, x_t, self.schedule.timesteps, lowest)
        return x_t.flatten(1).to(self.dtype), one_level(t)[:, None]


class GaussianMixtureOracle(Oracle):
    """The exact denoiser of a mixture of Gaussians Σ_k w_k N(μ_k, Σ_k), in any dimension.

    Every Σ_k = Q_k Λ_k Q_kᵀ is decomposed once. Noise has the same variance in every direction, so that in the basis
    Q_k the covariance of x_t stays diagonal at all levels, with entries ᾱ_t λ + 1 − ᾱ_t. Tensors below that hold one
    row per component have shape (K, B, …).

    Attributes:
        weights: w_k, shape (K,).
        means: μ_k, shape (K, D).
        eigenvalues: the diagonals of Λ_k, shape (K, D).
        basis: Q_k, whose columns are the eigenvectors, shape (K, D, D).
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        means: Numbers,
        covariances: Numbers,
        weights: Numbers | None = None,
        *,
        shape: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """Decompose the covariances.

        Args:
            schedule: the noise schedule.
            means: μ_k, shape (K, D).
            covariances: Σ_k as full matrices, shape (K, D, D), as their diagonals, shape (K, D), or, where every
                direction has the same, as variances (not standard deviations), shape (K,).
            weights: w_k, not negative, of sum 1, shape (K,); None for equal ones.
            shape: (C, H, W) of one image, with C·H·W = D; None for (1, 1, D).
            dtype: the type in which to compute.

        Raises:
            ValueError: if shapes disagree, a covariance is not symmetric and positive definite, or the weights are no
                probabilities.
        """
        mean = torch.as_tensor(means, dtype=torch.float64)
        covariance = torch.as_tensor(covariances, dtype=torch.float64, device=mean.device)
        check_mixture_shapes(mean, covariance)
        components, dimensions = mean.shape
        shape = (1, 1, dimensions) if shape is None else tuple(shape)
        if len(shape) != 3 or min(shape) < 1 or math.prod(shape) != dimensions:
            raise ValueError(
                f"shape must be (C, H, W) with C·H·W = {dimensions}, the length of the means, but got {shape}"
            )
        super().__init__(schedule, shape, dtype, mean.device)
        eigenvalues, basis = decompose(covariance, dimensions)
        self.weights = mixture_weights(weights, components, mean.device).to(dtype)
        self.means = mean.to(dtype)
        self.eigenvalues = eigenvalues.to(dtype)
        self.basis = basis.to(dtype)

    def marginal(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """The mixture q(x_t), for one t in 0 … T (eq:mixture-marginal).

        Returns:
            `(weights, means, covariances)` of shapes (K,), (K, D) and (K, D, D).

        Raises:
            ValueError: if t is out of range.
        """
        if isinstance(t, bool) or not isinstance(t, int) or not 0 <= t <= self.schedule.timesteps:
            raise ValueError(f"t must be a whole number in 0 … {self.schedule.timesteps}, but got {t!r}")
        alpha_bar = self.alpha_bar[t].view(1, 1)
        # A row of variances, (K, 1, D), scales the columns of the basis.
        covariances = (self.basis * self.variances(alpha_bar)) @ self.basis.mT
        return self.weights, alpha_bar.sqrt().to(self.dtype) * self.means, covariances

    def log_density(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log q(x_t) in nats, shape (B,), for x_t of shape (B, C, H, W) and t in 0 … T of shape (B,)."""
        x, t = self.flat(x_t, t, lowest=0)
        return self.log_joint(*self.in_basis(x, self.alpha_bar[t])).logsumexp(dim=0)

    def log_likelihood(self, x0: Tensor) -> Tensor:
        """log p(x_0) of the data distribution in nats, shape (B,), for x_0 of shape (B, C, H, W)."""
        return self.log_density(x0, samplers.levels(x0, 0))

    def responsibilities(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(k | x_t), shape (B, K): how likely x_t came from each component, for t in 0 … T of shape (B,)."""
        x, t = self.flat(x_t, t, lowest=0)
        return self.log_joint(*self.in_basis(x, self.alpha_bar[t])).softmax(dim=0).T

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """∇ log q(x_t), shaped like `x_t`, for t in 0 … T of shape (B,) (eq:score)."""
        x, t = self.flat(x_t, t, lowest=0)
        z, variances = self.in_basis(x, self.alpha_bar[t])
        share = self.log_joint(z, variances).softmax(dim=0)
        score = (share[..., None] * self.turn_back(-z / variances)).sum(0)
        return score.view_as(x_t).to(x_t.dtype)

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], shaped like `x_t`, for t in 1 … T of shape (B,) (eq:best-guess, eq:tweedie)."""
        x, t = self.flat(x_t, t)
        alpha_bar = self.alpha_bar[t]
        z, variances = self.in_basis(x, alpha_bar)
        share = self.log_joint(z, variances).softmax(dim=0)
        mean, _ = self.backward(z, alpha_bar, torch.ones_like(alpha_bar))
        x0 = (share[..., None] * (self.means[:, None] + self.turn_back(mean))).sum(0)
        return x0.view_as(x_t).to(x_t.dtype)

    def sample_posterior(self, x_t: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An exact draw of q(x_{t−1} | x_t): the true step back, which is a mixture and not a Gaussian.

        Args:
            x_t: noisy images, shape (B, C, H, W).
            t: their noise levels 1 … T, shape (B,).
            generator: source of the randomness; None means torch's global one.

        Returns:
            x_{t−1}, shaped like `x_t`.

        Raises:
            ValueError: if shapes, types or levels are wrong.
        """
        x, t = self.flat(x_t, t)
        alpha_bar, alpha_bar_prev = self.alpha_bar[t], self.alpha_bar[t - 1]
        z, variances = self.in_basis(x, alpha_bar)
        chosen = choose(self.log_joint(z, variances).softmax(dim=0), generator)
        mean, variance = self.backward(z, alpha_bar, alpha_bar_prev)
        step = mean + variance.sqrt() * samplers.randn_like(x, generator)
        draws = alpha_bar_prev.sqrt().to(x) * self.means[:, None] + self.turn_back(step)
        return pick(draws, chosen).view_as(x_t).to(x_t.dtype)

    def sample_data(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`count` draws of x_0, at least 1, as a tensor of shape (count, C, H, W) in the oracle's type."""
        check_count("count", count)
        chosen = choose(self.weights[:, None].expand(-1, count), generator)
        noise = samplers.randn_like(self.means.new_empty(count, self.dimensions), generator)
        draws = self.means[:, None] + self.turn_back(self.eigenvalues[:, None].sqrt() * noise)
        return pick(draws, chosen).view(count, *self.shape)

    # The pieces; ᾱ has shape (B, 1) or (1, 1)

    def variances(self, alpha_bar: Tensor) -> Tensor:
        """ᾱ λ + 1 − ᾱ: the variances of x_t in each component's basis, shape (K, B or 1, D)."""
        signal, noise = alpha_bar.to(self.dtype), (1 - alpha_bar).to(self.dtype)
        return signal * self.eigenvalues[:, None] + noise

    def in_basis(self, x: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
        """z = Q_kᵀ (x − √ᾱ μ_k), shape (K, B, D), and its variances under component k."""
        offset = x - alpha_bar.sqrt().to(self.dtype) * self.means[:, None]
        return offset @ self.basis, self.variances(alpha_bar)

    def turn_back(self, z: Tensor) -> Tensor:
        """Q_k z_k: out of each component's basis, shape (K, B, D)."""
        return z @ self.basis.mT

    def log_joint(self, z: Tensor, variances: Tensor) -> Tensor:
        """log w_k + log N(x; √ᾱ μ_k, ᾱ Σ_k + (1 − ᾱ) I), shape (K, B)."""
        return self.weights[:, None].log() + gaussians.log_density(
            z, torch.zeros_like(variances), variances.log()
        ).sum(-1)

    def backward(self, z: Tensor, alpha_bar: Tensor, alpha_bar_s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of x_s given x_t, for s < t, within each component, counted from √ᾱ_s μ_k in its basis.

        The pair is Gaussian: x_t = √α x_s + √(1 − α) ε with α = ᾱ_t/ᾱ_s, and so Cov(x_s, x_t) = √α Var(x_s).
        """
        alpha = alpha_bar / alpha_bar_s
        ratio = self.variances(alpha_bar_s) / self.variances(alpha_bar)
        return alpha.sqrt().to(z) * ratio * z, (1 - alpha).to(z) * ratio


class EmpiricalOracle(Oracle):
    """The exact denoiser of a finite data set: what a network that memorised it perfectly would answer.

    E[x_0 | x_t] is the average of the images y_i with the weights of a softmax over −‖x_t − √ᾱ_t y_i‖² / 2(1 − ᾱ_t).
    Sampling with it returns the images themselves.

    The data are read in chunks. Of each, only the logarithm of its total weight and its own weighted mean are kept,
    so that no exponential overflows and memory grows with B · chunk_size, not with the number of images.

    In float32 the squared distances carry an error of about 1e-6 ‖x_t‖², which the exponent divides by 2(1 − ᾱ_t). Only
    images that are that close to a tie notice; where they matter, or for log-densities at the lowest levels, take
    float64.

    Attributes:
        images: the data as vectors y_i, shape (N, D).
        chunk_size: images per matrix product.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        images: Tensor,
        *,
        chunk_size: int = 4096,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Keep the images.

        Args:
            schedule: the noise schedule.
            images: the data set in [-1, 1], shape (N, C, H, W), N at least 1.
            chunk_size: images per matrix product, at least 1; changes memory and speed, not the answer.
            dtype: the type in which to compute.

        Raises:
            ValueError: if the images have another shape, type or range, or `chunk_size` is no whole number above 0.
        """
        check_images("images", images)
        if images.numel() == 0:
            raise ValueError(f"images must be at least one, but got shape {tuple(images.shape)}")
        # Asked this way round, so that NaN is refused as well.
        if not (images.min() >= -1 and images.max() <= 1):
            raise ValueError(
                f"images must lie in [-1, 1], but range from {images.min().item():g} to {images.max().item():g};"
                " `to_model_scale` takes them there from [0, 1]"
            )
        check_count("chunk_size", chunk_size)
        super().__init__(schedule, images.shape[1:], dtype, images.device)
        self.images = images.flatten(1).to(dtype)
        self.squared_norms = torch.linalg.vector_norm(self.images, dim=1) ** 2
        self.chunk_size = chunk_size

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], shaped like `x_t`, for t in 1 … T of shape (B,) (eq:best-guess)."""
        x, t = self.flat(x_t, t)
        total, mean = x.new_full((len(x), 1), -math.inf), torch.zeros_like(x)
        for chunk in self.chunks():
            logits = self.logits(x, t, chunk)
            chunk_total = logits.logsumexp(1, keepdim=True)
            chunk_mean = (logits - chunk_total).exp() @ self.images[chunk]
            total = torch.logaddexp(total, chunk_total)
            # A convex combination of what was read before and the new chunk.
            mean = torch.lerp(mean, chunk_mean, (chunk_total - total).exp())
        return mean.view_as(x_t).to(x_t.dtype)

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """∇ log q(x_t), shaped like `x_t`, for t in 1 … T of shape (B,) (eq:score)."""
        return self.predict(x_t, t).score

    def log_density(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log q(x_t) in nats, shape (B,), for t in 1 … T of shape (B,); at t = 0 the data have no density."""
        x, t = self.flat(x_t, t)
        totals = [self.logits(x, t, chunk).logsumexp(1) for chunk in self.chunks()]
        variance = (1 - self.alpha_bar[t]).to(self.dtype)[:, 0]
        normaliser = 0.5 * self.dimensions * torch.log(2 * math.pi * variance)
        return torch.stack(totals).logsumexp(0) - math.log(len(self.images)) - normaliser

    def weights(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(i | x_t), shape (B, N): which image x_t was made from; not chunked, so for small N."""
        x, t = self.flat(x_t, t)
        return self.logits(x, t, slice(None)).softmax(1)

    def chunks(self) -> Iterator[slice]:
        """Slices that cover the data set."""
        for first in range(0, len(self.images), self.chunk_size):
            yield slice(first, first + self.chunk_size)

    def logits(self, x: Tensor, t: Tensor, chunk: slice) -> Tensor:
        """−‖x − √ᾱ y_i‖² / 2(1 − ᾱ) for the images of a chunk, shape (B, n), by one matrix product."""
        alpha_bar = self.alpha_bar[t]
        signal, variance = alpha_bar.sqrt().to(x), (1 - alpha_bar).to(x)
        products = (signal * x) @ self.images[chunk].T
        squared_norms = x.square().sum(1, keepdim=True) + alpha_bar.to(x) * self.squared_norms[chunk]
        return (products - 0.5 * squared_norms) / variance


def one_level(t: Tensor) -> Tensor:
    """t of shape (B,), or of shape (1,) if all are equal, which saves working out every coefficient B times."""
    return t[:1] if (t == t[:1]).all() else t


def choose(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """One row per column, drawn with the probabilities in it: (K, B) → (B,)."""
    components, count = probabilities.shape
    where = probabilities.device if generator is None else generator.device
    # float64 also for float32 probabilities: a coarser grid would never draw a rare component.
    uniform = torch.rand(count, dtype=torch.float64, generator=generator, device=where)
    passed = probabilities.double().cumsum(0) <= uniform.to(probabilities.device)
    return passed.sum(0).clamp(max=components - 1)  # rounding may leave the sum below 1


def pick(draws: Tensor, chosen: Tensor) -> Tensor:
    """draws[chosen[b], b] for every b: (K, B, D) → (B, D)."""
    return draws[chosen, torch.arange(len(chosen), device=draws.device)]


def check_count(name: str, value: object) -> None:
    """Refuse anything but whole numbers from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, but got {value!r}")


def decompose(covariance: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues, shape (K, D), and eigenvectors, shape (K, D, D), of covariances in any of the three forms."""
    components = len(covariance)
    if covariance.ndim == 3:
        check_symmetric(covariance)
        eigenvalues, basis = torch.linalg.eigh((covariance + covariance.mT) / 2)
        smallest = (
            dimensions * torch.finfo(torch.float64).eps * eigenvalues[:, -1]
        )  # what rounding makes of a 0
    else:
        eigenvalues = covariance.view(components, -1).expand(-1, dimensions)
        basis = torch.eye(dimensions).to(covariance).expand(components, -1, -1)
        smallest = torch.zeros_like(eigenvalues[:, 0])
    wrong = eigenvalues.amin(1) <= smallest
    if wrong.any():
        k = int(wrong.nonzero()[0])
        raise ValueError(
            f"every covariance must be positive definite, but the smallest eigenvalue of component {k} is"
            f" {eigenvalues[k].min().item():.3g}; add a small multiple of the identity"
        )
    return eigenvalues, basis


def check_symmetric(covariance: Tensor) -> None:
    """Refuse matrices of shape (K, D, D) that differ from their transposes by more than rounding."""
    asymmetry = (covariance - covariance.mT).abs().amax((1, 2))
    if (asymmetry > 1e-6 * covariance.abs().amax((1, 2))).any():
        raise ValueError(
            f"every covariance must be symmetric, but entries (i, j) and (j, i) differ by up to"
            f" {asymmetry.max().item():.3g}"
        )


def mixture_weights(weights: Numbers | None, components: int, device: torch.device) -> Tensor:
    """w_k in float64, shape (K,), after a check that they are probabilities."""
    if weights is None:
        return torch.full((components,), 1 / components, dtype=torch.float64, device=device)
    w = torch.as_tensor(weights, dtype=torch.float64, device=device)
    if w.shape != (components,):
        raise ValueError(f"weights must have shape ({components},), one per mean, but got {tuple(w.shape)}")
    if not (w >= 0).all() or not abs(w.sum().item() - 1) < 1e-6:
        raise ValueError(
            f"weights must not be negative and must sum to 1, but got {w.tolist()} of sum {w.sum().item():g}"
        )
    return w / w.sum()


def check_mixture_shapes(mean: Tensor, covariance: Tensor) -> None:
    """Refuse means that are no finite (K, D), and covariances that do not fit them."""
    if mean.ndim != 2 or mean.numel() == 0 or not mean.isfinite().all():
        raise ValueError(f"means must be finite numbers of shape (K, D), but got shape {tuple(mean.shape)}")
    components, dimensions = mean.shape
    allowed = [(components,), (components, dimensions), (components, dimensions, dimensions)]
    if tuple(covariance.shape) not in allowed:
        raise ValueError(
            f"means of shape {tuple(mean.shape)} need covariances of shape {allowed[2]} (full), {allowed[1]} (diagonal)"
            f" or {allowed[0]} (one variance each), but got {tuple(covariance.shape)}"
        )
    if not covariance.isfinite().all():
        raise ValueError("covariances must be finite, but some are NaN or infinite")
