"""Guidance by a gradient: the score of x_t plus that of what is known about the picture, ∇ log p(y | x_t).

By Bayes' rule the sum is the score of p(x_t | y). The wrappers are those of `ddpm.guidance`: every sampler takes them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm.checks import check_flag, check_number, shown
from ddpm.guidance import Guided, changed
from ddpm.prediction import Denoiser, Prediction
from ddpm.tensor_checks import check_images, check_labels, check_t


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
        """The guided prediction, towards `labels`."""
        check_images("x_t", x_t)
        t, labels = check_t(t, x_t, self.schedule.timesteps), check_labels(labels, x_t)
        if labels is None:
            raise ValueError("classifier guidance leads towards a class: give labels, one per image")
        gradient = self._gradient(x_t, t, labels)
        own = self.ask(x_t, t, labels if self.conditional else None, x_self_cond)
        return changed(x_t, own.x0 + self.scale * own.sigma**2 / own.signal * gradient, own, clip=clip_x0)

    def _gradient(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """∇ log p(y | x_t), shaped like `x_t`."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            logits = self.classifier(x, t)
            if logits.ndim != 2 or len(logits) != len(x):
                raise ValueError(
                    f"the classifier must return shape ({len(x)}, K), but returned {tuple(logits.shape)}"
                )
            chosen = logits.log_softmax(1).gather(1, labels[:, None])
            return torch.autograd.grad(chosen.sum(), x)[0]
