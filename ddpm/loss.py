"""The training loss, L_hybrid = L_simple + λ L_vlb; the second part is for a network that predicts its variance."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm.likelihood import decoder_term, denoising_term
from ddpm.prediction import Objective, Prediction, training_target, x0_from_output
from ddpm.schedule import NoiseSchedule
from ddpm.support.checks import check_generator
from ddpm.support.randomness import rand, randint, randn
from ddpm.support.tensor_checks import check_images, check_labels, check_mask, check_t
from ddpm.weighting import Weighting, weights

LossType = Literal["l1", "l2"]
# Called as the model's own network is: its compiled or distributed form.
Network = Callable[..., Tensor]
# λ of L_hybrid, of L_vlb in bits per dimension (Nichol & Dhariwal 2021).
VLB_WEIGHT = 0.001


class TrainingLoss:
    """The loss of a model: what `GaussianDiffusion` adds to, which says what images, t and labels are."""

    network: nn.Module
    training: bool
    schedule: NoiseSchedule
    objective: Objective
    loss_type: LossType
    loss_weighting: Weighting | None
    q_sample: Callable[..., Tensor]
    predict: Callable[..., Prediction]
    _network_output: Callable[..., tuple[Tensor, Tensor | None]]

    @property
    def self_condition(self) -> bool:
        """Whether the network takes its own previous estimate of x_0 (Chen et al. 2023, *Analog Bits*)."""
        return bool(getattr(self.network, "self_condition", False))

    @property
    def label_dropout(self) -> float:
        """How likely training hides a label from the network (Ho & Salimans 2022)."""
        return float(getattr(self.network, "label_dropout", 0.0))

    @property
    def null_label(self) -> int | None:
        """The label that stands for none, of a network that knows it; None of any other."""
        return getattr(self.network, "null_label", None)

    def loss(
        self,
        x0: Tensor,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        network: Network | None = None,
        self_condition_mask: Tensor | None = None,
        label_mask: Tensor | None = None,
    ) -> Tensor:
        """L_simple: how well the network sees through random amounts of noise (eq:l-simple; Ho et al. 2020, eq. 14).

        A scalar, the mean over the batch. A network with self-conditioning gets, for half of the images, its own first
        prediction of x_0, and nothing for the others (Chen et al. 2023, *Analog Bits*). A network that predicts its
        variance is trained on L_hybrid.

        Args:
            x0: clean images in [-1, 1].
            t: their timesteps; drawn uniformly if not given.
            noise: ε, shaped like `x0`; drawn if not given.
            labels: their classes.
            generator: source of `t`, `noise`, the label mask and the other one, in this order, where they are drawn.
            network: called in place of the model's own.
            self_condition_mask: which images get the first prediction, bool of shape (B,); None tosses a coin for each.
            label_mask: which images keep their label, bool of shape (B,), for a network with `label_dropout` (Ho &
                Salimans 2022, algorithm 1). None hides each with that probability in training mode, and no other time.
        """
        check_images("x0", x0, device=self.schedule.beta.device)
        check_generator(generator, single=True)
        labels = check_labels(labels, x0)
        if t is None:
            t = randint(1, self.schedule.timesteps + 1, len(x0), generator, x0.device)
        if noise is None:
            noise = randn(tuple(x0.shape), generator, x0.device, x0.dtype)
        t = check_t(t, x0, self.schedule.timesteps)
        x_t = self.q_sample(x0, t, noise)
        labels = self._hidden(labels, x0, label_mask, generator)
        x_self_cond = None
        if self.self_condition:
            mask = self_condition_mask
            mask = randint(0, 2, len(x0), generator, x0.device).bool() if mask is None else mask
            x_self_cond = self._first_prediction(x_t, t, labels, mask, network)
        elif self_condition_mask is not None:
            raise ValueError(
                "self_condition_mask is for a network with self-conditioning, and this one has none"
            )
        output, log_variance = self._network_output(x_t, t, labels, x_self_cond, network)
        kind, weighting = self.loss_type, self.loss_weighting
        per_image = simple_loss(
            self.schedule, self.objective, x0, t, noise, output, loss_type=kind, weighting=weighting
        )
        if log_variance is not None:
            per_image = per_image + self._bound_loss(x0, x_t, t, output, log_variance)
        return per_image.mean()

    def _hidden(
        self, labels: Tensor | None, x0: Tensor, mask: Tensor | None, generator: torch.Generator | None
    ) -> Tensor | None:
        """The labels with "none" in place of those that are not to be seen."""
        if labels is None or self.null_label is None:
            if mask is not None:
                raise ValueError("label_mask is for labels, of a network with label_dropout")
            return labels
        if mask is None:
            if not self.training:
                return labels
            mask = rand(len(x0), generator, x0.device) >= self.label_dropout
        return torch.where(check_mask("label_mask", mask, x0), labels, self.null_label)

    def _first_prediction(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None, mask: Tensor, network: Network | None
    ) -> Tensor:
        """The network's own x_0, clipped where x_0 is bounded, without gradient; zeros where `mask` is false."""
        mask = check_mask("self_condition_mask", mask, x_t)
        # All images are asked about, though only some need it: picking them out would make an accelerator wait.
        with torch.no_grad():
            x0 = self.predict(x_t, t, labels, clip_x0=True, network=network).x0
        # Some versions of torch keep the weights that autocast cast here, without gradients, for the pass that follows.
        # A compiled graph keeps none, and torch 2.6 would break it in two here.
        if not torch.compiler.is_compiling():
            torch.clear_autocast_cache()
        return torch.where(mask.view(-1, 1, 1, 1), x0, 0.0)

    def _bound_loss(self, x0: Tensor, x_t: Tensor, t: Tensor, output: Tensor, log_variance: Tensor) -> Tensor:
        """λ L_vlb of each image, T times its term of the bound (eq:loss-t, eq:decoder): the variance alone learns."""
        output = output.detach().to(x_t.dtype)
        predicted_x0 = x0_from_output(self.objective, x_t, output, *self.schedule.signal_and_sigma(t, x_t))
        mean = self.schedule.posterior_mean(predicted_x0, x_t, t)
        divergence = denoising_term(self.schedule, x0, x_t, t, mean, log_variance)
        term = torch.where(t.view(-1, 1, 1, 1) > 1, divergence, decoder_term(x0, mean, log_variance))
        return VLB_WEIGHT * self.schedule.timesteps * term.flatten(1).mean(1) / math.log(2)


def simple_loss(
    schedule: NoiseSchedule,
    objective: Objective,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    output: Tensor,
    *,
    loss_type: LossType = "l2",
    weighting: Weighting | None = None,
) -> Tensor:
    """L_simple of each image, shape (B,): the error of the network's output, weighted by w(t) (eq:l-simple)."""
    target = training_target(objective, x0, noise, *schedule.signal_and_sigma(t, x0))
    distance = F.l1_loss if loss_type == "l1" else F.mse_loss
    # Autocast may have left the output in half precision.
    dtype = torch.promote_types(target.dtype, torch.float32)
    per_image = distance(output.to(dtype), target.to(dtype), reduction="none").flatten(1).mean(1)
    return weights(weighting, schedule, t, objective) * per_image
