"""Chapter 4: the posterior."""

import torch
from torch.distributions import Normal

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.gaussians import condition
from ddpm.schedule import NoiseSchedule, linear_betas

_SECOND = torch.tensor([False, True])


@exercise("posterior-by-hand", "by_hand")
def _(ask: Ask) -> None:
    # The pair (x_1, x_2), given x_0: x_2 is √½ x_1 and noise of variance ½.
    root = torch.tensor(0.5).sqrt()
    covariance = torch.stack([torch.stack([0.5 * root / root, 0.5 * root]), torch.tensor([0.5 * root, 0.75])])
    of_x0, variance = condition(torch.stack([root, root**2]), covariance, _SECOND, torch.zeros(1))
    of_x2, _ = condition(torch.zeros(2), covariance, _SECOND, torch.ones(1))
    ask().equals((0.5, 0.25, variance, of_x0, of_x2), rtol=1e-3)


@exercise("gaussian-data", "back(alpha, x_t)")
def _(ask: Ask) -> None:
    for alpha, x_t in ((0.9, 1.5), (0.36, -0.4), (0.5, 0.0)):
        covariance = torch.tensor([[1.0, alpha**0.5], [alpha**0.5, 1.0]])
        ask(alpha, x_t).equals(condition(torch.zeros(2), covariance, _SECOND, torch.tensor([x_t])))


@exercise("more-than-beta", "worst")
def _(ask: Ask) -> None:
    schedule = NoiseSchedule(linear_betas(50), dtype=torch.float64)
    before, x = schedule.alpha_bar[3], torch.linspace(-4, 4, 2001)
    bumps = Normal(before.sqrt() * torch.tensor([[-0.6], [1.4]]), (before * 0.16 + 1 - before).sqrt())
    prior = (bumps.log_prob(x) + torch.tensor([[0.7], [0.3]]).log()).logsumexp(0)
    x_t = torch.linspace(-3, 3, 601)[:, None]
    weight = torch.softmax(
        prior + Normal(schedule.alpha[4].sqrt() * x, schedule.beta[4].sqrt()).log_prob(x_t), 1
    )
    variance = weight @ x**2 - (weight @ x) ** 2
    ask().equals(x_t[variance.argmax(), 0], rtol=0, atol=0.05)


@exercise("shortcut", "correlation(schedule, t)")
def _(ask: Ask) -> None:
    schedule = NoiseSchedule(linear_betas(50), dtype=torch.float64)
    for t in (2, 20, 50):
        variance = torch.tensor(0.0)  # of x_{t−1}, given x_0
        for s in range(1, t):
            variance = schedule.alpha[s] * variance + schedule.beta[s]
        later = schedule.alpha[t] * variance + schedule.beta[t]
        ask(schedule, t).equals(schedule.alpha[t].sqrt() * variance / (variance * later).sqrt())


@exercise("many-steps-back", "steps_back(alpha_bar, s, t)")
def _(ask: Ask) -> None:
    schedule = NoiseSchedule(linear_betas(100), dtype=torch.float64)
    for s, t in ((19, 20), (5, 60), (40, 100)):
        of_x0, of_xt, variance = torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0)
        for step in range(t, s, -1):
            back = schedule.posterior_mean_coef_xt[step]
            of_x0 = schedule.posterior_mean_coef_x0[step] + back * of_x0
            of_xt, variance = back * of_xt, schedule.posterior_variance[step] + back**2 * variance
        ask(schedule.alpha_bar, s, t).equals((of_x0, of_xt, variance))
