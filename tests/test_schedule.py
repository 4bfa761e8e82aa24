"""`ddpm.schedule` against 50-digit arithmetic, and against everything that is no schedule."""

import functools
import math

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf

from ddpm import NoiseSchedule, cosine_betas, linear_betas, sigmoid_betas
from ddpm.schedule import BETA_SCHEDULES
from tests.exact import BETAS

VALID = [(name, T) for name in ("cosine", "sigmoid") for T in (1, 2, 10, 50, 1000, 4000)]
VALID += [("linear", T) for T in (21, 50, 1000, 4000)]
TABLES = (
    "beta",
    "alpha",
    "alpha_bar",
    "sqrt_alpha_bar",
    "sigma",
    "snr",
    "log_snr",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef_x0",
    "posterior_mean_coef_xt",
)


def sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


def reference_betas(name, T):
    """β_1 … β_T from the papers' formulas, as 50-digit numbers."""
    if name == "linear":
        first, last = mpf("0.0001"), mpf("0.02")
        return [mpf(1000) / T * (first + (last - first) * (t - 1) / (T - 1)) for t in range(1, T + 1)]
    if name == "cosine":
        s = mpf("0.008")
        curve = [mpmath.cos((mpf(t) / T + s) / (1 + s) * mpmath.pi / 2) ** 2 for t in range(T + 1)]
    else:
        low, high = sigmoid(mpf(-3)), sigmoid(mpf(3))
        curve = [(high - sigmoid(mpf(6) * t / T - 3)) / (high - low) for t in range(T + 1)]
    alpha_bar = [value / curve[0] for value in curve]
    return [min(1 - alpha_bar[t] / alpha_bar[t - 1], mpf("0.999")) for t in range(1, T + 1)]


@functools.cache
def reference(name, T):
    """Every table at t = 1 … T. The posterior comes from Bayes' rule with precisions, not from the closed form."""
    with mpmath.workdps(50):
        rows = {table: [] for table in TABLES}
        previous = mpf(1)
        for t, beta in enumerate(reference_betas(name, T), start=1):
            alpha_bar = previous * (1 - beta)
            if t == 1:  # q(x_0 | x_1, x_0) is a point
                variance, of_x0, of_xt = mpf(0), mpf(1), mpf(0)
            else:
                from_chain, from_start = (1 - beta) / beta, 1 / (1 - previous)
                variance = 1 / (from_chain + from_start)
                of_x0 = variance * from_start * mpmath.sqrt(previous)
                of_xt = variance * mpmath.sqrt(1 - beta) / beta
            row = {
                "beta": beta,
                "alpha": 1 - beta,
                "alpha_bar": alpha_bar,
                "sqrt_alpha_bar": mpmath.sqrt(alpha_bar),
                "sigma": mpmath.sqrt(1 - alpha_bar),
                "snr": alpha_bar / (1 - alpha_bar),
                "log_snr": mpmath.log(alpha_bar / (1 - alpha_bar)),
                "posterior_variance": variance,
                "posterior_log_variance_clipped": mpmath.log(variance) if t > 1 else None,
                "posterior_mean_coef_x0": of_x0,
                "posterior_mean_coef_xt": of_xt,
            }
            for table, value in row.items():
                rows[table].append(value)
            previous = alpha_bar
        first_log = rows["posterior_log_variance_clipped"][1] if T > 1 else mpmath.log(rows["beta"][0])
        rows["posterior_log_variance_clipped"][0] = first_log
        return {table: np.array([float(value) for value in values]) for table, values in rows.items()}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("name", "T"), VALID)
def test_tables_agree_with_fifty_digits(name, T, table):
    """To 1e-6 relative in the float32 buffers, and to 1e-9 in float64.

    log SNR passes through 0 (exactly, half-way along the sigmoid schedule); its error is measured as the relative error
    of the SNR that it stands for.
    """
    absolute = 1.0 if table == "log_snr" else 0.0
    truth = reference(name, T)[table]
    stored = getattr(NoiseSchedule.from_name(name, T), table)
    assert stored.dtype == torch.float32
    assert stored.shape == (T + 1,)
    np.testing.assert_allclose(stored[1:].double().numpy(), truth, rtol=1e-6, atol=1e-6 * absolute)
    full = getattr(NoiseSchedule(BETAS[name](T), dtype=torch.float64), table)
    np.testing.assert_allclose(full[1:].numpy(), truth, rtol=1e-9, atol=1e-9 * absolute)


@pytest.mark.parametrize(("name", "T"), VALID)
def test_index_convention(name, T):
    """t = 0 is clean data; tables have length T+1; the posterior variance at t = 1 is 0 by itself."""
    schedule = NoiseSchedule.from_name(name, T)
    assert schedule.timesteps == T
    at_zero = {table: getattr(schedule, table)[0].item() for table in TABLES}
    last_log = at_zero.pop("posterior_log_variance_clipped")
    assert at_zero == {
        "beta": 0,
        "alpha": 1,
        "alpha_bar": 1,
        "sqrt_alpha_bar": 1,
        "sigma": 0,
        "snr": math.inf,
        "log_snr": math.inf,
        "posterior_variance": 0,
        "posterior_mean_coef_x0": 1,
        "posterior_mean_coef_xt": 0,
    }
    assert last_log == schedule.posterior_log_variance_clipped[1]
    assert schedule.posterior_variance[1] == 0
    assert schedule.posterior_mean_coef_xt[1] == 0
    assert not any(math.copysign(1, value) < 0 for value in at_zero.values()), "a table starts with −0"
    for table in TABLES:
        values = getattr(schedule, table)
        assert not values.isnan().any()
        assert values[1:].isfinite().all()


