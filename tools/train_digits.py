"""Train the model of `checkpoints/digits`: a few minutes on two CPU cores.

    python tools/train_digits.py

It learns from the first 1,500 of scikit-learn's digits; the last 297 are held out, and the book measures the
variational bound on them. The folder then holds the averaged weights, the configuration and the figures of the run.
"""

import copy
import json
import platform
import time
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from ddpm import GaussianDiffusion, Unet, save_pretrained, to_model_scale
from ddpm.data import digits

TRAINING_IMAGES = 1500
STEPS = 4000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
EMA_DECAY = 0.998
FOLDER = Path(__file__).parents[1] / "checkpoints" / "digits"


def held_out_loss(diffusion: GaussianDiffusion, images: torch.Tensor) -> float:
    """The training loss on unseen images, each at 16 evenly spread timesteps; the same noise at every call."""
    generator = torch.Generator().manual_seed(0)
    x0 = to_model_scale(images).repeat(16, 1, 1, 1)
    t = torch.linspace(1, diffusion.schedule.timesteps, len(x0)).long()
    t = t[torch.randperm(len(t), generator=generator)]
    with torch.no_grad():
        return float(diffusion.eval().loss(x0, t, generator=generator))


def main() -> None:
    """Train, print the progress, write the folder."""
    torch.manual_seed(0)
    images = digits().tensors[0]
    training, held_out = images[:TRAINING_IMAGES], images[TRAINING_IMAGES:]
    network = Unet(24, dim_mults=(1, 2), channels=1, num_res_blocks=1, dropout=0.1)
    diffusion = GaussianDiffusion(network, image_size=8, objective="pred_v", beta_schedule="cosine")
    ema = AveragedModel(diffusion, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    shipped = copy.deepcopy(diffusion)  # takes the averaged weights whenever they are looked at
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=STEPS, pct_start=0.05, cycle_momentum=False
    )
    data = TensorDataset(training)
    sampler = RandomSampler(data, replacement=False, num_samples=STEPS * BATCH_SIZE)
    started = time.monotonic()
    for step, (batch,) in enumerate(DataLoader(data, BATCH_SIZE, sampler=sampler), start=1):
        loss = diffusion(batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rate.step()
        ema.update_parameters(diffusion)
        if step % 250 == 0:
            shipped.load_state_dict(ema.module.state_dict())
            unseen = held_out_loss(shipped, held_out)
            print(f"step {step}  loss {loss.item():.4f}  held out {unseen:.4f}", flush=True)
    shipped.load_state_dict(ema.module.state_dict())
    save_pretrained(shipped, FOLDER)
    run = {
        "training_images": TRAINING_IMAGES,
        "steps": STEPS,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "ema_decay": EMA_DECAY,
        "seconds": round(time.monotonic() - started),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "held_out_loss": round(held_out_loss(shipped, held_out), 4),
    }
    (FOLDER / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
