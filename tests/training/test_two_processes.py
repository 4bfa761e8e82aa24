"""Two processes (gloo, on the CPU) do what one does with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.functional import pil_to_tensor

from ddpm.io.checkpoint import list_checkpoints
from ddpm.training.metrics_logger import read_metrics

ROOT = Path(__file__).parents[2]


def launch(processes: int, *arguments: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    script = [str(Path(__file__).with_name("two_processes.py")), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command + script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    launch(1, one, 8)
    launch(2, two, 4)
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "ema"])
@pytest.mark.parametrize("step", [-3, -2, -1])
def test_two_processes_learn_the_weights_of_one_with_twice_the_batch(folders, name, step):
    one, two = (load_file(list_checkpoints(folder)[step] / f"{name}.safetensors") for folder in folders)
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-5)
    begun = load_file(list_checkpoints(folders[0])[0] / f"{name}.safetensors")
    if step != -3:
        assert max(float((one[key] - begun[key]).abs().max()) for key in one) > 1e-3  # something was learnt


@pytest.mark.slow
def test_two_processes_write_the_metrics_and_samples_of_one(folders):
    records = [read_metrics(folder) for folder in folders]
    for one, two in zip(*records, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-3)
        assert (one["step"], one["images"]) == (two["step"], two["images"])
    grids = []
    for folder in folders:
        with Image.open(folder / "samples" / "step-00000006.png") as image:
            grids.append(pil_to_tensor(image).int())
    assert (grids[0] - grids[1]).abs().max() <= 1  # of 255
    assert grids[0].float().std() > 10


@pytest.mark.slow
def test_two_processes_hold_one_model(folders):
    sums = [json.loads((folders[1] / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert sums[0]["sum"] == sums[1]["sum"]
    assert sums[0]["step"] == sums[1]["step"] == 6
    state = json.loads((list_checkpoints(folders[1])[-1] / "state.json").read_text())
    assert len(state["random"]) == 2
    random = load_file(list_checkpoints(folders[1])[-1] / "random.safetensors")
    assert not torch.equal(random["0.cpu"], random["1.cpu"])  # each has a dropout of its own
