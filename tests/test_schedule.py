"""`ddpm.schedule` in extended precision, and against everything that is no schedule."""

import math

import numpy as np
import pytest
import torch

from ddpm import NoiseSchedule, cosine_betas, linear_betas, sigmoid_betas
from ddpm.schedule import default_schedule
from tests.networks import BETAS, schedule_64

VALID = [(name, T) for name in ("cosine", "sigmoid") for T in (1, 2, 10, 50, 1000, 4000)]
VALID += [("linear", T) for T in (21, 50, 1000, 4000)]
TABLES = ["beta", "alpha", "alpha_bar", "sqrt_alpha_bar", "sigma", "snr", "log_snr", "posterior_variance"]
TABLES += ["posterior_mean_coef_x0", "posterior_mean_coef_xt"]


def reference_betas(name, T):
    """β_1 … β_T from the papers' formulas, in extended precision."""
    time = np.arange(T + 1, dtype=np.longdouble) / T
    if name == "linear":
        return np.longdouble(1000) / T * (1e-4 + (0.02 - 1e-4) * np.arange(T, dtype=np.longdouble) / (T - 1))
    if name == "cosine":
        curve = np.cos((time + 0.008) / 1.008 * np.longdouble(np.pi) / 2) ** 2
    else:
        logistic = 1 / (1 + np.exp(3 - 6 * time))
        curve = (logistic[-1] - logistic) / (logistic[-1] - logistic[0])
    return np.minimum(1 - curve[1:] / curve[:-1], 0.999)


def reference(name, T):
    """Every table at t = 1 … T. The posterior comes from Bayes' rule with precisions, not from the closed form."""
    beta = reference_betas(name, T)
    alpha_bar = np.cumprod(1 - beta)
    before = np.concatenate([[1], alpha_bar[:-1]])
    with np.errstate(divide="ignore"):
        variance = 1 / ((1 - beta) / beta + 1 / (1 - before))
        log_variance = np.log(variance)
    log_variance[0] = log_variance[1] if T > 1 else np.log(beta[0])
    return {
        "beta": beta,
        "alpha": 1 - beta,
        "alpha_bar": alpha_bar,
        "sqrt_alpha_bar": np.sqrt(alpha_bar),
        "sigma": np.sqrt(1 - alpha_bar),
        "snr": alpha_bar / (1 - alpha_bar),
        "log_snr": np.log(alpha_bar / (1 - alpha_bar)),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": log_variance,
        "posterior_mean_coef_x0": np.sqrt(before) / ((1 - beta) / beta * (1 - before) + 1),
        "posterior_mean_coef_xt": variance * np.sqrt(1 - beta) / beta,
    }


@pytest.mark.parametrize(("name", "T"), VALID)
def test_tables_agree_with_extended_precision(name, T):
    """To 1e-6 relative in the float32 buffers, and to 1e-9 in float64.

    log SNR passes through 0 (exactly, half-way along the sigmoid schedule); its error is measured as the relative error
    of the SNR that it stands for.
    """
    stored, full = NoiseSchedule.from_name(name, T), schedule_64(name, T)
    assert stored.timesteps == T
    for table, truth in reference(name, T).items():
        absolute = 1.0 if table == "log_snr" else 0.0
        for schedule, dtype, accuracy in ((stored, torch.float32, 1e-6), (full, torch.float64, 1e-9)):
            values = getattr(schedule, table)
            assert values.dtype == dtype
            assert values.shape == (T + 1,)
            np.testing.assert_allclose(
                values[1:].double().numpy(),
                truth.astype(float),
                rtol=accuracy,
                atol=accuracy * absolute,
                err_msg=table,
            )


@pytest.mark.parametrize(("name", "T"), VALID)
def test_index_0_is_clean_data(name, T):
    """And at t = 1 the posterior variance is 0 by itself; the noise grows at every step, also in float32."""
    schedule = NoiseSchedule.from_name(name, T)
    at_zero = [getattr(schedule, table)[0].item() for table in TABLES]
    assert at_zero == [0, 1, 1, 1, 0, math.inf, math.inf, 0, 1, 0]
    assert not any(math.copysign(1, value) < 0 for value in at_zero), "a table starts with −0"
    last_log = schedule.posterior_log_variance_clipped
    assert last_log[0] == last_log[1]
    assert schedule.posterior_variance[1] == schedule.posterior_mean_coef_xt[1] == 0
    for table in ("alpha_bar", "sqrt_alpha_bar", "snr", "log_snr"):
        assert (getattr(schedule, table).diff() < 0).all(), table
    assert (schedule.posterior_variance <= schedule.beta).all()


