"""What the numerical ecosystem passes in and means something: numbers of NumPy, lists and arrays, in place of ours.

What cannot be meant is in `test_refusals`.
"""

import json

import numpy as np
import pytest
import torch

from ddpm import (
    P2,
    EmpiricalOracle,
    GaussianDiffusion,
    GaussianMixtureOracle,
    MinSNR,
    NoiseSchedule,
    Unet,
    ancestral,
    ddim,
    dpm_solver_pp,
    encode,
    heun,
    linear_betas,
    stratified_timesteps,
    timestep_grid,
)
from ddpm.likelihood import vlb_terms
from ddpm.reverse_process import variance_rule
from ddpm.training.config import TrainingConfig
from tests.networks import SMALL_UNET, Pointwise, SelfConditioned, diffusion_of, seeded

X, T = torch.zeros(2, 1, 4, 4), torch.tensor([1, 50])
PLAIN, TOLD = diffusion_of(Pointwise()), diffusion_of(SelfConditioned())
CLASSED = GaussianDiffusion(
    Unet(**SMALL_UNET, num_classes=3), image_size=4, timesteps=50, sampling_timesteps=2
)
SCHEDULE = NoiseSchedule([0.1, 0.2])
MIXTURE = {"means": [[0.0], [1.0]], "covariances": [0.1, 0.1]}
ORACLE = EmpiricalOracle(SCHEDULE, X)

# Where a number goes, one of NumPy may go, in any of its types, and none is left over for JSON to stumble on.
NUMBERS = {
    "diffusion": lambda of: (
        GaussianDiffusion(
            Pointwise(),
            image_size=(of(4), of(6)),
            timesteps=of(50),
            sampling_timesteps=of(7),
            ddim_sampling_eta=of(1),
            loss_weighting=MinSNR(of(5)),
        ).config
    ),
    "P2": lambda of: diffusion_of(loss_weighting=P2(of(1), of(2))).config,
    "square": lambda of: diffusion_of(image_size=of(8)).config,
    "network": lambda of: (
        Unet(
            of(8),
            init_dim=of(4),
            dim_mults=(of(1), of(2)),
            channels=of(1),
            resnet_block_groups=of(4),
            learned_sinusoidal_dim=of(6),
            num_classes=of(3),
            attention_resolutions=[of(2)],
            dropout=of(0),
            num_res_blocks=of(1),
        ).config
    ),
    "training": lambda of: TrainingConfig(
        train_batch_size=of(4),
        train_lr=of(1),
        ema_halflife=of(9),
        adam_betas=[of(0), of(0)],
        num_threads=of(1),
    ).to_json(),
    "grid": lambda of: timestep_grid(of(50), of(7)),
    "heun": lambda of: [s.t for s in heun(PLAIN, X, of(7))],
    "dpm++": lambda of: [s.t for s in dpm_solver_pp(PLAIN, X, of(7))],
    "encode": lambda of: [s.t for s in encode(PLAIN, X, of(7))],
    "betas": lambda of: linear_betas(of(50)).tolist(),
    "schedule": lambda of: NoiseSchedule.from_name("cosine", of(10)).alpha_bar.tolist(),
    "stratified": lambda of: stratified_timesteps(of(4), of(9), shift=of(0)).tolist(),
    "ddim": lambda of: [s.t for s in ddim(PLAIN, X, of(7), eta=of(0), generator=seeded(0))],
    "grid of one's own": lambda of: [s.t for s in ddim(PLAIN, X, [of(50), of(9), of(0)])],
    "ancestral": lambda of: [s.t for s in ancestral(PLAIN, X, start=of(3))],
    "sample": lambda of: PLAIN.sample(of(2), of(3), eta=of(0), seeds=[of(1), of(2)]).tolist(),
    "interpolate": lambda of: PLAIN.interpolate(X, X, of(3), of(1), generator=seeded(0)).tolist(),
    "bound": lambda of: vlb_terms(
        PLAIN, torch.ones(2, 1, 4, 4), timesteps_per_image=of(2), batch_size=of(1), seeds=[of(1), of(2)]
    ).total.tolist(),
    "mixture": lambda of: (
        GaussianMixtureOracle(SCHEDULE, **MIXTURE, shape=(of(1),) * 3).marginal(of(1))[1].tolist()
    ),
    "oracle": lambda of: EmpiricalOracle(SCHEDULE, X, chunk_size=of(1)).chunk_size,
}
KINDS = [np.int64, np.int32, np.uint8, np.array, torch.tensor]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_numbers_of_other_libraries_are_those_of_python(name, kind):
    expected, got = NUMBERS[name](int), NUMBERS[name](kind)
    assert json.dumps(got) == json.dumps(expected)


