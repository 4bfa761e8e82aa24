"""Oracles: data sets for which the best possible denoiser is known exactly, so that it needs no training.

Each has the two things that samplers and likelihoods ask of a model, `.schedule` and `.predict`, and can stand wherever
a trained network stands. What then is still wrong with a sample is the sampler's doing.

Noise is Gaussian, so that a mixture of Gaussians stays one at every level: a component N(μ_k, Σ_k) of the data becomes
N(√ᾱ_t μ_k, ᾱ_t Σ_k + (1 − ᾱ_t) I). A finite data set is the limit Σ_k → 0 with one component per image.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ddpm import samplers
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
        """E[x_0 | x_t], shaped like `x_t`: the answer that minimises the training loss (eq:tweedie)."""

    def predict(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
    ) -> Prediction:
        """E[x_0 | x_t] as noise, x0, v and score.

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
            raise ValueError("an oracle knows no classes: leave labels out (None)")
        x = x_t.to(torch.promote_types(x_t.dtype, self.dtype))
        x0 = self.posterior_mean(x, t)
        x0 = x0.clamp(-1, 1) if clip_x0 else x0
        alpha_bar = self.alpha_bar[t].view(-1, 1, 1, 1)
        signal, sigma = alpha_bar.sqrt().to(x), (1 - alpha_bar).sqrt().to(x)
        noise = (x - signal * x0) / sigma
        coordinates = {
            "noise": noise,
            "x0": x0,
            "v": signal * noise - sigma * x0,
            "score": -noise / sigma,
        }
        return Prediction(**{name: value.to(x_t.dtype) for name, value in coordinates.items()})

    def flat(self, x_t: Tensor, t: Tensor, lowest: int = 1) -> tuple[Tensor, Tensor]:
        """x_t as vectors of shape (B, D), and ᾱ_t in float64 of shape (B, 1), for t in `lowest` … T."""
        check_images("x_t", x_t)
        if tuple(x_t.shape[1:]) != self.shape:
            raise ValueError(
                f"x_t must have shape (B, {', '.join(map(str, self.shape))}), but got {tuple(x_t.shape)}"
            )
        t = check_levels(t, x_t, self.schedule.timesteps, lowest)
        return x_t.flatten(1).to(self.dtype), self.alpha_bar[t, None]


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
        if len(shape) != 3 or math.prod(shape) != dimensions:
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
        """The mixture q(x_t) itself, for one t in 0 … T.

        Returns:
            `(weights, means, covariances)` of shapes (K,), (K, D) and (K, D, D).

        Raises:
            ValueError: if t is out of range.
        """
        if isinstance(t, bool) or not isinstance(t, int) or not 0 <= t <= self.schedule.timesteps:
            raise ValueError(f"t must be a whole number in 0 … {self.schedule.timesteps}, but got {t!r}")
        alpha_bar = self.alpha_bar[t].view(1, 1)
        variances = self.variances(alpha_bar)  # (K, 1, D), which scales the columns of the basis
        covariances = (self.basis * variances) @ self.basis.mT
        return self.weights, alpha_bar.sqrt().to(self.dtype) * self.means, covariances

    def log_density(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log q(x_t) in nats, shape (B,), for x_t of shape (B, C, H, W) and t in 0 … T of shape (B,)."""
        return torch.logsumexp(self.log_joint(*self.flat(x_t, t, lowest=0)), dim=0)

    def log_likelihood(self, x0: Tensor) -> Tensor:
        """log p(x_0) of the data distribution in nats, shape (B,), for x_0 of shape (B, C, H, W)."""
        return self.log_density(x0, samplers.levels(x0, 0))

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """∇ log q(x_t), shaped like `x_t`, for t in 0 … T of shape (B,) (eq:score)."""
        x, alpha_bar = self.flat(x_t, t, lowest=0)
        pulls = self.turn_back(-self.coordinates(x, alpha_bar) / self.variances(alpha_bar))
        return self.average(pulls, x, alpha_bar).view_as(x_t).to(x_t.dtype)

    def posterior_mean(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], shaped like `x_t`, for t in 1 … T of shape (B,) (eq:tweedie)."""
        x, alpha_bar = self.flat(x_t, t)
        mean, _ = self.backward(x, alpha_bar, torch.ones_like(alpha_bar))
        return (
            self.average(self.means[:, None] + self.turn_back(mean), x, alpha_bar).view_as(x_t).to(x_t.dtype)
        )

    def responsibilities(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Probability of each component given x_t, shape (B, K), for t in 0 … T of shape (B,)."""
        return self.log_joint(*self.flat(x_t, t, lowest=0)).softmax(dim=0).T

    def sample_data(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`count` draws of x_0, shape (count, C, H, W), in the oracle's type."""
        chosen = choose(self.weights.expand(count, -1), generator)
        noise = samplers.randn_like(self.means.new_empty(count, self.dimensions), generator)
        draws = self.means[:, None] + self.turn_back(self.eigenvalues[:, None].sqrt() * noise)
        return pick(draws, chosen).view(count, *self.shape)

    def sample_posterior(self, x_t: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An exact draw of q(x_{t−1} | x_t): the true step back, a mixture and not a Gaussian.

        Args:
            x_t: noisy images, shape (B, C, H, W).
            t: their noise levels 1 … T, shape (B,).
            generator: source of the randomness; None means torch's global one.

        Returns:
            x_{t−1}, shaped like `x_t`.

        Raises:
            ValueError: if shapes, types or levels are wrong.
        """
        x, alpha_bar = self.flat(x_t, t)
        alpha_bar_prev = self.alpha_bar[t - 1, None]
        mean, variance = self.backward(x, alpha_bar, alpha_bar_prev)
        chosen = choose(self.log_joint(x, alpha_bar).softmax(dim=0).T, generator)
        offset = mean + variance.sqrt() * samplers.randn_like(x, generator)
        draws = alpha_bar_prev.sqrt().to(x) * self.means[:, None] + self.turn_back(offset)
        return pick(draws, chosen).view_as(x_t).to(x_t.dtype)

    # The pieces, one row per component

    def variances(self, alpha_bar: Tensor) -> Tensor:
        """ᾱ λ + 1 − ᾱ: the variances of x_t in each component's basis, shape (K, B, D)."""
        signal, noise = alpha_bar.to(self.dtype), (1 - alpha_bar).to(self.dtype)
        return signal * self.eigenvalues[:, None] + noise

    def coordinates(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        """Q_kᵀ (x − √ᾱ μ_k), shape (K, B, D)."""
        return (x - alpha_bar.sqrt().to(x) * self.means[:, None]) @ self.basis

    def turn_back(self, coordinates: Tensor) -> Tensor:
        """Q_k z_k: out of each component's basis, shape (K, B, D)."""
        return coordinates @ self.basis.mT

    def log_joint(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        """log w_k + log N(x; √ᾱ μ_k, ᾱ Σ_k + (1 − ᾱ) I), shape (K, B)."""
        variances = self.variances(alpha_bar)
        terms = self.coordinates(x, alpha_bar) ** 2 / variances + torch.log(2 * math.pi * variances)
        return self.weights[:, None].log() - 0.5 * terms.sum(-1)

    def average(self, values: Tensor, x: Tensor, alpha_bar: Tensor) -> Tensor:
        """Σ_k p(k | x) values_k, for values of shape (K, B, D)."""
        return (self.log_joint(x, alpha_bar).softmax(dim=0)[..., None] * values).sum(0)

    def backward(self, x: Tensor, alpha_bar: Tensor, alpha_bar_s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of x_s given x_t, for s < t, within each component and in its basis.

        The pair is Gaussian with x_t = √α x_s + √(1 − α) ε and α = ᾱ_t/ᾱ_s, so that Cov(x_s, x_t) = √α Var(x_s).

        Returns:
            `(mean, variance)`, both of shape (K, B, D); the mean counts from √ᾱ_s μ_k.
        """
        alpha = alpha_bar / alpha_bar_s
        ratio = self.variances(alpha_bar_s) / self.variances(alpha_bar)
        mean = alpha.sqrt().to(x) * ratio * self.coordinates(x, alpha_bar)
        return mean, (1 - alpha).to(x) * ratio


def choose(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """One column per row, drawn with the probabilities in it: (B, K) → (B,)."""
    where = probabilities.device if generator is None else generator.device
    return torch.multinomial(probabilities.to(where), 1, generator=generator)[:, 0].to(probabilities.device)


def pick(draws: Tensor, chosen: Tensor) -> Tensor:
    """draws[chosen[b], b] for every b: (K, B, D) → (B, D)."""
    return draws[chosen, torch.arange(len(chosen), device=draws.device)]


def decompose(covariance: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues, shape (K, D), and eigenvectors, shape (K, D, D), of covariances in any of the three forms."""
    if covariance.ndim < 3:
        eigenvalues = covariance.view(len(covariance), -1).expand(-1, dimensions)
        identity = torch.eye(dimensions, dtype=covariance.dtype, device=covariance.device)
        basis, smallest_allowed = identity.expand(len(covariance), -1, -1), torch.zeros(())
    else:
        scale = covariance.abs().amax((1, 2), keepdim=True)
        asymmetry = (covariance - covariance.mT).abs() / scale
        if not (asymmetry <= 1e-6).all():
            raise ValueError(
                "every covariance must be symmetric and finite, but entries (i, j) and (j, i) differ by up to"
                f" {asymmetry.max().item():.3g} of the largest entry; give (C + C.mT) / 2"
            )
        eigenvalues, basis = torch.linalg.eigh((covariance + covariance.mT) / 2)
        # Below this, an eigenvalue cannot be told from 0.
        smallest_allowed = dimensions * torch.finfo(torch.float64).eps * eigenvalues[:, -1:]
    wrong = ~((eigenvalues > smallest_allowed) & eigenvalues.isfinite()).all(1)
    if wrong.any():
        component = int(wrong.nonzero()[0])
        raise ValueError(
            f"every covariance must be positive definite, but that of component {component} has a smallest eigenvalue"
            f" of {eigenvalues[component].min().item():.3g}; add a small multiple of the identity to it"
        )
    return eigenvalues, basis


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
