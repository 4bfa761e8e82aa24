"""`torch.compile(fullgraph=True)`: no option of the network or of the loss breaks the graph, nor changes the answer.

The tracer alone runs (backend "eager"): it is what gives up on a look at a value. What the compiler makes of it is in
`test_numerics` and in the tests of training.
"""

import pytest
import torch

from ddpm import EDM, P2, ClassifierFreeGuidance, GaussianDiffusion, MinSNR, Unet
from tests.networks import SMALL_UNET, UNET_OPTIONS, drawn, randn, seeded

OBJECTIVES, WEIGHTINGS = ("pred_noise", "pred_x0", "pred_v", "pred_flow"), (None, MinSNR(), P2(), EDM())
# Every objective with two weightings, by turns; each meets both kinds of loss.
LOSSES = [
    (objective, kind, WEIGHTINGS[(i + shift) % 4])
    for i, objective in enumerate(OBJECTIVES)
    for shift, kind in enumerate(("l1", "l2"))
]
X, NOISE, T, CLASSES = (
    randn(2, 1, 8, 8),
    randn(2, 1, 8, 8, seed=1),
    torch.tensor([1, 20]),
    torch.tensor([0, 2]),
)
MASK = torch.tensor([True, False])


def model(network: str, **options) -> GaussianDiffusion:
    """In training mode without dropout, whose draws the compiler need not repeat."""
    unet = drawn(Unet(**(SMALL_UNET | UNET_OPTIONS[network] | {"dropout": 0.0})), 0.1)
    return GaussianDiffusion(unet, image_size=8, timesteps=20, **options).train()


@pytest.fixture(autouse=True)
def _anew():
    """Nothing is left of what was compiled before: after eight forms torch would give up."""
    torch._dynamo.reset()


def traced(function):
    return torch.compile(function, fullgraph=True, backend="eager", dynamic=False)


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        *((network, torch.float32) for network in UNET_OPTIONS),
        ("plain", torch.bfloat16),
        ("all", torch.bfloat16),
    ],
)
def test_network(network, kind):
    ours = model(network).network
    told = {"labels": CLASSES} if ours.num_classes else {}
    compiled = traced(ours)
    for previous in [{}] + ([{"x_self_cond": NOISE}] if ours.self_condition else []):
        with torch.no_grad(), torch.autocast("cpu", kind, enabled=kind != torch.float32):
            expected, got = (one(X, T, **told, **previous) for one in (ours, compiled))
        assert torch.equal(got, expected)


@pytest.mark.parametrize("network", ["plain", "label dropout", "all"])
def test_a_network_is_exported_for_any_number_of_images(network):
    ours = model(network).network.eval()
    inputs = (torch.cat([X, NOISE]), T.repeat(2), *([CLASSES.repeat(2)] if ours.num_classes else []))
    any_number = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    exported = torch.export.export(ours, inputs, dynamic_shapes=any_number, strict=False).module()
    fewer = [x[:3] for x in inputs]
    torch.testing.assert_close(exported(*fewer), ours(*fewer))


def test_network_that_drops_features_in_training():
    unet = Unet(**SMALL_UNET, dropout=0.1).train()
    assert traced(unet)(X, T).shape == X.shape


@pytest.mark.parametrize(
    ("network", "losses"),
    [(network, LOSSES if network == "plain" else LOSSES[-1:]) for network in UNET_OPTIONS],
    ids=UNET_OPTIONS,
)
def test_loss_and_its_gradients(network, losses):
    """With everything given, so that both forms see the same."""
    for objective, kind, weighting in losses:
        ours = model(network, objective=objective, loss_type=kind, loss_weighting=weighting)
        given = {"labels": CLASSES if ours.network.num_classes else None}
        given |= {"self_condition_mask": MASK} if ours.self_condition else {}
        given |= {"label_mask": MASK} if ours.null_label else {}
        gradients = []
        for loss_of in (ours.loss, traced(ours.loss)):
            ours.zero_grad()
            loss_of(X, T, NOISE, **given).backward()
            gradients.append(torch.cat([weight.grad.flatten() for weight in ours.parameters()]))
        assert gradients[0].abs().sum() > 0
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
        torch._dynamo.reset()


@pytest.mark.parametrize("network", ["plain", "label dropout", "all"])
def test_everything_that_training_calls_draws_for_itself(network):
    """From images in [0, 1] on, in the precision of autocast, too."""
    ours, images = model(network), torch.rand(2, 1, 8, 8, generator=seeded(0))
    labels = CLASSES if ours.network.num_classes else None
    compiled = traced(ours)
    for kind in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", kind, enabled=kind != torch.float32):
            loss = compiled(images, labels)
        assert loss.shape == ()
        assert loss.isfinite()


@pytest.mark.parametrize("network", ["plain", "label dropout", "all"])
def test_predictions(network):
    ours = model(network).eval()
    labels = CLASSES if ours.network.num_classes else None
    if ours.null_label is not None:
        ours = ClassifierFreeGuidance(ours, 2.0, interval=(5, 20), rescale=0.7)
    for clip in (False, True):
        predict = traced(lambda x, t, labels, clip=clip: ours.predict(x, t, labels, clip_x0=clip).x0)
        with torch.no_grad():
            torch.testing.assert_close(predict(X, T, labels), ours.predict(X, T, labels, clip_x0=clip).x0)
