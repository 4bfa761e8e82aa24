"""The step of the average of the weights (eq:ema), in a few operations for all of them."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class Averaging:
    """Takes a model's weights into their average; its buffers are copied, not averaged.

    `AveragedModel.update_parameters` does the same, but looks for every tensor anew at every step, which for a small
    network takes ten times as long as the arithmetic. Here that is done once; to be made anew after a model has moved
    to another device.
    """

    def __init__(self, average: AveragedModel, model: nn.Module) -> None:
        self._average = average
        self._parameters = list(average.module.parameters()), list(model.parameters())
        self._buffers = list(average.module.buffers()), list(model.buffers())

    @torch.no_grad()
    def step(self, decay: float) -> None:
        """One step, in which the average keeps `decay` of its own; the first time the weights are copied."""
        on_all: Any = torch
        if int(self._average.n_averaged) == 0:
            on_all._foreach_copy_(*self._parameters)
        else:
            on_all._foreach_lerp_(*self._parameters, 1 - decay)
        if self._buffers[0]:
            on_all._foreach_copy_(*self._buffers)
        self._average.n_averaged += 1
