"""Two processes (gloo, on the CPU) do what one does with twice the batch; as a program, this is each of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.functional import pil_to_tensor

from ddpm.io.checkpoint import list_checkpoints
from ddpm.training.metrics_logger import read_metrics
from tests import runs

ROOT = Path(__file__).parents[2]


def train(folder: Path, batch: int) -> None:
    """Train until Ctrl-C comes to the last process in the third of six updates; then resume and draw samples."""
    settings = {"gradient_accumulate_every": 2, "ema_update_every": 1, "num_samples": 5, "train_lr": 1e-3}
    settings |= {"train_batch_size": batch, "train_num_steps": 6}
    settings |= {"gradient_checkpointing": True, "extra_ema_decays": (0.9,)}
    shape = {"self_condition": True, "num_classes": 10, "label_dropout": 0.5}
    first, second = (runs.trainer(folder, runs.model(network=shape), **settings) for _ in range(2))
    state, step = PartialState(), first.training_step

    def interrupted(*args):
        if first.step == 2 and state.is_last_process:
            signal.raise_signal(signal.SIGINT)
        return step(*args)

    first.training_step = interrupted
    with contextlib.suppress(KeyboardInterrupt):
        first.train()
    second.resume()
    total = float(runs.weights(second.diffusion).double().sum())
    said = {"stopped": first.step, "sum": total, "step": second.step}
    (folder / f"rank-{state.process_index}.json").write_text(json.dumps(said))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    train(one, 8)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--module", "tests.training.test_two_processes", str(two)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return one, two


@pytest.mark.slow
def test_two_processes_learn_the_weights_of_one_with_twice_the_batch(folders):
    saved = [list_checkpoints(folder) for folder in folders]
    assert [path.name[-1] for path in saved[0]] == ["3", "4", "6"]
    for name in ("model", "ema", "ema-0.9"):
        for paths in zip(*saved, strict=True):
            one, two = (load_file(path / f"{name}.safetensors") for path in paths)
            torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
        begun = load_file(saved[0][0] / f"{name}.safetensors")
        assert max(float((one[key] - begun[key]).abs().max()) for key in one) > 1e-3  # something was learnt


@pytest.mark.slow
def test_two_processes_write_the_metrics_and_samples_of_one(folders):
    for one, two in zip(*map(read_metrics, folders), strict=True):
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
def test_two_processes_hold_one_model_and_stop_together(folders):
    said = [json.loads((folders[1] / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0] == said[1]
    assert (said[0]["stopped"], said[0]["step"]) == (3, 6)
    random = load_file(list_checkpoints(folders[1])[-1] / "random.safetensors")
    assert not torch.equal(random["0.cpu"], random["1.cpu"])  # each has a dropout of its own


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), 4)
    PartialState().destroy_process_group()
