"""Chapter 13: scaling up."""

import torch

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.schedule import NoiseSchedule, cosine_betas, linear_betas


@exercise("scaling-fits", "largest_batch(free, parameters, image_bytes, averages)")
def _(ask: Ask) -> None:
    for free, parameters, image_bytes, averages in (
        (10_000, 100, 700, 3),
        (9600, 200, 800, 1),
        (5000, 10, 9, 0),
    ):
        left, count = free, 0
        for _kept in ("itself", "gradient", "first moment", "second moment", *range(averages)):
            left -= 4 * parameters
        while left >= image_bytes:
            left, count = left - image_bytes, count + 1
        ask(free, parameters, image_bytes, averages).equals(count)


@exercise("scaling-busy", "share_of_peak(flop_per_image, images_per_second, peak)")
def _(ask: Ask) -> None:
    for seconds, flop, peak in ((0.01, 3e9, 1e12), (2.0, 4e10, 5e10), (0.25, 1e6, 6e9)):
        reply = ask(flop, 1 / seconds, peak)
        done = reply.numbers() * peak * seconds  # in the time of a picture
        reply.must(
            torch.isclose(done, torch.tensor(flop)),
            f"is a share with which {done:.4g} operations are done in the time of a picture, which takes {flop:.4g}",
        )


@exercise("scaling-snr", "same_ratio(alpha_bar, t, factor)")
def _(ask: Ask) -> None:
    for betas in (cosine_betas(1000), linear_betas(300)):
        table = NoiseSchedule(betas, dtype=torch.float64).alpha_bar
        powers = table.tolist()
        for t, factor in ((500, 2.0), (100, 3.0), (200, 0.5), (40, 1.0)):
            t = min(t, len(powers) // 2)
            asked = powers[t] / (1 - powers[t])
            # The signal has the variance factor² ᾱ, the noise 1 − ᾱ.
            gaps = [abs(factor * factor * power / (1 - power) - asked) for power in powers[1:]]
            ask(table, t, factor).equals(gaps.index(min(gaps)) + 1)


@exercise("scaling-post-hoc", "missed(kappas, ends, kappa)")
def _(ask: Ask) -> None:
    def product(one: tuple[float, float], two: tuple[float, float]) -> float:
        """∫ of two windows' product: both are powers of u up to the earlier end."""
        (k, e), (m, f) = one, two
        return k * m / (k + m - 1) * min(e, f) ** (k + m - 1) / (e**k * f**m)

    for kappas, ends, kappa in (
        ([4.0, 9.0], [0.5, 1.0], 6.0),
        ([12.0], [1.0], 7.0),
        ([3.0, 8.0], [0.4, 0.7, 1.0], 5.0),
    ):
        kept = [(k, end) for k in kappas for end in ends]
        gram = torch.tensor([[product(one, two) for two in kept] for one in kept])
        shared = torch.tensor([product(one, (kappa, 1.0)) for one in kept])
        whole = product((kappa, 1.0), (kappa, 1.0))
        left = 1 - shared @ torch.linalg.solve(gram, shared) / whole
        ask(kappas, ends, kappa).equals(left.sqrt(), rtol=0.02)
