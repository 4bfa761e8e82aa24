"""Guidance by a gradient: the score of x_t plus that of what is known about the picture, ∇ log p(y | x_t).

By Bayes' rule the sum is the score of p(x_t | y). The wrappers are those of `ddpm.guidance`: every sampler takes them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm.guidance import Guided
from ddpm.prediction import Denoiser, Prediction, for_gradients, gradients
from ddpm.support.checks import check_flag, check_number, shown
from ddpm.support.tensor_checks import check_images, check_labels, check_t, check_tensor, check_within


class ClassifierGuidance(Guided):
    """Classifier guidance (Dhariwal & Nichol 2021, algorithm 2): the score plus s ∇ log p(y | x_t).

    ε̂ = ε(x_t) − s σ_t ∇ log p(y | x_t), and only then is x̂_0 clipped. In `ancestral` it moves the mean by
    s β_t/√α_t ∇ log p, which is their algorithm 1 but for its factor, the variance of the step, about β_t.

    Attributes:
        classifier: called as classifier(x_t, t), with noisy images in [-1, 1]: it gives one number per class, shape
            (B, K), logits or log-probabilities, and has to have been trained on such images.
        scale: s; 1 is Bayes' rule, if model and classifier are exact and the model is not conditional.
        conditional: whether the model is told the labels as well.
    """

    def __init__(
        self,
        diffusion: Denoiser,
        classifier: Callable[[Tensor, Tensor], Tensor],
        scale: float = 1.0,
        *,
        conditional: bool = False,
    ) -> None:
        super().__init__(diffusion)
        if not callable(classifier):
            raise TypeError(f"classifier must be called as classifier(x_t, t), but got {shown(classifier)}")
        self.classifier, self.scale = classifier, check_number("scale", scale)
        self.conditional = check_flag("conditional", conditional)

    def predict(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        clip_x0: bool = False,
        x_self_cond: Tensor | None = None,
    ) -> Prediction:
        """The guided prediction, towards `labels` (eq:classifier-guided)."""
        check_images("x_t", x_t)
        t, labels = check_t(t, x_t, self.schedule.timesteps), check_labels(labels, x_t)
        if labels is None:
            raise ValueError("classifier guidance leads towards a class: give labels, one per image")
        gradient = self._gradient(x_t, t, labels)
        own = self.ask(x_t, t, labels if self.conditional else None, x_self_cond)
        x0 = own.x0 + self.scale * own.sigma**2 / own.signal * gradient
        return self.changed(x_t, x0, own, clip=clip_x0)

    def _gradient(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """∇ log p(y | x_t), shaped like `x_t`."""
        with gradients():
            x = for_gradients(x_t).detach().requires_grad_()
            logits = self.classifier(x, for_gradients(t))
            if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
                raise ValueError(
                    f"the classifier must return a tensor of shape ({len(x)}, K), but returned {shown(logits)}"
                )
            check_within("labels", labels, 0, logits.shape[1] - 1, "the classifier has no more classes")
            chosen = logits.log_softmax(1).gather(1, for_gradients(labels)[:, None])
            return _gradient(chosen.sum(), x, "the classifier")


class ReconstructionGuidance(Guided):
    """Reconstruction guidance, for pictures of which a linear measurement y = A x_0 + noise is known (Ho et al. 2022).

    A denoised picture has to agree with y: x̂_0 moves along −∇ ½‖y − A x̂_0(x_t)‖², the gradient with respect to x_t,
    through the network, so that also pixels that were not measured fit (Video Diffusion Models, section 3.1). They take
    x_0 given x_t for normal around x̂_0 with variance σ_t²/ᾱ_t, from which the factor s √ᾱ_t follows; with noise in the
    measurement, of `variance` v, it is s √ᾱ_t σ_t² / (σ_t² + ᾱ_t v). Their known frames are replaced besides, as by
    `ddpm.editing.inpaint`; here all of x̂_0 moves, since A need not choose pixels.

    x_0 is known better than that, all the more at high t, where σ_t²/ᾱ_t has no bound: y counts for too little there.
    So the samples are not those of p(x_0 | y), even with an exact denoiser. For the Gaussian of 8 pixels in chapter 11
    and three measurements, with T = 400, the worst mean was 0.19 to 0.45 of its standard deviation away from the exact
    posterior's for s = 1, and the variance 3 to 15 % too large; for s = 2 the mean was 0.07 to 0.22 away, and the
    variance about 30 % too small. Each call costs a pass back through the network.

    Attributes:
        measure: A, a linear function of a batch of images, such as `lambda x: x[..., known]`.
        value: y, of the shape that `measure` gives.
        variance: v.
        scale: s; they, too, find that more than 1 works best.
    """

    def __init__(
        self,
        diffusion: Denoiser,
        measure: Callable[[Tensor], Tensor],
        value: Tensor,
        *,
        variance: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(diffusion)
        if not callable(measure):
            raise TypeError(f"measure must be a function of a batch of images, but got {shown(measure)}")
        check_tensor("value", value, floating=True)
        self.measure, self.value = measure, value
        self.variance = check_number("variance", variance, at_least=0)
        self.scale = check_number("scale", scale)

    def predict(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        clip_x0: bool = False,
        x_self_cond: Tensor | None = None,
    ) -> Prediction:
        """The guided prediction (eq:reconstruction-guidance)."""
        check_images("x_t", x_t)
        given, wanted = tuple(self.value.shape), tuple(self.measure(x_t).shape)
        if given != wanted:
            raise ValueError(f"measure gives shape {wanted} for these images, but value has shape {given}")
        with gradients():
            x, *told = map(for_gradients, (x_t, t, labels, x_self_cond))
            x = x.detach().requires_grad_()
            own = self.ask(x, *told)
            misfit = (for_gradients(self.value) - self.measure(own.x0)).square().sum() / 2
            gradient = _gradient(misfit, x, "measure")
        noise = own.sigma**2
        factor = self.scale * own.signal * noise / (noise + own.signal**2 * self.variance)
        variance = None if own.log_variance is None else own.log_variance.detach()
        own = Prediction(own.noise.detach(), own.x0.detach(), own.signal, own.sigma, variance)
        return self.changed(x_t, own.x0 - factor * gradient, own, clip=clip_x0)


def _gradient(total: Tensor, x: Tensor, maker: str) -> Tensor:
    """The gradient with respect to x of a number that was made of it, in part by the `maker`."""
    if not total.requires_grad:
        raise ValueError(
            f"{maker} returned numbers that autograd cannot follow back to x_t: leave torch.no_grad, .detach() and"
            " .item() out of it"
        )
    return torch.autograd.grad(total, x)[0]
