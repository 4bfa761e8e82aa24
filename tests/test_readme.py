"""What the README shows runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch

from ddpm import GaussianDiffusion, Unet, save_diffusers_pipeline
from tests.runs import pictures

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example, tmp_path, monkeypatch):
    """As it stands there, apart from the numbers of steps."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "pictures", 33, (40, 36))
    # Where a folder has a name of the Hub, the folder is meant, so this runs without a network.
    small = GaussianDiffusion(Unet(8, dim_mults=(1, 2), resnet_block_groups=4), image_size=32)
    save_diffusers_pipeline(small, "google/ddpm-cifar10-32")
    example = re.sub(r"(train_num_steps|sampling_timesteps)=[\d_]+", r"\1=2", example)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    images = names.get("images", names.get("sampled_images"))
    assert isinstance(images, torch.Tensor)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_the_readme_has_its_examples():
    assert len(EXAMPLES) == 4


def test_every_path_in_the_map_exists():
    """The table of the repository names files and folders that are there."""
    root = Path(__file__).parents[1]
    table = README.split("## What is where")[1].split("## Licence")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    folder = ""
    for name in named:
        folder = str(Path(name).parent) if "/" in name.rstrip("/") else folder
        assert (root / name).exists() or (root / folder / name).exists(), name
