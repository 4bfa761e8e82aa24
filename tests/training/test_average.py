"""The average's step against torch's own, and its tensors found again."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ddpm.training.average import Averaging
from tests.runs import model, weights


def moved(network: nn.Module) -> None:
    """Something else in every parameter and buffer of whole or broken numbers."""
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.add_(torch.ones_like(tensor))


class Counting(nn.Sequential):
    """With a buffer, of whole numbers, that training changes."""

    def __init__(self):
        super().__init__(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("make", [model, Counting])
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_step_is_that_of_torch(make, decay):
    ours = make()
    theirs = copy.deepcopy(ours)
    average, reference = AveragedModel(ours), AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(decay))
    averaging = Averaging(average, ours)
    for _ in range(3):
        moved(ours)
        moved(theirs)
        averaging.step(decay)
        reference.update_parameters(theirs)
        state, expected = average.state_dict(), reference.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)
    assert int(average.n_averaged) == 3


def test_step_copies_the_first_time_and_needs_no_buffers():
    network = nn.Linear(2, 2)
    average = AveragedModel(network)
    moved(network)
    Averaging(average, network).step(0.9)
    assert torch.equal(weights(average.module), weights(network))
