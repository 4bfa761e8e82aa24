"""What half precision and the compiler change, against float32 as it comes; on the model of digits that ships.

bfloat16 has 8 bits of mantissa, a relative rounding error of up to 2⁻⁹ = 0.2 %. Through the network that becomes 0.3 %
of the output where noise is strong. Near t = 1 it is more, since the network magnifies there what little noise the
image holds: 5 %, and 25 % if the image itself were rounded, which is why the first convolution is in full precision.
Samples differ by about a grey level, as later steps mend what earlier ones rounded. The compiler changes the order of
sums: a few units in float32's last place.
"""

import copy

import pytest
import torch

from ddpm import GaussianDiffusion, load_pretrained
from ddpm.data import digits
from tests import runs
from tests.networks import randn

# Root mean square of the difference, relative to the output's: 0.052, 0.011, 0.0048 and 0.0029 were measured.
BF16_OUTPUT = {1: 0.1, 20: 0.025, 100: 0.01, 1000: 0.006}
# Largest difference of a pixel in [0, 1], that is five grey levels; 0.0055 was measured.
BF16_SAMPLES = 0.02
# Largest difference, relative to the largest value; 1e-6 was measured.
COMPILED = 1e-5


@pytest.fixture(scope="module")
def model() -> GaussianDiffusion:
    return load_pretrained("digits")


@pytest.fixture(scope="module")
def compiler() -> None:
    """Skips where there is no C++ compiler, without which torch compiles nothing for a CPU."""
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        pytest.skip("torch.compile needs a C++ compiler, and there is none")


@pytest.mark.parametrize("t", BF16_OUTPUT)
def test_bf16_output_is_off_by_little(model, t):
    x0, at = digits().tensors[0][:16] * 2 - 1, torch.full((16,), t)
    x_t = model.q_sample(x0, at, randn(*x0.shape))
    with torch.no_grad():
        expected = model.network(x_t, at)
        with torch.autocast("cpu", torch.bfloat16):
            got = model.network(x_t, at)
    assert got.dtype == torch.bfloat16
    error = (got.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 1e-4 < error < BF16_OUTPUT[t]


def test_bf16_samples_are_off_by_grey_levels(model):
    expected = model.sample(2, 50, seeds=range(2))
    with torch.autocast("cpu", torch.bfloat16):
        got = model.sample(2, 50, seeds=range(2))
    assert got.dtype == torch.float32
    assert 0 < (got - expected).abs().max() < BF16_SAMPLES


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_samples_are_the_same_images():
    """The same seeds give the same pictures, grey level for grey level; of a network that compiles in seconds."""
    model = runs.model(network={"dim_mults": (1,)})
    twin = copy.deepcopy(model)
    twin.network.compile()
    for eta in (0.0, 1.0):
        expected, got = (one.sample(8, 20, eta=eta, seeds=range(8)) for one in (model, twin))
        assert (got - expected).abs().max() < COMPILED * expected.abs().max()
        assert torch.equal((255 * got).round(), (255 * expected).round())
