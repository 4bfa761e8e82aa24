"""A folder larger than the memory one would give it: images are read as they are needed, and none is held."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddpm import GaussianDiffusion, Unet
from ddpm.data import image_folder
from tests.runs import pictures, trainer

COUNT, SIDE = 4000, 64
SIZE = COUNT * 3 * SIDE * SIDE  # of the pixels, in bytes
ROLLUP = Path("/proc/self/smaps_rollup")


def own_memory() -> int:
    """Bytes of this process that are no file's: what the system cannot take back without a swap."""
    line = next(line for line in ROLLUP.read_text().splitlines() if line.startswith("Anonymous:"))
    return 1024 * int(line.split()[1])


def train(run: Path, dataset, steps: int) -> None:
    torch.manual_seed(0)
    network = Unet(4, dim_mults=(1, 2), resnet_block_groups=2, num_res_blocks=1, attention_resolutions=())
    diffusion = GaussianDiffusion(network, image_size=SIDE, timesteps=50, sampling_timesteps=1)
    options = {
        "train_num_steps": steps,
        "save_and_sample_every": 1000,
        "num_samples": 1,
        "train_batch_size": 8,
    }
    ours = trainer(run, diffusion, dataset, **options)
    ours.train()
    assert ours.images_seen == 8 * steps


def growth(folder: Path, *, cached: bool) -> dict[str, int]:
    """By how many bytes this process grows as it trains on the folder, and then as it holds all images."""
    few = pictures(folder / "few", 16, (SIDE, SIDE))
    many = folder / "many"
    many.mkdir()
    for number in range(COUNT):
        shutil.copy(few / f"{number % 16}.png", many / f"{number}.png")
    dataset = image_folder(many, SIDE, **({"cache": folder / "cache"} if cached else {"check": False}))
    train(folder / "first", image_folder(few, SIDE), 2)  # what training itself takes, whatever the data
    before = own_memory()
    train(folder / "run", dataset, 20)
    trained = own_memory() - before
    held = []
    for first in range(0, COUNT if cached else 0, 500):
        held += dataset.__getitems__(range(first, first + 500))
    return {"trained": trained, "held": own_memory() - before, "images": len(held)}


@pytest.mark.skipif(not ROLLUP.exists(), reason="only Linux says so exactly what memory is of")
@pytest.mark.parametrize("cached", [True, False], ids=["from a cache", "from the files"])
def test_a_folder_trains_without_being_held(tmp_path, cached):
    # A process of its own: another's freed memory would be taken again, and no growth seen.
    code = (
        "import json, pathlib; from tests.training.test_large_folders import growth;"
        f"print(json.dumps(growth(pathlib.Path({str(tmp_path)!r}), cached={cached})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown = json.loads(done.stdout.splitlines()[-1])
    assert grown["trained"] < SIZE / 4
    if cached:  # and the check can fail: all images at once are seen
        assert grown["images"] == COUNT
        assert grown["held"] > SIZE