def test_options_reach_the_formula():
    """Checked at one T against the definition with another value."""
    T, t = 40, np.arange(41) / 40
    linear = linear_betas(T, beta_start=2e-4, beta_end=0.01)
    assert linear.dtype == torch.float64
    np.testing.assert_allclose(linear.numpy(), 25 * np.linspace(2e-4, 0.01, T), rtol=1e-13)
    f = np.cos((t + 0.1) / 1.1 * np.pi / 2) ** 2
    expected = np.minimum(1 - f[1:] / f[:-1], 0.5)
    np.testing.assert_allclose(cosine_betas(T, offset=0.1, max_beta=0.5).numpy(), expected, rtol=1e-9)
    curve = 1 / (1 + np.exp(-(t * 5 - 2) / 0.7))
    curve = (curve[-1] - curve) / (curve[-1] - curve[0])
    got = sigmoid_betas(T, start=-2, end=3, tau=0.7, max_beta=0.9)
    np.testing.assert_allclose(got.numpy(), np.minimum(1 - curve[1:] / curve[:-1], 0.9), rtol=1e-9)
    assert NoiseSchedule.from_name("cosine", T, max_beta=0.5).beta.max() == 0.5


@pytest.mark.parametrize(
    "betas", [[0.1, 0.2], np.array([0.1, 0.2]), torch.tensor([0.1, 0.2], dtype=torch.float64)]
)
def test_betas_may_be_any_sequence_of_numbers(betas):
    schedule = NoiseSchedule(betas)
    assert schedule.alpha_bar[2].item() == pytest.approx(0.9 * 0.8, rel=1e-6)
    assert schedule.exact_alpha_bar.dtype == torch.float64
    assert schedule.exact_alpha_bar[2].item() == pytest.approx(0.9 * 0.8, rel=1e-15)


def test_buffers_move_but_are_not_saved():
    """The tables follow from the configuration; weights that carry them would pin one schedule."""
    schedule = NoiseSchedule.from_name("cosine", 10)
    assert set(dict(schedule.named_buffers())) == {*TABLES, "posterior_log_variance_clipped"}
    assert schedule.state_dict() == {}
    assert schedule.double().beta.dtype == torch.float64
    assert schedule.to("meta").beta.device.type == "meta"
    assert "timesteps=10" in repr(NoiseSchedule.from_name("cosine", 10))


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([], r"shape \(T,\) with T >= 1, but got shape \(0,\)"),
        (0.1, r"but got shape \(\)"),
        ([[0.1, 0.2]], r"but got shape \(1, 2\)"),
        ([0.1, 0.0, 0.2], r"beta\[2\] is 0 \(T = 3\)"),
        ([1.0], r"beta\[1\] is 1 "),
        ([-0.1, 2.0], r"beta\[1\] is -0.1 "),
        ([0.5, math.nan], r"beta\[2\] is nan"),
        ([math.inf], r"beta\[1\] is inf"),
    ],
)
def test_betas_that_are_no_schedule_are_refused(betas, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(betas)


@pytest.mark.parametrize("name", list(BETAS))
def test_timesteps_that_are_no_number_of_steps_are_refused(name):
    for build in (BETAS[name], lambda T: NoiseSchedule.from_name(name, T), default_schedule):
        with pytest.raises(
            ValueError, match=r"timesteps must be a whole number of at least 1, but got 10\.0"
        ):
            build(10.0)


def test_default_schedule_is_linear_exactly_where_that_exists():
    NoiseSchedule(linear_betas(21))
    for T in (1, 2, 20):
        with pytest.raises(ValueError, match=rf"strictly between 0 and 1, but beta\[{T}\] is .*T > 20"):
            NoiseSchedule(linear_betas(T))
    assert [default_schedule(T) for T in (1, 20, 21, 1000)] == ["cosine", "cosine", "linear", "linear"]
