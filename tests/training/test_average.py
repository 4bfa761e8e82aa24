"""The average's step against torch's own, and its tensors found again."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ddpm import load_pretrained
from ddpm.training.average import Averaging
from ddpm.training.config import TrainingConfig
from tests.runs import model, trained, trainer, weights


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


# Several


def test_each_average_is_that_of_a_run_with_its_decay_alone(tmp_path):
    config = {"ema_update_every": 1, "ema_rampup": None, "train_num_steps": 4}
    several = trained(tmp_path / "several", ema_decay=0.9, extra_ema_decays=(0.5, 0.0), **config)
    assert list(several.averages.models) == ["ema", "ema-0.5", "ema-0.0"]
    for name, decay in (("ema", 0.9), ("ema-0.5", 0.5), ("ema-0.0", 0.0)):
        alone = trained(tmp_path / name, ema_decay=decay, **config)
        assert torch.equal(weights(several.averages.models[name].module), weights(alone.ema_model))
        loaded = load_pretrained(tmp_path / "several", weights=name)
        assert torch.equal(weights(loaded), weights(alone.ema_model))
    assert torch.equal(weights(several.averages.models["ema-0.0"].module), weights(several.diffusion))
    with pytest.raises(ValueError, match=r"unknown weights 'ema-0.7'; choose one of .*'ema-0.0', 'ema-0.5'"):
        load_pretrained(tmp_path / "several", weights="ema-0.7")


def test_a_resumed_run_begins_a_new_average_with_its_weights(tmp_path):
    trained(tmp_path, train_num_steps=2)
    ours = trainer(tmp_path, train_num_steps=4, extra_ema_decays=(0.5,), ema_update_every=100)
    with pytest.warns(UserWarning, match="extra_ema_decays was"):
        ours.load()
    assert torch.equal(weights(ours.averages.models["ema-0.5"].module), weights(ours.diffusion))
    assert not torch.equal(weights(ours.ema_model), weights(ours.diffusion))
    with pytest.warns(UserWarning, match="extra_ema_decays was"):
        ours.resume()


def test_the_decays_cannot_be_changed_later(tmp_path):
    ours = trainer(tmp_path)
    ours.extra_ema_decays = (0.5,)
    with pytest.raises(ValueError, match=r"changed to \(0.5,\) after the trainer was made"):
        ours.train()


def test_decays_are_checked():
    for wrong, message in (((1.0,), "each of extra_ema_decays must"), ((0.5, 0.5), "must differ from each")):
        with pytest.raises(ValueError, match=message):
            TrainingConfig(extra_ema_decays=wrong)
    with pytest.raises(ValueError, match=r"must differ from each other and from ema_decay=0\.9"):
        TrainingConfig(ema_decay=0.9, extra_ema_decays=(0.9,))
    assert TrainingConfig(extra_ema_decays=[0.5]).to_json()["extra_ema_decays"] == [0.5]


def test_decays_of_several_are_those_of_one():
    for rampup in (None, 0.05):
        config = TrainingConfig(ema_decay=0.9, extra_ema_decays=(0.99,), ema_rampup=rampup, ema_halflife=77.0)
        both = config.average_decays(1000, 20)
        alone = TrainingConfig(ema_decay=0.99, ema_rampup=rampup).average_decay(1000, 20)
        assert both == [config.average_decay(1000, 20), alone]
