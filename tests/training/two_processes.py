"""What test_two_processes.py runs under torchrun: train some updates, resume, draw samples."""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from tests import runs


def main() -> None:
    """Train in the folder of argument 1, with batches of argument 2 per process; a second time from half-way."""
    folder, batch = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    settings = {
        "train_batch_size": batch,
        "train_lr": 1e-3,
        "num_samples": 5,
        "gradient_accumulate_every": 2,
        "ema_update_every": 1,
    }
    shape = {"self_condition": True, "num_classes": 10}
    runs.trainer(folder, runs.model(network=shape), train_num_steps=4, **settings).train()
    trainer = runs.trainer(folder, runs.model(network=shape), train_num_steps=6, **settings)
    trainer.resume()
    rank = PartialState().process_index
    mine = {"rank": rank, "sum": float(runs.weights(trainer.diffusion).double().sum()), "step": trainer.step}
    (folder / f"rank-{rank}.json").write_text(json.dumps(mine))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
