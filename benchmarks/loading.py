"""How fast are images loaded? A folder of 12-megapixel JPEGs for 64×64 images, in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.loading

Ours at a reduced scale, as the Trainer reads a folder; ours decoding every file in full; torchvision's ImageFolder as
its documentation shows it; and ours from the cache of prepared images. Each reads whole batches of the same files, in
turn, round after round; the median of the processor's time counts. The files are made here, with the spectrum of
photographs and the noise of a camera: plain ones, busy ones, and those between them, which are as large as a phone's.
A reduced scale saves all but the Huffman code, so it gains least where that is longest. The figures go to loading.json.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import datasets, transforms

from benchmarks.network_speed.summary import machine
from benchmarks.network_speed.tables import table
from ddpm.data import PrepareImage, image_folder
from ddpm.data.batches import Batch, SeededBatches
from ddpm.data.images import read_image

RESULTS = Path(__file__).with_suffix(".json")
SIZE, SIDES, QUALITY = 64, (3000, 4000), 90
FILES, ROUNDS, CACHED_EPOCHS = 8, 5, 200
# How fast the amplitudes fall with the frequency: 1 is the average of photographs (Field 1987).
CONTENTS = {"plain": 1.5, "usual": 1.25, "busy": 1.1}
Load = Callable[[], torch.Tensor]


def photograph(slope: float, seed: int) -> Image.Image:
    """A picture of 12 megapixels whose spectrum is that of photographs."""
    height, width = SIDES
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = np.random.default_rng(seed).standard_normal((3, height, width), dtype=np.float32)
    spectrum = np.fft.rfft2(noise) / frequency**slope
    shaped = np.fft.irfft2(spectrum + spectrum.mean(0), SIDES)
    pixels = 128 + 45 * shaped / shaped.std() + np.random.default_rng(seed).normal(0, 2, shaped.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def write_photographs(folder: Path, slope: float, count: int) -> float:
    """Files of one content below the folder of a class; returns their mean size in megabytes."""
    (folder / "all").mkdir(parents=True)
    for number in range(count):
        photograph(slope, number).save(folder / "all" / f"{number:03}.jpg", quality=QUALITY, subsampling=2)
    return statistics.mean(path.stat().st_size for path in folder.rglob("*.jpg")) / 1e6


def loaders(folder: Path, count: int) -> dict[str, Load]:
    """What is compared, each giving the images of the whole folder as one batch."""
    quiet = {"check": False}  # what is measured is an epoch, not the first look
    reduced = SeededBatches(image_folder(folder, SIZE, **quiet), (3, SIZE, SIZE), num_classes=None)
    cached_folder = image_folder(folder, SIZE, cache=folder.parent / "cache")
    cached = SeededBatches(cached_folder, (3, SIZE, SIZE), num_classes=None)
    prepare, paths = PrepareImage(SIZE, 3), sorted(folder.rglob("*.jpg"))
    shown = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.ToTensor()]
    theirs = datasets.ImageFolder(str(folder), transforms.Compose(shown))
    batch = Batch(tuple(range(count)), 0)
    return {
        "ours, reduced scale": lambda: reduced[batch][0],
        "ours, full scale": lambda: torch.stack([prepare(read_image(path)) for path in paths]),
        "torchvision ImageFolder": lambda: torch.stack([theirs[index][0] for index in range(count)]),
        "ours, from the cache": lambda: cached[batch][0],
    }


def seconds(load: Load, epochs: int) -> float:
    """The processor time of an epoch of one thread, which is what other work on the machine leaves alone."""
    started = time.process_time()
    for _ in range(epochs):
        load()
    return (time.process_time() - started) / epochs


def measured(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Images per second of each loader, and how far its images are from ours at full scale, in grey levels of 255."""
    compared, times = loaders(folder, count), {}
    full = compared["ours, full scale"]()
    for load in compared.values():
        load()
    for _ in range(rounds):
        for name, load in compared.items():
            epochs = CACHED_EPOCHS if "cache" in name else 1
            times.setdefault(name, []).append(seconds(load, epochs))
    slowest = statistics.median(times["ours, full scale"])
    figures = {}
    for name, taken in times.items():
        apart = 255 * (compared[name]() - full).abs()
        figures[name] = {
            "images_per_second": round(count / statistics.median(taken), 1),
            "each_round": [round(count / one, 1) for one in taken],
            "times_full_scale": round(slowest / statistics.median(taken), 2),
            "greys_apart": {"largest": round(float(apart.max()), 1), "mean": round(float(apart.mean()), 2)},
        }
    return figures


@contextlib.contextmanager
def folders(count: int) -> Iterator[dict[str, tuple[Path, float]]]:
    """A folder of each content, with the mean size of its files."""
    with tempfile.TemporaryDirectory() as place:
        yield {
            name: (
                Path(place) / name / "images",
                write_photographs(Path(place) / name / "images", slope, count),
            )
            for name, slope in CONTENTS.items()
        }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with folders(options.files) as contents:
        rows = {
            name: {"megabytes": round(size, 1), "loaders": measured(folder, options.files, options.rounds)}
            for name, (folder, size) in contents.items()
        }
    cells = [
        [
            f"{name}, {row['megabytes']} MB",
            loader,
            f"{figures['images_per_second']:,.0f}",
            f"{figures['times_full_scale']:,.1f}",
            f"{figures['greys_apart']['largest']:.0f}, {figures['greys_apart']['mean']:.2f}",
        ]
        for name, row in rows.items()
        for loader, figures in row["loaders"].items()
    ]
    print(table(["files", "", "images/s", "times full scale", "greys apart: largest, mean"], cells))
    here = machine(1, "cpu") | {"pillow": version("pillow"), "torchvision": version("torchvision")}
    report = {
        "command": "OMP_NUM_THREADS=1 python -m benchmarks.loading",
        "files": options.files,
        "rounds": options.rounds,
        "sides": SIDES,
        "image_size": SIZE,
        "quality": QUALITY,
        "machine": here,
        "contents": rows,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
