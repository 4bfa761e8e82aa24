"""A published autoencoder, loaded from a folder, against diffusers' own class."""

import pytest
import torch

from ddpm import LatentDiffusion, Unet, load_autoencoder
from tests.networks import randn, seeded

REASON = "diffusers is not installed; it comes with the extra `peers`: pip install -e '.[peers]'"
pytest.importorskip("diffusers", reason=REASON)

from diffusers import AutoencoderKL  # noqa: E402

BLOCKS = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}


def published(folder, **options):
    torch.manual_seed(0)
    theirs = AutoencoderKL(
        **BLOCKS, block_out_channels=(8, 16), norm_num_groups=4, latent_channels=3, **options
    )
    theirs.eval().save_pretrained(folder)
    return theirs


@pytest.mark.parametrize(("part", "word"), [("", "~/it"), ("vae", "~/it"), ("vae", "it")])
def test_codes_and_images_are_theirs(tmp_path, monkeypatch, part, word):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    theirs = published(tmp_path / "it" / part, scaling_factor=0.5, shift_factor=0.25)
    ours = load_autoencoder(word)
    x = randn(2, 3, 16, 16)
    with torch.no_grad():
        code = ours.encode(x)
        assert torch.equal(code, theirs.encode(x).latent_dist.mean)
        assert torch.equal(ours.decode(code), theirs.decode(code).sample)
    assert (ours.mean, ours.deviation) == (0.25, 2.0)
    images = torch.rand(2, 3, 16, 16, generator=seeded(0))
    network = Unet(8, dim_mults=(1, 2), channels=3)
    model = LatentDiffusion(network, ours, image_size=16, mean=ours.mean, deviation=ours.deviation)
    with torch.no_grad():
        expected = (theirs.encode(2 * images - 1).latent_dist.mean - 0.25) * 0.5
    torch.testing.assert_close(model.to_x0(images), expected)
    assert model.sample(1, 2, seeds=[0]).shape == (1, 3, 16, 16)


def test_without_a_shift_there_is_none(tmp_path):
    published(tmp_path)
    ours = load_autoencoder(tmp_path)
    assert ours.mean == 0
    assert ours.deviation == pytest.approx(1 / 0.18215)


def test_a_folder_without_one_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"config\.json"):
        load_autoencoder(tmp_path)