def test_real_numbers_and_truth_values_of_numpy_are_those_of_python():
    config = TrainingConfig(
        train_lr=np.float32(0.5), ema_decay=np.float64(0.25), compile=np.True_, progress=np.bool_(0)
    )
    assert json.loads(json.dumps(config.to_json()))["train_lr"] == 0.5
    assert (config.compile, config.progress) == (True, False)
    assert (type(config.train_lr), type(config.compile)) == (float, bool)
    unet = Unet(**SMALL_UNET, dropout=np.float32(0.5), self_condition=np.True_)
    assert json.loads(json.dumps(unet.config))["dropout"] == 0.5
    saved = json.dumps(diffusion_of(ddim_sampling_eta=np.float16(0.5)).config)
    assert json.loads(saved)["ddim_sampling_eta"] == 0.5


# One number per image may come as a list, a tuple, a range, or an array, read-only, reversed or of any whole type.
LISTS = {
    "list": list,
    "tuple": tuple,
    "range": lambda values: range(values[0], values[1] + 1, values[1] - values[0]),
    "int64": lambda values: np.array(values),
    "uint8": lambda values: np.array(values, dtype=np.uint8),
    "uint32": lambda values: np.array(values, dtype=np.uint32),
    "reversed": lambda values: np.array(values[::-1])[::-1],
    "objects": lambda values: np.array(values, dtype=object),
    "scalars": lambda values: [np.int64(value) for value in values],
    "tensors": lambda values: [torch.tensor(value) for value in values],
    "uint8 tensor": lambda values: torch.tensor(values, dtype=torch.uint8),
}
PER_IMAGE = {
    "t of predict": lambda of: PLAIN.predict(X + 1, of([1, 2])).x0,
    "t of loss": lambda of: PLAIN.loss(X, of([1, 2]), X + 1),
    "t of q_sample": lambda of: PLAIN.q_sample(X, of([1, 2]), X + 1),
    "t of p_sample": lambda of: PLAIN.p_sample(X + 1, of([1, 2]), generator=seeded(0)),
    "t of an oracle": lambda of: ORACLE.predict(X + 1, of([1, 2])).x0,
    "labels of predict": lambda of: CLASSED.predict(X, T, of([1, 2])).noise,
    "labels of loss": lambda of: CLASSED.loss(X, T, X + 1, of([1, 2])),
    "labels of sample": lambda of: CLASSED.sample(2, labels=of([1, 2]), generator=seeded(0)),
    "labels of ancestral": lambda of: next(ancestral(CLASSED, X, labels=of([1, 2]), generator=seeded(0))).x,
    "labels of the bound": lambda of: (
        vlb_terms(
            CLASSED, torch.ones(2, 1, 4, 4), labels=of([1, 2]), timesteps_per_image=1, seeds=[1, 2]
        ).total
    ),
    "seeds": lambda of: PLAIN.sample(2, 2, seeds=of([1, 2])),
}


@pytest.fixture(scope="module", autouse=True)
def _drawn():
    """A fresh network answers 0 whatever it is asked."""
    torch.nn.init.normal_(CLASSED.network.last.weight, std=0.1, generator=seeded(0))
    CLASSED.eval()


@pytest.mark.parametrize("name", PER_IMAGE)
@pytest.mark.parametrize("kind", LISTS)
def test_lists_and_arrays_are_taken_where_a_tensor_holds_one_number_per_image(name, kind):
    with torch.no_grad():
        assert torch.equal(PER_IMAGE[name](LISTS[kind]), PER_IMAGE[name](torch.tensor))


def test_masks_and_tables_may_be_lists_and_arrays():
    mask = torch.tensor([True, False])
    for given in ([True, False], np.array([True, False])):
        losses = [TOLD.loss(X, T, X + 1, self_condition_mask=one) for one in (given, mask)]
        assert torch.equal(*losses)
    table = torch.linspace(0.1, 0.2, 51)
    for given in (table.tolist(), table.numpy(), table.double()):
        rules = [variance_rule(PLAIN, one)(X, T, None) for one in (given, table)]
        torch.testing.assert_close(*rules)
    grids = [
        [s.t for s in ddim(PLAIN, X, given)]
        for given in (np.array([50, 9, 0]), torch.tensor([50, 9, 0]), (50, 9, 0))
    ]
    assert grids == [[9, 0]] * 3