@pytest.mark.parametrize(("name", "T"), VALID)
def test_noise_only_grows(name, T):
    schedule = NoiseSchedule.from_name(name, T)
    for table in ("alpha_bar", "sqrt_alpha_bar", "snr", "log_snr"):
        assert (getattr(schedule, table).diff() < 0).all(), table
    assert (schedule.sigma.double().diff() >= 0).all()
    assert (schedule.posterior_variance <= schedule.beta).all()


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_long_chains_end_in_noise(name):
    """What is left at T = 1000: √ᾱ_T is 0.0064 for linear (Ho et al. 2020), below 1e-3 for the others."""
    end = NoiseSchedule.from_name(name, 1000).sqrt_alpha_bar[-1].item()
    assert end < 1e-3 if name != "linear" else end == pytest.approx(0.00635, rel=1e-2)


def test_linear_is_the_papers():
    betas = linear_betas(1000)
    assert betas.dtype == torch.float64
    assert betas[0].item() == pytest.approx(1e-4, rel=1e-15)
    assert betas[-1].item() == pytest.approx(0.02, rel=1e-15)
    np.testing.assert_allclose(betas.numpy(), np.linspace(1e-4, 0.02, 1000), rtol=1e-13)


@pytest.mark.parametrize("T", [1, 2, 10, 19, 20])
def test_linear_is_refused_where_the_rescaled_beta_reaches_one(T):
    with pytest.raises(ValueError, match=r"strictly between 0 and 1, but beta\[\d+\] is .*T > 20"):
        NoiseSchedule.from_name("linear", T)


def test_options_reach_the_schedule():
    """Each option is the formula's own: checked at one T against the definition with another value."""
    T, t = 40, np.arange(41) / 40
    linear = linear_betas(T, beta_start=2e-4, beta_end=0.01).numpy()
    np.testing.assert_allclose(linear, 25 * np.linspace(2e-4, 0.01, T), rtol=1e-13)
    f = np.cos((t + 0.1) / 1.1 * np.pi / 2) ** 2
    np.testing.assert_allclose(
        cosine_betas(T, offset=0.1, max_beta=0.5).numpy(), np.minimum(1 - f[1:] / f[:-1], 0.5), rtol=1e-9
    )
    curve = 1 / (1 + np.exp(-(t * 5 - 2) / 0.7))
    curve = (curve[-1] - curve) / (curve[-1] - curve[0])
    np.testing.assert_allclose(
        sigmoid_betas(T, start=-2, end=3, tau=0.7, max_beta=0.9).numpy(),
        np.minimum(1 - curve[1:] / curve[:-1], 0.9),
        rtol=1e-9,
    )
    via_name = NoiseSchedule.from_name("cosine", T, max_beta=0.5)
    assert via_name.beta.max() == 0.5


def test_betas_may_be_any_sequence_of_numbers():
    for betas in ([0.1, 0.2], np.array([0.1, 0.2]), torch.tensor([0.1, 0.2], dtype=torch.float64)):
        schedule = NoiseSchedule(betas)
        assert schedule.alpha_bar[2].item() == pytest.approx(0.9 * 0.8, rel=1e-6)
        assert schedule.exact_alpha_bar.dtype == torch.float64
        assert schedule.exact_alpha_bar[2].item() == pytest.approx(0.9 * 0.8, rel=1e-15)


def test_buffers_move_but_are_not_saved():
    """The tables follow from the configuration; weights that carry them would pin one schedule."""
    schedule = NoiseSchedule.from_name("cosine", 10)
    assert set(dict(schedule.named_buffers())) == set(TABLES)
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
        ([0.1, 0.2, 1.5], r"beta\[3\] is 1.5 "),
        ([-0.1, 2.0], r"beta\[1\] is -0.1 "),
        ([0.5, math.nan], r"beta\[2\] is nan"),
        ([math.inf], r"beta\[1\] is inf"),
    ],
)
def test_what_is_no_list_of_betas_is_refused(betas, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(betas)


@pytest.mark.parametrize("timesteps", [0, -1, 2.5, 10.0, True, "10", None])
@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_what_is_no_number_of_steps_is_refused(name, timesteps):
    with pytest.raises(ValueError, match=r"timesteps \(T\) must be a whole number of at least 1, but got"):
        NoiseSchedule.from_name(name, timesteps)


def test_unknown_schedule_is_refused_by_naming_the_known():
    with pytest.raises(
        ValueError, match=r"unknown beta_schedule 'quadratic'; choose one of 'linear', 'cosine', 'sigmoid'"
    ):
        NoiseSchedule.from_name("quadratic", 10)
    assert set(BETA_SCHEDULES) == {"linear", "cosine", "sigmoid"}
