"""Whole published models: the folder of a diffusers `DDPMPipeline`, network and noise schedule, in and out."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ddpm.diffusion import GaussianDiffusion
from ddpm.io.diffusers import find_files, load_diffusers_unet, save_diffusers_unet
from ddpm.io.files import json_bytes, write_whole
from ddpm.io.paths import CONFIG, DIFFUSERS_INDEX, check_folder_name, refuse_run
from ddpm.io.pretrained import has_own_schedule, plain_diffusion
from ddpm.io.weights import read_file, unwrapped
from ddpm.latent import LatentDiffusion
from ddpm.schedule import BETA_SCHEDULES, NoiseSchedule

_SCHEDULER = "scheduler_config.json"
_OBJECTIVES = {"epsilon": "pred_noise", "sample": "pred_x0", "v_prediction": "pred_v"}
# What `DDPMScheduler` takes where its configuration says nothing.
_DEFAULTS: dict[str, Any] = (
    {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    | {"trained_betas": None, "variance_type": "fixed_small", "prediction_type": "epsilon"}
    | {"clip_sample": True, "clip_sample_range": 1.0, "thresholding": False, "rescale_betas_zero_snr": False}
)
# What every `GaussianDiffusion` does: x_0 is clipped to [-1, 1], and some signal is left at T.
_FIXED = {
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
}
# Their β of the same name are rounded to float32.
_SAME_BETAS = 1e-6


def load_diffusers_pipeline(name_or_folder: str | os.PathLike[str], **options: Any) -> GaussianDiffusion:
    """A published model, ready to sample, in evaluation mode on the CPU: its network, schedule and variance.

    The paper's model for CIFAR-10 with the paper's sampler:

        load_diffusers_pipeline("google/ddpm-cifar10-32").sample(16)

    Its samples are those that a `DDPMPipeline` would draw in as many steps as it was trained with. A schedule that has
    no name here is kept as it is; such a model samples and trains, but `save_pretrained` does not take it.

    Args:
        name_or_folder: a folder as `DDPMPipeline.save_pretrained` and `save_diffusers_pipeline` write it, or as the
            paper's networks were published, with all files side by side; or its name on the Hugging Face Hub.
        options: further arguments of `GaussianDiffusion`, such as `sampling_timesteps`. `image_size` is needed only
            where the network's configuration does not say it.

    Raises:
        FileNotFoundError: if there is no such folder or name, or a file is missing.
        ValueError: if network or scheduler do what this package does not, with everything that is wrong.
    """
    (scheduler_file,) = find_files(name_or_folder, [_SCHEDULER], ("scheduler", ""))
    scheduler, unet_file = read_file(scheduler_file), find_files(name_or_folder, [CONFIG])[0]
    network = load_diffusers_unet(name_or_folder)
    problems = list(_problems(scheduler, learned=network.learned_variance))
    if problems:
        raise ValueError(
            f"the scheduler of {name_or_folder} does what is not done here: {'; '.join(problems)}"
        )
    options = {"image_size": read_file(unet_file).get("sample_size")} | options
    if options["image_size"] is None:
        raise ValueError(
            f"{unet_file} gives no sample_size: say image_size=… , the side of the images in pixels"
        )
    scheduler = _DEFAULTS | scheduler
    betas = _betas_of(scheduler)
    name = _name_of(betas)
    told = {
        "timesteps": len(betas),
        "objective": _OBJECTIVES[scheduler["prediction_type"]],
        "beta_schedule": name or "cosine",
        "variance": None if network.learned_variance else scheduler["variance_type"],
    }
    diffusion = GaussianDiffusion(network, **(told | options))
    if name is None:
        diffusion.schedule = NoiseSchedule(betas)
    return diffusion.eval()


def save_diffusers_pipeline(diffusion: GaussianDiffusion, folder: str | os.PathLike[str]) -> None:
    """Write a folder that `diffusers.DDPMPipeline.from_pretrained` and `load_diffusers_pipeline` read.

    It is made if it does not exist; each of its files appears whole or not at all, `model_index.json` last. What a
    pipeline has no place for is not in it: sampler, spacing, number of steps, loss. A pipeline takes 1000 steps unless
    it is told: for another T, `pipeline(num_inference_steps=T)`.

    Raises:
        TypeError: if it is not a `GaussianDiffusion` of a `Unet`.
        ValueError: if the network has an option that their layout does not have; or if it takes labels, predicts the
            velocity of flow matching or draws codes, which a `DDPMPipeline` does not; `save_diffusers_unet` writes the
            network of such a model by itself.
        FileExistsError: if it is the folder of a run.
    """
    diffusion = plain_diffusion(diffusion, "save_diffusers_pipeline")
    refused = [why for why, found in _beyond_a_pipeline(diffusion).items() if found]
    if refused:
        raise ValueError(
            f"{refused[0]}: save_diffusers_unet(diffusion.network, folder) writes the network by itself"
        )
    folder = check_folder_name(folder)
    refuse_run(folder)
    height, width = diffusion.image_size
    size = height if height == width else [height, width]
    save_diffusers_unet(unwrapped(diffusion.network), folder / "unet", sample_size=size)
    (folder / "scheduler").mkdir(exist_ok=True)
    write_whole(folder / "scheduler" / _SCHEDULER, json_bytes(_scheduler_config(diffusion)))
    parts = {"unet": "UNet2DModel", "scheduler": "DDPMScheduler"}
    index = {"_class_name": "DDPMPipeline"} | {part: ["diffusers", kind] for part, kind in parts.items()}
    write_whole(folder / DIFFUSERS_INDEX, json_bytes(index))


def _beyond_a_pipeline(diffusion: GaussianDiffusion) -> dict[str, bool]:
    """What a `DDPMPipeline` cannot be told, and whether the model has it."""
    labelled = getattr(diffusion.network, "num_classes", None) is not None
    return {
        "a DDPMPipeline draws without labels, and this network takes some": labelled,
        "a DDPMPipeline draws images, and this model draws codes": isinstance(diffusion, LatentDiffusion),
        f"a DDPMScheduler has no {diffusion.objective!r}": diffusion.objective not in _OBJECTIVES.values(),
    }


def _scheduler_config(diffusion: GaussianDiffusion) -> dict[str, Any]:
    """The configuration of the `DDPMScheduler` that takes the model's ancestral steps."""
    timesteps = diffusion.schedule.timesteps
    config = {"_class_name": "DDPMScheduler"} | _DEFAULTS | {"num_train_timesteps": timesteps}
    named = None if has_own_schedule(diffusion) else diffusion.beta_schedule
    if named == "linear":
        betas = BETA_SCHEDULES["linear"](timesteps)
        config |= {"beta_start": betas[0].item(), "beta_end": betas[-1].item()}
    elif named == "cosine":
        config["beta_schedule"] = "squaredcos_cap_v2"
    else:
        alpha_bar = diffusion.schedule.exact_alpha_bar
        config["trained_betas"] = (1 - alpha_bar[1:] / alpha_bar[:-1]).tolist()
    theirs = {ours: name for name, ours in _OBJECTIVES.items()}
    config["prediction_type"] = theirs[diffusion.objective]
    config["variance_type"] = (
        "learned_range" if diffusion.learned_variance else diffusion.variance or "fixed_small"
    )
    return config


