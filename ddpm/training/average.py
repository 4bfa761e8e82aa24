"""The averages of the weights (eq:ema), and their step in a few operations for all weights."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Averaging:
    """Takes a model's weights into their average; its buffers are copied, not averaged.

    `AveragedModel.update_parameters` does the same, but looks for every tensor anew at every step, which for a small
    network takes several times as long. Here that is done once; to be made anew after a model has moved
    to another device.
    """

    def __init__(self, average: AveragedModel, model: nn.Module) -> None:
        self._average = average
        self._parameters = _pairs(average.module.parameters(), model.parameters())
        self._buffers = _pairs(average.module.buffers(), model.buffers())

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


def _pairs(averaged: Iterable[Tensor], own: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of an average and those of its model, in two lists, without those that they share."""
    pairs = [(one, two) for one, two in zip(averaged, own, strict=True) if one is not two]
    return [one for one, _ in pairs], [two for _, two in pairs]


class Averages:
    """The averages of one run: that of `ema_decay`, and one for each further decay.

    Attributes:
        models: the averages by their names, "ema", "ema-0.9999", …, as their files in a checkpoint are called.
    """

    def __init__(self, model: nn.Module, extra_decays: Sequence[float]) -> None:
        self.models = {name: _average_of(model) for name in _names(extra_decays)}
        self.attach(model, extra_decays)

    @property
    def first(self) -> AveragedModel:
        """That of `ema_decay`."""
        return self.models["ema"]

    def attach(self, model: nn.Module, extra_decays: Sequence[float]) -> None:
        """Find the tensors of the model and of its averages, as they are now; to be done anew when they have moved."""
        if list(self.models) != _names(extra_decays):
            raise ValueError(
                f"extra_ema_decays was changed to {tuple(extra_decays)} after the trainer was made, with the averages"
                f" {', '.join(self.models)}; make a new Trainer, which can go on with the run"
            )
        self._averagings = [Averaging(average, model) for average in self.models.values()]

    def step(self, decays: Sequence[float]) -> None:
        """One step of each, in which it keeps its own part of `decays`; the first time the weights are copied."""
        for averaging, decay in zip(self._averagings, decays, strict=True):
            averaging.step(decay)


def _names(extra_decays: Sequence[float]) -> list[str]:
    """What the averages are called."""
    return ["ema", *(f"ema-{decay!r}" for decay in extra_decays)]


def _average_of(model: nn.Module) -> AveragedModel:
    """A copy of a model for the average of its weights, frozen and in evaluation mode."""
    # Its counter is asked at every step, for which a GPU would have to wait.
    with torch.device("cpu"):
        return AveragedModel(model).requires_grad_(False).eval()
