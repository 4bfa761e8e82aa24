"""`ddpm.schedule` beyond its formulas: what is stored, the ends of the tables, and how a schedule is built."""

import math

import numpy as np
import pytest
import torch

from ddpm import NoiseSchedule, cosine_betas, linear_betas, sigmoid_betas
from ddpm.schedule import default_schedule, log_snr_betas
from tests.networks import schedule_64

VALID = [(name, T) for name in ("cosine", "sigmoid", "log-snr", "flow") for T in (1, 2, 10, 50, 1000, 4000)]
VALID += [("linear", T) for T in (21, 50, 1000, 4000)]
TABLES = ["beta", "alpha", "alpha_bar", "sqrt_alpha_bar", "sigma", "snr", "log_snr", "posterior_variance"]
TABLES += ["posterior_mean_coef_x0", "posterior_mean_coef_xt"]


@pytest.mark.parametrize(("name", "T"), VALID)
def test_stored_tables_are_those_of_double_precision_rounded(name, T):
    """The tables themselves are proved in `tests/equations/`, but for the logarithm that begins with t = 2."""
    stored, full = NoiseSchedule.from_name(name, T), schedule_64(name, T)
    assert stored.timesteps == T
    for table in [*TABLES, "posterior_log_variance_clipped"]:
        rounded, exact = getattr(stored, table), getattr(full, table)
        assert (rounded.dtype, exact.dtype) == (torch.float32, torch.float64)
        assert exact.shape == (T + 1,)
        assert torch.equal(rounded, exact.float())
    variance = full.posterior_variance[2:] if T > 1 else full.beta[1:]
    expected = torch.cat([variance[:1], variance[:1], variance])[: T + 1].log()
    torch.testing.assert_close(full.posterior_log_variance_clipped, expected, rtol=1e-12, atol=0)


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
    odds = np.exp(np.linspace(8, -4, T))
    expected = 1 - (curve := np.append(1, odds / (1 + odds)))[1:] / curve[:-1]
    got = log_snr_betas(T, highest=8, lowest=-4, max_beta=0.3)
    np.testing.assert_allclose(got.numpy(), np.minimum(expected, 0.3), rtol=1e-9)
    assert NoiseSchedule.from_name("cosine", T, max_beta=0.5).beta.max() == 0.5


@pytest.mark.parametrize(
    "betas",
    [
        *([0.1, 0.2], np.array([0.1, 0.2]), torch.tensor([0.1, 0.2], dtype=torch.float64)),
        *(np.array([0.2, 0.1])[::-1], np.array([0.1, 0.2], dtype=">f8"), [np.float64(0.1), 0.2]),
    ],
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


def test_default_schedule_is_linear_exactly_where_that_exists():
    NoiseSchedule(linear_betas(21))
    assert [default_schedule(T) for T in (1, 20, 21, 1000)] == ["cosine", "cosine", "linear", "linear"]