def _problems(config: Any, *, learned: bool) -> Iterator[str]:
    """What a scheduler does that a `GaussianDiffusion` cannot be told."""
    if not isinstance(config, Mapping):
        yield "its configuration is not a mapping"
        return
    kind = config.get("_class_name", "DDPMScheduler")
    if kind != "DDPMScheduler":
        yield f"it is a {kind}, not a DDPMScheduler: load_diffusers_unet loads the network by itself"
    options = {**_DEFAULTS, **config}
    for name, value in _FIXED.items():
        if options[name] != value:
            yield f"{name} is {options[name]!r} but must be {value!r}"
    variances = ["learned_range"] if learned else ["fixed_small", "fixed_large"]
    allowed = {
        "prediction_type": list(_OBJECTIVES),
        "variance_type": variances,
        "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"],
    }
    for name, values in allowed.items():
        if options[name] not in values:
            yield f"{name} is {options[name]!r} but must be {' or '.join(map(repr, values))}"


def _betas_of(config: Mapping[str, Any]) -> Tensor:
    """β_1 … β_T of a scheduler, in float64, shape (T,)."""
    timesteps, low, high = (config[name] for name in ("num_train_timesteps", "beta_start", "beta_end"))
    if config["trained_betas"] is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64, device="cpu")
    if config["beta_schedule"] == "squaredcos_cap_v2":
        return BETA_SCHEDULES["cosine"](timesteps)
    power = 0.5 if config["beta_schedule"] == "scaled_linear" else 1.0
    powers = torch.linspace(low**power, high**power, timesteps, dtype=torch.float64, device="cpu")
    return powers ** (1 / power)


def _name_of(betas: Tensor) -> str | None:
    """The schedule of this package that these are, but for rounding; None if there is no such."""
    for name, betas_of in BETA_SCHEDULES.items():
        if torch.allclose(betas_of(len(betas)), betas, rtol=_SAME_BETAS, atol=0):
            return name
    return None
