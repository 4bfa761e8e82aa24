"""The chain's transitions and the changes of coordinates, checked, under the names of the MindSpore port."""

from collections.abc import Callable

from torch import Tensor

from ddpm.prediction import Prediction, noise_from_x0, v_from_x0_and_noise, x0_from_noise, x0_from_v
from ddpm.reverse_process import draw
from ddpm.schedule import NoiseSchedule
from ddpm.support.checks import check_generator
from ddpm.support.randomness import Generators
from ddpm.support.tensor_checks import check_pair, check_t


class Transitions:
    """q(x_t | x_0), q(x_{t−1} | x_t, x_0) and p_θ(x_{t−1} | x_t) of a model: what `GaussianDiffusion` adds to.

    `GaussianDiffusion` says what images and t are. The maths is that of `NoiseSchedule` and `ddpm.prediction`.
    """

    schedule: NoiseSchedule
    predict: Callable[..., Prediction]

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t, in float32 at least: in half precision the smallest steps would add no noise (eq:q-sample)."""
        t = self._checked("x_start", x_start, "noise", noise, t)
        return self.schedule.q_sample(x_start, t, noise)

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q(x_{t−1} | x_t, x_0) by Bayes' rule (eq:posterior-bayes, eq:posterior-mean, eq:posterior-variance).

        That is `(mean, variance, log_variance_clipped)`, the mean shaped like `x_t`, the others of shape (B, 1, 1, 1).
        """
        t = self._checked("x_start", x_start, "x_t", x_t, t)
        variance = self.schedule.at("posterior_variance", t, x_t)
        log_variance = self.schedule.at("posterior_log_variance_clipped", t, x_t)
        return self.schedule.posterior_mean(x_start, x_t, t), variance, log_variance

    def predict_start_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_0 = (x_t − σ_t ε) / √ᾱ_t."""
        return x0_from_noise(x_t, noise, *self._factors("x_t", x_t, "noise", noise, t))

    def predict_noise_from_start(self, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """ε = (x_t − √ᾱ_t x_0) / σ_t."""
        return noise_from_x0(x_t, x0, *self._factors("x_t", x_t, "x0", x0, t))

    def predict_v(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """v = √ᾱ_t ε − σ_t x_0 (eq:v)."""
        return v_from_x0_and_noise(x_start, noise, *self._factors("x_start", x_start, "noise", noise, t))

    def predict_start_from_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """x_0 = √ᾱ_t x_t − σ_t v (eq:three-coordinates)."""
        return x0_from_v(x_t, v, *self._factors("x_t", x_t, "v", v, t))

    def p_mean_variance(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        clip_denoised: bool = True,
        x_self_cond: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """p_θ(x_{t−1} | x_t): the posterior with the predicted x_0 in place of the true one (eq:reverse-step).

        As `q_posterior`; if the network predicts the variance, all three are shaped like `x_t`. Without clipping, the
        mean in terms of the predicted noise is eq:posterior-mean-noise.
        """
        prediction = self.predict(x_t, t, labels, clip_x0=clip_denoised, x_self_cond=x_self_cond)
        mean, variance, log_variance = self.q_posterior(prediction.x0, x_t, t)
        if prediction.log_variance is None:
            return mean, variance, log_variance
        return mean, prediction.log_variance.exp(), prediction.log_variance

    def p_sample(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        clip_denoised: bool = True,
        x_self_cond: Tensor | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """Draw x_{t−1} from p_θ(x_{t−1} | x_t); at t = 1 no noise is added (eq:reverse-step)."""
        check_generator(generator)
        mean, _, log_variance = self.p_mean_variance(
            x_t, t, labels, clip_denoised=clip_denoised, x_self_cond=x_self_cond
        )
        return draw(mean, log_variance, check_t(t, x_t, self.schedule.timesteps), generator)

    def _factors(self, name_a: str, a: Tensor, name_b: str, b: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and σ_t, once all three are what they should be."""
        return self.schedule.signal_and_sigma(self._checked(name_a, a, name_b, b, t), a)

    def _checked(self, name_a: str, a: Tensor, name_b: str, b: Tensor, t: Tensor) -> Tensor:
        """t as it can be used, once all three are what they should be."""
        check_pair(name_a, a, name_b, b, self.schedule.beta.device)
        return check_t(t, a, self.schedule.timesteps)
