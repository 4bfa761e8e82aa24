"""Gradient checkpointing: the same run, bit for bit on a CPU, with less kept for the backward pass."""

from functools import partial

import pytest
import torch

from ddpm import Unet
from ddpm.training.distributed import checkpointing
from tests.networks import SMALL_UNET, UNET_OPTIONS, drawn, randn
from tests.runs import model, saved_files, spied, trained, trainer, weights

RUNS = {
    "plain": {},
    "dropout": {"network": {"dropout": 0.3}},
    "self-conditioned": {"network": {"self_condition": True}},
    "bf16": {"mixed_precision": "bf16"},
    "accumulating": {"gradient_accumulate_every": 2},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_ends_with_the_same_bits(tmp_path, name):
    config = dict(RUNS[name])
    shape = config.pop("network", None)
    for folder, wanted in (("with", True), ("without", False)):
        trained(tmp_path / folder, model(network=shape), gradient_checkpointing=wanted, **config)
    assert saved_files(tmp_path / "with") == saved_files(tmp_path / "without")


def test_a_compiled_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    """What is traced, forwards and backwards; to make machine code of it takes minutes, and is torch's own matter."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    fast = {"compile": True, "gradient_checkpointing": True}
    ours = [
        trained(tmp_path / name, train_num_steps=2, **options)
        for name, options in (("plain", {}), ("fast", fast))
    ]
    torch.testing.assert_close(*(weights(run.diffusion) for run in ours), rtol=0, atol=1e-5)


def test_it_ends_with_the_training(tmp_path):
    ours = trainer(tmp_path, gradient_checkpointing=True)
    assert not ours.diffusion.network.gradient_checkpointing
    with ours.running():
        assert ours.diffusion.network.gradient_checkpointing
    assert not ours.diffusion.network.gradient_checkpointing


def test_another_network_is_refused_before_work_starts(tmp_path):
    with pytest.raises(ValueError, match="gradient_checkpointing is for a Unet, and the network is a Spy"):
        spied(tmp_path, gradient_checkpointing=True)


def kept_numbers(network, x, t, **told):
    """How many numbers a forward pass keeps for the backward pass, besides the weights; and its gradients."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = (network(x, t, **told) * x).sum()
    network.zero_grad()
    loss.backward()
    return sum(kept.values()), [parameter.grad.clone() for parameter in network.parameters()]


@pytest.mark.parametrize("options", ["plain", "classes", "attention everywhere", "learned sinusoidal"])
def test_the_gradients_are_the_same_and_less_is_kept(options):
    network = drawn(Unet(**(SMALL_UNET | UNET_OPTIONS[options])), 0.1).train()
    x, t = randn(4, 1, 16, 16), torch.tensor([1, 5, 9, 20])
    told = {"labels": t % 3} if network.num_classes else {}
    plain, expected = kept_numbers(network, x, t, **told)
    with checkpointing(network, wanted=True):
        fewer, gradients = kept_numbers(network, x, t, **told)
    assert all(map(torch.equal, gradients, expected))
    assert fewer < 0.6 * plain
    assert kept_numbers(network, x, t, **told)[0] == plain  # it is off again


def test_what_is_kept_of_each_stage_is_what_goes_in():
    """By hand, of a stage in the middle: its map, what is beside it, and the embedding of t."""
    network = drawn(Unet(**SMALL_UNET), 0.1).train()
    h, skip, time = randn(3, 16, 4, 4), randn(3, 8, 4, 4), randn(3, 32)
    h.requires_grad_()
    (stage,) = [stage for stage in network.up if getattr(stage, "block", None)][1:2]
    kept = []
    with (
        checkpointing(network, wanted=True),
        torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x),
    ):
        network._run(stage, time, h, skip)
    assert {shape for shape in kept if len(shape) > 1} == {(3, 16, 4, 4), (3, 8, 4, 4), (3, 32)}
