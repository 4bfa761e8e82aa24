"""`ddpm.checks`: one table of refusals per guard, and what each lets pass."""

import math

import pytest
import torch

from ddpm import checks

IMAGES, T = torch.zeros(2, 1, 4, 4), torch.tensor([1, 50])
GREY = torch.arange(256) / 127.5 - 1
nan = math.nan


def whole(value):
    checks.check_whole("steps", value, highest=50)


def images(value):
    checks.check_images("x", value, (1, 4, 4))


def pair(value):
    checks.check_pair("x", IMAGES, "noise", value)


def within(value):
    checks.check_within("x", torch.tensor(value), 0, 1, "scale them")


def pixels(value):
    checks.check_8bit("x", torch.tensor(value))


def timesteps(value):
    return checks.check_t(torch.tensor(value), IMAGES, 50)


@pytest.mark.parametrize(
    ("guard", "value", "message"),
    [
        (
            lambda word: checks.check_choice("colour", word, ("a", "b")),
            "c",
            "unknown colour 'c'; choose one of 'a', 'b'",
        ),
        (whole, 0, "steps must be a whole number in 1 … 50, but got 0"),
        *((whole, value, rf"but got {value!r}$") for value in (51, -1, 2.5, 10.0, True, "10", None)),
        (
            lambda n: checks.check_whole("steps", n),
            0,
            "steps must be a whole number of at least 1, but got 0",
        ),
        (lambda n: checks.check_whole("steps", n, 0), -1, "of at least 0, but got -1"),
        *(
            (
                lambda x: checks.check_unit("lam", x, "0 is a"),
                value,
                rf"lam must lie in \[0, 1\]: 0 is a; but got {value}",
            )
            for value in (-0.1, 1.1, nan)
        ),
        (checks.check_image_size, 0, "image_size must be one whole number >= 1 or a pair of them, but got 0"),
        *(
            (checks.check_image_size, value, "or a pair of them, but got")
            for value in ((8, 0), (8, 8, 8), (8, True), 8.0, True, "28", None)
        ),
        *(
            (images, value, r"x must be a floating-point tensor of shape \(B, C, H, W\), but got")
            for value in (IMAGES[0], IMAGES.byte(), IMAGES.cfloat())
        ),
        (images, IMAGES[..., :3], r"x must have shape \(B, 1, 4, 4\), but got \(2, 1, 4, 3\)"),
        (pair, IMAGES[:1], r"x and noise must have one shape, but got \(2, 1, 4, 4\) and \(1, 1, 4, 4\)"),
        (pair, IMAGES.byte(), "noise must be a floating-point tensor"),
        (within, [0.5, 1.01], r"x must lie in \[0, 1\], but ranges from 0.5 to 1.01; scale them"),
        (within, [-1.0, 0.5], "ranges from -1 to 0.5"),
        (within, [0.5, nan], "ranges from nan"),
        (pixels, [0.0], "x must hold exact 8-bit pixels.*some lie between two grey levels"),
        (pixels, [GREY[3].item() + 1e-4], "some lie between two grey levels"),
        (pixels, [-1.01], r"x must lie in \[-1, 1\], but ranges from -1.01"),
        (pixels, [GREY[3].item(), nan], r"x must lie in \[-1, 1\]"),
        (timesteps, [0, 1], r"t must lie in 1 … 50 \(0 is the clean image\), but got values from 0 to 1"),
        (timesteps, [51, 1], "values from 1 to 51"),
        (timesteps, [-1, 1], "values from -1 to 1"),
        *(
            (timesteps, value, "t must hold one whole number per image")
            for value in ([1.0, 2.0], [True] * 2, [1j, 2j])
        ),
        *(
            (timesteps, value, r"shape \(2,\), but got torch.int64 of shape")
            for value in ([1], [[1], [2]], 3)
        ),
    ],
)
def test_guards_refuse(guard, value, message):
    with pytest.raises(ValueError, match=message):
        guard(value)


def test_check_t_refuses_a_bare_number_with_the_way_to_write_it():
    with pytest.raises(
        TypeError, match=r"t must be a tensor with one timestep per image, torch.full\(\(2,\)"
    ):
        checks.check_t(3, IMAGES, 50)


def test_guards_let_pass_what_is_right():
    for value in (1, 50):
        whole(value)
    for value in (0, 0.5, 1.0):
        checks.check_unit("lam", value, "")
    assert checks.check_image_size(8) == (8, 8)
    assert checks.check_image_size([4, 6]) == (4, 6)
    images(IMAGES.bfloat16())
    pair(IMAGES.double())
    within([0.0, 1.0])
    within([])
    checks.check_8bit("x", GREY)
    checks.check_8bit("x", GREY[:0])


def test_check_t_returns_int64():
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        got = checks.check_t(T.to(dtype), IMAGES, 50)
        assert got.dtype == torch.long
        assert got.tolist() == [1, 50]
    assert checks.check_t(T - 1, IMAGES, 50, lowest=0).tolist() == [0, 49]
    assert checks.check_t(T[:0], IMAGES[:0], 50).shape == (0,)
