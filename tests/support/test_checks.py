"""`ddpm.support`, the guards: one table of refusals for each, and what it lets pass."""

import math

import pytest
import torch
from torch import nn

from ddpm.support import checks, tensor_checks

IMAGES, T = torch.zeros(2, 1, 4, 4), torch.tensor([1, 50])
GREY = torch.arange(256) / 127.5 - 1
nan = math.nan
GUARDS = {
    "choice": lambda value: checks.check_choice("colour", value, ("a", "b")),
    "whole": lambda value: checks.check_whole("steps", value, highest=50),
    "open": lambda value: checks.check_whole("steps", value),
    "wholes": lambda value: checks.check_wholes("steps", value),
    "number": lambda value: checks.check_number("rate", value, above=0),
    "unit": lambda value: checks.check_unit("lam", value, "0 is a"),
    "size": checks.check_image_size,
    "images": lambda value: tensor_checks.check_images("x", value, (1, 4, 4)),
    "pair": lambda value: tensor_checks.check_pair("x", IMAGES, "noise", value),
    "within": lambda value: tensor_checks.check_within("x", torch.tensor(value), 0, 1, "scale them"),
    "pixels": lambda value: tensor_checks.check_8bit("x", torch.tensor(value)),
    "t": lambda value: tensor_checks.check_t(torch.tensor(value), IMAGES, 50),
}


@pytest.mark.parametrize(
    ("guard", "values", "message"),
    [
        ("choice", ["c", None], "unknown colour .*; choose one of 'a', 'b'$"),
        ("whole", [0, 51, 2.5, 10.0, True, "10", None], "steps must be a whole number in 1 … 50, but got"),
        ("open", [0, -1], "steps must be a whole number of at least 1, but got"),
        ("open", [2**63, 10**30], r"steps must be a whole number in 1 … 9223372036854775807, but got"),
        ("wholes", [[0], [10**30], 2, "12"], "steps must be a list of whole numbers of at least 1"),
        ("size", [2**16 + 1, (8, 10**30)], "image_size must be one whole .* each at most 65536, but got"),
        ("number", [0, nan, math.inf, 10**400, "1", None], "rate must be a number above 0, but got"),
        ("unit", [-0.1, 1.1, nan], r"lam must lie in \[0, 1\]: 0 is a; but got"),
        ("size", [0, (8, 0), (8, 8, 8), (8, True), 8.0, True, "28", None], "image_size must be one whole"),
        ("images", [IMAGES[0], IMAGES.byte(), IMAGES.cfloat()], r"x must be a floating-point tensor of"),
        ("images", [IMAGES[..., :3]], r"\(B, 1, 4, 4\), but got torch.float32 of shape \(2, 1, 4, 3\)"),
        ("pair", [IMAGES[:1]], r"x and noise must have one shape, but got \(2, 1, 4, 4\) and \(1, 1, 4, 4\)"),
        ("pair", [IMAGES.byte()], "noise must be a floating-point tensor"),
        ("within", [[0.5, 1.01]], r"x must lie in \[0, 1\], but ranges from 0.5 to 1.01; scale them"),
        ("within", [[-0.1, 0.5], [0.5, nan]], "but ranges from"),
        ("pixels", [[0.0], [GREY[3].item() + 1e-4]], "x must hold exact 8-bit pixels.*two grey levels"),
        ("pixels", [[-1.01], [GREY[3].item(), nan]], r"x must lie in \[-1, 1\], but ranges from"),
        ("t", [[0, 1], [51, 1], [-1, 1]], r"t must lie in 1 … 50 \(0 is the clean image\), but got values"),
        ("t", [[1.0, 2.0], [True] * 2, [1j, 2j]], r"one whole number per image, shape \(2,\), but got"),
        ("t", [[1], [[1], [2]], 3], r"one whole number per image, shape \(2,\), but got torch.int64 of"),
    ],
)
def test_guards_refuse(guard, values, message):
    for value in values:
        with pytest.raises(ValueError, match=message):
            GUARDS[guard](value)


def test_check_t_refuses_a_bare_number_with_the_way_to_write_it():
    with pytest.raises(
        TypeError, match=r"t must be a tensor with one timestep per image, torch.full\(\(2,\)"
    ):
        tensor_checks.check_t(3, IMAGES, 50)


@pytest.mark.parametrize(
    ("guard", "values"),
    [
        ("choice", ["a", "b"]),
        ("whole", [1, 50]),
        ("open", [1, 10**9, 2**63 - 1]),
        ("unit", [0, 0.5, 1.0]),
        ("images", [IMAGES, IMAGES.bfloat16(), IMAGES[:0]]),
        ("pair", [IMAGES.double()]),
        ("within", [[0.0, 1.0], []]),
        ("pixels", [GREY.tolist(), []]),
        ("t", [[1, 50]]),
    ],
)
def test_guards_let_pass_what_is_right(guard, values):
    for value in values:
        GUARDS[guard](value)


def test_check_image_size_returns_a_pair():
    assert checks.check_image_size(8) == (8, 8)
    assert checks.check_image_size([4, 6]) == (4, 6)


def test_check_t_returns_int64():
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        got = tensor_checks.check_t(T.to(dtype), IMAGES, 50)
        assert got.dtype == torch.long
        assert got.tolist() == [1, 50]
    assert tensor_checks.check_t(T - 1, IMAGES, 50, lowest=0).tolist() == [0, 49]
    assert tensor_checks.check_t(T[:0], IMAGES[:0], 50).shape == (0,)


class Any(nn.Module):
    def forward(self, *given, **named):
        return given, named


def test_a_network_may_take_anything_or_not_say_what():
    traced = nn.Identity()
    traced.forward = max  # it has no signature either
    for network in (Any(), torch.compile(Any()), nn.DataParallel(Any()), traced):
        checks.check_call(network)
