"""`ddpm.guidance` against its formula, coordinate by coordinate, and under every sampler."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm import ClassifierFreeGuidance, ancestral, ddim, dpm_solver_pp, heun
from ddpm.guidance import guidance_scale
from ddpm.likelihood import vlb_terms
from tests.networks import Classed, Pointwise, diffusion_of, exact_diffusion_of, last_of, randn, seeded

WALKS = {
    "ancestral": ancestral,
    "ddim": partial(ddim, steps=4, eta=0.5),
    "heun": partial(heun, steps=4),
    "dpm++": partial(dpm_solver_pp, steps=4),
}
X, T, LABELS = randn(3, 1, 4, 4), torch.tensor([1, 7, 20]), torch.tensor([2, 0, 1])


def model(**network):
    return diffusion_of(Classed(**network), timesteps=20, beta_schedule="cosine")


def exact(**options):
    """In float64, for comparisons."""
    return exact_diffusion_of(Classed(), "cosine", 20, **options)


# The formula


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v", "pred_flow"])
@pytest.mark.parametrize("scale", [-1.5, 0.5, 2.0])
def test_guided_in_every_coordinate(objective, scale):
    diffusion, x = exact(objective=objective), X.double()
    guided = ClassifierFreeGuidance(diffusion, scale).predict(x, T, LABELS)
    conditional, free = diffusion.predict(x, T, LABELS), diffusion.predict(x, T)
    for name in ("noise", "x0", "v", "flow", "score"):
        with_label, without = getattr(conditional, name), getattr(free, name)
        torch.testing.assert_close(getattr(guided, name), scale * with_label + (1 - scale) * without)
    assert (guided.signal.shape, guided.sigma.shape) == ((3, 1, 1, 1), (3, 1, 1, 1))


def test_what_is_clipped_is_the_combination():
    diffusion = exact(objective="pred_x0")
    guided, x = ClassifierFreeGuidance(diffusion, 4.0), X.double()
    free, clipped = (guided.predict(x, T, LABELS, clip_x0=clip) for clip in (False, True))
    assert (free.x0.abs() > 1).any()
    assert torch.equal(clipped.x0, free.x0.clamp(-1, 1))
    torch.testing.assert_close(clipped.signal * clipped.x0 + clipped.sigma * clipped.noise, x)


def test_rescaling_survives_a_picture_of_one_pixel():
    guided = ClassifierFreeGuidance(exact(), 5.0, rescale=0.7)
    assert guided.predict(X[..., :1, :1].double(), T, LABELS).x0.isfinite().all()


@pytest.mark.parametrize(
    ("convention", "value", "ours"),
    [
        *[("imagen", w, w) for w in (-1.0, 0.0, 1.0, 3.0)],
        *[("ho-salimans", w, 1 + w) for w in (-1.0, 0.0, 0.3, 4.0)],
        *[("diffusers", g, max(1.0, g)) for g in (0.0, 1.0, 7.5)],
    ],
)
def test_the_conventions_of_the_field(convention, value, ours):
    """Each formula, as its authors write it, is ours at the converted scale."""
    assert guidance_scale(value, convention) == ours
    c, u = 0.7, -0.2
    formulas = {
        "imagen": value * c + (1 - value) * u,
        "ho-salimans": (1 + value) * c - value * u,
        "diffusers": u + value * (c - u) if value > 1 else c,
    }
    assert u + ours * (c - u) == pytest.approx(formulas[convention])


# What it costs, and what costs nothing


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("scale", "labels"), [(1, LABELS), (1.0, LABELS), (0, None)])
def test_without_guidance_it_is_the_model_itself_bit_for_bit(name, clip, scale, labels):
    ours, plain = (model(self_condition=True, learned_variance=True) for _ in range(2))
    guided = ClassifierFreeGuidance(ours, scale)
    states = [
        list(WALKS[name](denoiser, X, labels=given, clip_x0=clip, generator=seeded(1)))
        for denoiser, given in ((guided, LABELS), (plain, labels))
    ]
    assert all(torch.equal(a.x, b.x) and torch.equal(a.x0, b.x0) for a, b in zip(*states, strict=True))
    assert ours.network.labels == plain.network.labels
    assert {len(batch) for batch in ours.network.labels} == {3}


@pytest.mark.parametrize("name", WALKS)
def test_guidance_is_one_call_with_twice_the_batch(name):
    ours, plain = model(), model()
    last_of(WALKS[name](ClassifierFreeGuidance(ours, 2.0), X, labels=LABELS))
    last_of(WALKS[name](plain, X, labels=LABELS))
    assert ours.network.calls == plain.network.calls
    assert ours.network.labels == [[2, 0, 1, 3, 3, 3]] * len(plain.network.labels)


def test_both_halves_are_told_the_guided_estimate_of_the_step_before():
    ours = model(self_condition=True)
    states = list(ddim(ClassifierFreeGuidance(ours, 2.0), X, 4, labels=LABELS))
    first, *told = ours.network.estimates
    assert first is None
    for state, hint in zip(states, told, strict=False):
        assert torch.equal(hint, torch.cat([state.x0, state.x0]))


def test_a_learned_variance_is_that_of_the_conditional_prediction():
    ours = model(learned_variance=True)
    guided = ClassifierFreeGuidance(ours, 2.0)
    assert guided.learned_variance
    conditional = ours.predict(X, T, LABELS).log_variance
    assert torch.equal(guided.predict(X, T, LABELS).log_variance, conditional)
    assert not torch.equal(conditional, ours.predict(X, T).log_variance)


# A limited interval


@pytest.mark.parametrize(
    ("interval", "unit", "inside"),
    [
        (None, "t", range(1, 21)),
        ((5, 12), "t", range(5, 13)),
        ((4.5, 12.9), "t", range(5, 13)),
        ((-2.0, 2.0), "log-snr", [t for t in range(1, 21) if abs(model().schedule.log_snr[t]) <= 2]),
    ],
)
def test_outside_of_the_interval_it_is_the_conditional_model_in_one_call(interval, unit, inside):
    assert 1 < len(inside) < 21
    ours = model()
    guided = ClassifierFreeGuidance(ours, 3.0, interval=interval, interval_unit=unit)
    everywhere = ClassifierFreeGuidance(ours, 3.0)
    for t in range(1, 21):
        at, other = torch.full((3,), t), everywhere if t in inside else ours
        ours.network.labels.clear()
        got = guided.predict(X, at, LABELS)
        assert len(ours.network.labels[0]) == (6 if t in inside else 3)
        assert torch.equal(got.x0, other.predict(X, at, LABELS).x0)
        assert torch.equal(got.noise, other.predict(X, at, LABELS).noise)
    # Images of both kinds in one batch, as the likelihood asks of them.
    both = torch.tensor([min(inside), max(inside), 1])
    for clip in (False, True):
        got = guided.predict(X, both, LABELS, clip_x0=clip)
        alone = [
            guided.predict(X[i : i + 1], both[i : i + 1], LABELS[i : i + 1], clip_x0=clip) for i in range(3)
        ]
        assert torch.equal(got.x0, torch.cat([one.x0 for one in alone]))
        assert torch.equal(got.noise, torch.cat([one.noise for one in alone]))


# Every sampler, and the likelihood


@settings(max_examples=40)
@given(
    name=st.sampled_from(list(WALKS)),
    scale=st.floats(-3, 10).map(lambda w: round(w, 2)),
    interval=st.sampled_from([None, (1, 9), (8, 20), (20, 20)]),
    rescale=st.sampled_from([0.0, 0.5, 1.0]),
    seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=5, unique=True),
    network=st.fixed_dictionaries({"self_condition": st.booleans(), "learned_variance": st.booleans()}),
)
def test_images_are_in_range_and_depend_on_their_seed_alone(name, scale, interval, rescale, seeds, network):
    diffusion = model(**network)
    guide = partial(ClassifierFreeGuidance, scale=scale, interval=interval, rescale=rescale)
    steps = None if name == "ancestral" else 4

    def draw(seeds, labels):
        return diffusion.sample(len(seeds), steps, sampler=name, labels=labels, guidance=guide, seeds=seeds)

    labels = [seed % 3 for seed in seeds]
    together = draw(seeds, labels)
    assert together.shape == (len(seeds), 1, 4, 4)
    assert bool(((together >= 0) & (together <= 1)).all())
    for image, seed, label in zip(together, seeds, labels, strict=True):
        assert torch.equal(image, draw([seed], [label])[0])
    if (interval, rescale) == (None, 0.0):
        by_number = diffusion.sample(
            len(seeds), steps, sampler=name, labels=labels, guidance=scale, seeds=seeds
        )
        assert torch.equal(by_number, together)


def test_sampling_is_in_evaluation_mode_and_leaves_the_model_as_it_was():
    diffusion = model()
    diffusion.sample(2, 3, labels=[0, 1], guidance=2.0)
    assert diffusion.network.modes == [(False, False)] * 3
    assert diffusion.training
    guided = ClassifierFreeGuidance(diffusion, 2.0)
    diffusion.network.modes.clear()
    vlb_terms(guided, X.sign(), labels=LABELS, timesteps_per_image=2)
    assert {training for training, _ in diffusion.network.modes} == {False}
    assert diffusion.training


def test_the_likelihood_takes_a_guided_model():
    diffusion, x0 = exact(), X.sign().double()
    bounds = {
        scale: vlb_terms(
            ClassifierFreeGuidance(diffusion, scale), x0, labels=LABELS, seeds=[1, 2, 3], batch_size=size
        )
        for scale, size in ((1.0, 3), (2.0, 3), (2, 1))
    }
    conditional = vlb_terms(diffusion, x0, labels=LABELS, seeds=[1, 2, 3])
    assert torch.equal(bounds[1.0].steps, conditional.steps)
    assert not torch.equal(bounds[2.0].steps, conditional.steps)
    # 2.0 and 2 are one key: the second, image by image, replaced the first.
    whole = vlb_terms(ClassifierFreeGuidance(diffusion, 2.0), x0, labels=LABELS, seeds=[1, 2, 3])
    assert torch.equal(bounds[2.0].steps, whole.steps)


def test_a_wrapper_goes_round_a_wrapper():
    diffusion = model()
    inner = ClassifierFreeGuidance(diffusion, 2.0)
    assert torch.equal(
        ClassifierFreeGuidance(inner, 1.0).predict(X, T, LABELS).x0, inner.predict(X, T, LABELS).x0
    )


# Refusals

KNOWS, PLAIN, GUIDE = model(), diffusion_of(Pointwise(), timesteps=20), ClassifierFreeGuidance


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GUIDE(PLAIN, 2.0), r"guidance 2 needs a model .* label_dropout=0\.1"),
        (lambda: GUIDE(PLAIN, 0), "guidance 0 needs a model that was also trained without"),
        (
            lambda: PLAIN.sample(2, labels=[0, 1], guidance=3.0),
            "guidance 3 needs a model that was also trained",
        ),
        (lambda: KNOWS.sample(2, guidance=2.0), "guidance 2 leads towards a class: give labels"),
        (lambda: KNOWS.sample(2, labels=[0], guidance=2.0), r"one whole number per image, shape \(2,\)"),
        (lambda: KNOWS.sample(2, labels=[0, 1], guidance="2"), "guidance must be a number, but got '2'"),
        (lambda: GUIDE(KNOWS, float("nan")), "guidance must be a number, but got nan"),
        (lambda: GUIDE(KNOWS, 2, rescale=1.5), r"rescale must lie in \[0, 1\]"),
        (lambda: GUIDE(KNOWS, 2, interval=(21, 30)), r"\(low, high\) .* has 1 … 20, but got"),
        (lambda: GUIDE(KNOWS, 2, interval=(9, 3)), "interval must be a pair"),
        (lambda: GUIDE(KNOWS, 2, interval=5), "interval must be a pair"),
        (lambda: GUIDE(KNOWS, 2, interval=(1, "9")), "interval must be a pair"),
        (lambda: GUIDE(KNOWS, 2, interval=(1, 9), interval_unit="sigma"), "unknown interval_unit"),
        (lambda: guidance_scale(2.0, "glide"), "unknown convention 'glide'; choose one of 'imagen'"),
        (lambda: GUIDE(KNOWS, 2).predict(X, T + 1, LABELS), "t must lie in 1 … 20"),
    ],
)
def test_what_cannot_be_guided_is_refused_before_a_network_is_asked(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert KNOWS.network.calls == PLAIN.network.calls == []


def test_what_is_no_model_is_a_type_error():
    with pytest.raises(TypeError, match="a model with `schedule` and `predict` is needed, but got a Classed"):
        ClassifierFreeGuidance(Classed(), 2.0)
    with pytest.raises(TypeError, match="a model with `schedule` and `predict` is needed, but got a int"):
        model().sample(2, labels=[0, 1], guidance=lambda _: 3)
