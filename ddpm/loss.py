"""The two parts of the training loss L_hybrid = L_simple + λ L_vlb; the second is for a learned variance."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ddpm.likelihood import decoder_term, denoising_term
from ddpm.schedule import NoiseSchedule

LossType = Literal["l1", "l2"]
# λ of L_hybrid = L_simple + λ L_vlb.
VLB_WEIGHT = 0.001


def simple_loss(output: Tensor, target: Tensor, loss_type: LossType) -> Tensor:
    """The error of each image, averaged over its own elements, shape (B,) (eq:l-simple)."""
    distance = F.l1_loss if loss_type == "l1" else F.mse_loss
    return distance(output.float(), target, reduction="none").flatten(1).mean(1)


def bound_loss(
    schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor, predicted_x0: Tensor, log_variance: Tensor
) -> Tensor:
    """λ L_vlb, shape (B,), for drawn t: what the step back costs in the bound (eq:loss-t, eq:decoder).

    The whole bound is T times the mean of its terms, and λ = 0.001, in bits per dimension: the numbers of
    Nichol & Dhariwal 2021. Only the variance learns from it: `predicted_x0` must come without gradient.
    """
    mean = schedule.posterior_mean(predicted_x0, x_t, t)
    divergence = denoising_term(schedule, x0, x_t, t, mean, log_variance)
    term = torch.where(t.view(-1, 1, 1, 1) > 1, divergence, decoder_term(x0, mean, log_variance))
    return VLB_WEIGHT * schedule.timesteps * term.flatten(1).mean(1) / math.log(2)
