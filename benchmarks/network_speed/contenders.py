"""The contenders: how each builds its network, takes a training step and calls the network."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.network_speed.jobs import NETWORKS, PEERS, Job, Network

Step = Callable[[], object]


def our_unet(network: Network) -> nn.Module:
    """Ours, as it comes."""
    from ddpm import Unet

    return Unet(**network.unet)


def diffusers_unet(network: Network) -> nn.Module:
    """Our architecture in diffusers: the same layers with the same sizes."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    channels, side, _ = network.shape
    mults = network.unet["dim_mults"]
    attend = network.unet.get("attention_resolutions", (2 ** (len(mults) - 1),))
    with_attention = [2**level in attend for level in range(len(mults))]
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(network.unet["dim"] * mult for mult in mults),
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in with_attention),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(with_attention)),
        layers_per_block=network.unet.get("num_res_blocks", 2),
        attention_head_dim=None,  # one head
        norm_num_groups=network.unet.get("resnet_block_groups", 8),
        norm_eps=1e-6,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
        dropout=network.unet.get("dropout", 0.0),
    )


def peer_unet(network: Network) -> nn.Module:
    """The network of denoising-diffusion-pytorch."""
    from denoising_diffusion_pytorch import Unet

    return Unet(**network.peer)


UNETS = {"ours": our_unet, "diffusers": diffusers_unet, "denoising-diffusion-pytorch": peer_unet}


def compiled(network: nn.Module, job: Job) -> Any:
    """The network as it is run."""
    return torch.compile(network, mode=job.compile_mode) if job.mode == "compiled" else network


def in_precision(job: Job) -> torch.autocast:
    """Mixed precision, if the job wants it."""
    return torch.autocast(job.device, dtype=torch.bfloat16, enabled=job.precision == "bf16")


def our_training(job: Job) -> Step:
    """A step of our `Trainer`, which keeps no average here."""
    from torch.utils.data import TensorDataset

    from ddpm import GaussianDiffusion, Trainer

    spec = NETWORKS[job.network]
    images = torch.rand(job.batch, *spec.shape)
    trainer = Trainer(
        GaussianDiffusion(our_unet(spec), image_size=spec.shape[1:]),
        TensorDataset(images),
        train_batch_size=job.batch,
        mixed_precision="bf16" if job.precision == "bf16" else "no",
    )
    del trainer.averages
    batches = itertools.repeat((images.to(job.device), None))
    running = ExitStack()  # kept with the step: when it closes, the network is itself again
    network = compiled(running.enter_context(trainer.running()), job)

    def step(_: object = running) -> None:
        trainer.training_step(network, batches)
        trainer.step += 1

    return step


def diffusers_training(job: Job) -> Step:
    """A step as in diffusers' examples/unconditional_image_generation/train_unconditional.py."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    spec = NETWORKS[job.network]
    clean = 2 * torch.rand(job.batch, *spec.shape, device=job.device) - 1
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    network = diffusers_unet(spec).to(job.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    run = compiled(network, job)

    def step() -> None:
        noise = torch.randn_like(clean)
        t: Any = torch.randint(0, 1000, (job.batch,), device=job.device)
        noisy = scheduler.add_noise(clean, noise, t)
        with in_precision(job):
            output = run(noisy, t).sample
        F.mse_loss(output.float(), noise).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def peer_training(job: Job) -> Step:
    """A step as in the `Trainer` of denoising-diffusion-pytorch."""
    from denoising_diffusion_pytorch import GaussianDiffusion

    spec = NETWORKS[job.network]
    images = torch.rand(job.batch, *spec.shape, device=job.device)
    network = peer_unet(spec)
    diffusion = GaussianDiffusion(network, image_size=spec.shape[1]).to(job.device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.9, 0.99))
    diffusion.model = compiled(network, job)

    def step() -> None:
        with in_precision(job):
            loss = diffusion(images)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


TRAINING = {
    "ours": our_training,
    "diffusers": diffusers_training,
    "denoising-diffusion-pytorch": peer_training,
}


def evaluation(job: Job) -> Step:
    """A network call, as the samplers of each make it."""
    spec = NETWORKS[job.network]
    network = UNETS[job.implementation](spec).to(job.device).eval()
    run = compiled(network, job)
    x_t = torch.randn(job.batch, *spec.shape, device=job.device)
    t = torch.full((job.batch,), 500, device=job.device)
    # The pipelines of diffusers and our samplers use no_grad, denoising-diffusion-pytorch uses inference_mode.
    without_gradients = torch.inference_mode if job.implementation == PEERS[1] else torch.no_grad

    def step() -> None:
        with without_gradients(), in_precision(job):
            run(x_t, t)

    return step
