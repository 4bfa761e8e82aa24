"""The exact denoiser of a mixture of Gaussians.

Noise is Gaussian, so that a mixture of Gaussians stays one at every t: a component N(μ_k, Σ_k) of the data becomes
N(√ᾱ_t μ_k, ᾱ_t Σ_k + (1 − ᾱ_t) I). A finite data set is the limit Σ_k → 0 with one component per image.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm import gaussians
from ddpm.oracle import Oracle
from ddpm.prediction import full_timesteps
from ddpm.schedule import NoiseSchedule
from ddpm.support.checks import check_generator, check_number, check_whole, check_wholes, plain_numbers
from ddpm.support.randomness import randn_like
from ddpm.support.tensor_checks import as_table, check_measurement, check_mixture


class GaussianMixtureOracle(Oracle):
    """The exact denoiser of a mixture of Gaussians Σ_k w_k N(μ_k, Σ_k), in any dimension.

    Every Σ_k = Q_k Λ_k Q_kᵀ is decomposed once. Noise has the same variance in every direction, so that in the basis
    Q_k the covariance of x_t stays diagonal at all t, with entries ᾱ_t λ + 1 − ᾱ_t. Tensors below that hold one row per
    component have shape (K, B, …).

    Each component belongs to a class, so that there are conditional predictions: with `labels`, one class per image or
    `null_label` for none, a method speaks of q(x_t | y) in place of q(x_t). Guidance can so be studied without error.

    Attributes:
        weights: w_k, shape (K,).
        classes: the class of each component, shape (K,).
        means: μ_k, shape (K, D).
        eigenvalues: the diagonals of Λ_k, shape (K, D).
        basis: Q_k, whose columns are the eigenvectors, shape (K, D, D).
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        means: Any,
        covariances: Any,
        weights: Any = None,
        *,
        classes: Any = None,
        shape: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """Decompose the covariances; the numbers are tensors, arrays or lists.

        Σ_k are positive definite: full matrices, shape (K, D, D), their diagonals, shape (K, D), or, where every
        direction has the same, variances (not standard deviations), shape (K,). The weights are not negative and of sum
        1, and equal if not given. C·H·W of the `shape` of an image is D; None means (1, 1, D). The `classes` of the
        components are whole numbers from 0 on, none of them left out; None makes each component a class.
        """
        mean = as_table("means", means)
        covariance = as_table("covariances", covariances).to(mean.device)
        equal = torch.full((len(mean),), 1 / len(mean), dtype=torch.float64) if mean.ndim else mean
        w = equal if weights is None else as_table("weights", weights).to(mean.device)
        check_mixture(mean, covariance, w)
        dimensions = mean.shape[1]
        sides = [1, 1, dimensions] if shape is None else plain_numbers(shape)
        sides = [side for side in sides if isinstance(side, int) and side >= 1]
        if len(sides) != 3 or math.prod(sides) != dimensions:
            raise ValueError(
                f"shape must be (C, H, W) with C·H·W = {dimensions}, the length of the means, but got {shape}"
            )
        super().__init__(schedule, sides, dtype, mean.device)
        eigenvalues, basis = _decompose(covariance, dimensions)
        self.weights, self.means = (w / w.sum()).to(dtype), mean.to(dtype)
        self.eigenvalues, self.basis = eigenvalues.to(dtype), basis.to(dtype)
        numbers = check_wholes("classes", list(range(len(mean))) if classes is None else classes, 0)
        if len(numbers) != len(mean) or {*numbers} != {*range(max(numbers) + 1)}:
            raise ValueError(
                f"classes must be one for each of {len(mean)} components, 0, 1, 2, … in any order, but got {numbers}"
            )
        self.classes, self.num_classes = torch.tensor(numbers, device=mean.device), max(numbers) + 1

    def marginal(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """q(x_t) for one t in 0 … T: weights (K,), means (K, D) and covariances (K, D, D) (eq:mixture-marginal)."""
        t = check_whole("t", t, 0, self.schedule.timesteps)
        alpha_bar = self._alpha_bar[t].view(1, 1)
        # A row of variances, (K, 1, D), scales the columns of the basis.
        covariances = (self.basis * self._variances(alpha_bar)) @ self.basis.mT
        return self.weights, alpha_bar.sqrt().to(self.dtype) * self.means, covariances

    def log_density(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """log q(x_t) in nats, shape (B,), for t in 0 … T."""
        inside, joint = (
            self._own(labels, x_t),
            self._log_joint(*self._in_basis(*self._flat(x_t, t, lowest=0))),
        )
        prior = self.weights[:, None].log()
        return (joint + inside).logsumexp(dim=0) - (prior + inside).logsumexp(dim=0)

    def log_likelihood(self, x0: Tensor) -> Tensor:
        """log p(x_0) of the data distribution in nats, shape (B,)."""
        return self.log_density(x0, full_timesteps(0, x0))

    def responsibilities(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(k | x_t), shape (B, K): how likely x_t came from each component, for t in 0 … T."""
        return self._log_joint(*self._in_basis(*self._flat(x_t, t, lowest=0))).softmax(dim=0).T

    def class_log_probabilities(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(y | x_t), one column per class: the exact classifier of noisy images, for `ClassifierGuidance`."""
        log_p = self._log_joint(*self._in_basis(*self._flat(x_t, t, lowest=0))).log_softmax(dim=0)
        return torch.stack(
            [log_p[self.classes == y].logsumexp(0) for y in range(int(self.classes.max()) + 1)], 1
        )

    def score(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """∇ log q(x_t), shaped like `x_t`, for t in 0 … T (eq:score)."""
        z, variances = self._in_basis(*self._flat(x_t, t, lowest=0))
        posterior = (self._log_joint(z, variances) + self._own(labels, x_t)).softmax(dim=0)
        score = (posterior[..., None] * ((-z / variances) @ self.basis.mT)).sum(0)
        return score.view_as(x_t).to(x_t.dtype)

    def expected_x0(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t], shaped like `x_t` (eq:best-guess, eq:tweedie)."""
        x, alpha_bar = self._flat(x_t, t)
        z, variances = self._in_basis(x, alpha_bar)
        posterior = (self._log_joint(z, variances) + self._own(labels, x_t)).softmax(dim=0)
        mean, _ = self._given_later(z, alpha_bar, torch.ones_like(alpha_bar))
        x0 = (posterior[..., None] * (self.means[:, None] + mean @ self.basis.mT)).sum(0)
        return x0.view_as(x_t).to(x_t.dtype)

    def sample_posterior(self, x_t: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An exact draw of q(x_{t−1} | x_t): the true step back, which is a mixture and not a Gaussian."""
        x, alpha_bar = self._flat(x_t, t)
        _, alpha_bar_prev = self._flat(x_t, t - 1, lowest=0)
        z, variances = self._in_basis(x, alpha_bar)
        chosen = choose(self._log_joint(z, variances).softmax(dim=0), generator)
        mean, variance = self._given_later(z, alpha_bar, alpha_bar_prev)
        step = mean + variance.sqrt() * randn_like(x, generator)
        draws = alpha_bar_prev.sqrt().to(x) * self.means[:, None] + step @ self.basis.mT
        return _pick(draws, chosen).view_as(x_t).to(x_t.dtype)

    def sample_data(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`count` draws of x_0, at least 1, as a tensor of shape (count, C, H, W) in the oracle's type."""
        count = check_whole("count", count)
        chosen = choose(self.weights[:, None].expand(-1, count), generator)
        noise = randn_like(self.means.new_empty(count, self.dimensions), generator)
        draws = self.means[:, None] + (self.eigenvalues[:, None].sqrt() * noise) @ self.basis.mT
        return _pick(draws, chosen).view(count, *self.shape)

    def measured(self, matrix: Any, value: Any, variance: float) -> "GaussianMixtureOracle":
        """The exact denoiser of p(x_0 | y) for y = A x_0 + noise: a mixture again, by `gaussians.measured`.

        A is the `matrix`, shape (M, D), y the `value`, shape (M,), and the noise has the `variance` in each of its
        numbers. What samplers make of a measurement can be held against it.
        """
        a, y = as_table("matrix", matrix).to(self.means), as_table("value", value).to(self.means)
        check_measurement(a, y, self.dimensions)
        variance = check_number("variance", variance, above=0)
        covariances = self.marginal(0)[2]
        means, covariances, evidence = gaussians.measured(self.means, covariances, a, y, variance)
        weights = (self.weights.log() + evidence).softmax(0)
        options = {"classes": self.classes, "shape": self.shape, "dtype": self.dtype}
        return GaussianMixtureOracle(self.schedule, means, covariances, weights, **options)

    # The pieces; ᾱ has shape (B, 1) or (1, 1)

    def _variances(self, alpha_bar: Tensor) -> Tensor:
        """ᾱ λ + 1 − ᾱ: the variances of x_t in each component's basis, shape (K, B or 1, D)."""
        return alpha_bar.to(self.dtype) * self.eigenvalues[:, None] + (1 - alpha_bar).to(self.dtype)

    def _in_basis(self, x: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
        """z = Q_kᵀ (x − √ᾱ μ_k), shape (K, B, D), and its variances under component k."""
        offset = x - alpha_bar.sqrt().to(self.dtype) * self.means[:, None]
        return offset @ self.basis, self._variances(alpha_bar)

    def _log_joint(self, z: Tensor, variances: Tensor) -> Tensor:
        """log w_k + log N(x; √ᾱ μ_k, ᾱ Σ_k + (1 − ᾱ) I), shape (K, B)."""
        log_density = gaussians.log_density(z, torch.zeros_like(variances), variances.log())
        return self.weights[:, None].log() + log_density.sum(-1)

    def _own(self, labels: Tensor | None, x_t: Tensor) -> Tensor | float:
        """0 for the components of an image's class, −∞ for the others, shape (K, B): what their logarithms gain."""
        labels = self._checked(labels, x_t)
        if labels is None:
            return 0.0
        own = (self.classes[:, None] == labels) | (labels == self.null_label)
        return torch.where(own, 0.0, -math.inf).to(self.dtype)

    def _given_later(self, z: Tensor, alpha_bar: Tensor, alpha_bar_s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of x_s given x_t, for s < t, within each component, counted from √ᾱ_s μ_k in its basis.

        The pair is Gaussian: x_t = √α x_s + √(1 − α) ε with α = ᾱ_t/ᾱ_s, and so Cov(x_s, x_t) = √α Var(x_s).
        """
        alpha = alpha_bar / alpha_bar_s
        ratio = self._variances(alpha_bar_s) / self._variances(alpha_bar)
        return alpha.sqrt().to(z) * ratio * z, (1 - alpha).to(z) * ratio


def choose(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """One row per column, drawn with the probabilities in it: (K, B) → (B,)."""
    check_generator(generator, single=True)
    components, count = probabilities.shape
    where = probabilities.device if generator is None else generator.device
    # float64 also for float32 probabilities: a coarser grid would never draw a rare component.
    uniform = torch.rand(count, dtype=torch.float64, generator=generator, device=where)
    passed = probabilities.double().cumsum(0) <= uniform.to(probabilities.device)
    # Rounding may leave the sum below 1.
    return passed.sum(0).clamp(max=components - 1)


def _pick(draws: Tensor, chosen: Tensor) -> Tensor:
    """draws[chosen[b], b] for every b: (K, B, D) → (B, D)."""
    return draws[chosen, torch.arange(len(chosen), device=draws.device)]


def _decompose(covariance: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues, shape (K, D), and eigenvectors, shape (K, D, D), of covariances in any of the three forms."""
    components = len(covariance)
    if covariance.ndim == 3:
        eigenvalues, basis = torch.linalg.eigh((covariance + covariance.mT) / 2)
        # What rounding makes of a 0.
        smallest = dimensions * torch.finfo(torch.float64).eps * eigenvalues[:, -1]
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
