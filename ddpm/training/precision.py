"""In which precision a machine computes best: what it multiplies natively, and what it is refused."""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env

from ddpm.diffusion import GaussianDiffusion
from ddpm.io.pretrained import plain_diffusion
from ddpm.support.buffers import HALVES
from ddpm.training.config import MixedPrecision, TrainingConfig


@dataclass(frozen=True)
class Processor:
    """What the choice depends on.

    Attributes:
        kind: torch's word for it: "cpu", "cuda" (of AMD, too), "mps", …
        native_bf16: whether it multiplies bfloat16 itself: GPUs from compute capability 8.0 on, and CPUs with
            AVX512-BF16 or AMX. Others emulate it, a GPU slower than float32 and a CPU ten times as slow.
    """

    kind: str
    native_bf16: bool


def choose_precision(processor: Processor) -> MixedPrecision:
    """bf16 where it is native; fp16, with its loss scaler, on other GPUs; else float32."""
    if processor.kind not in ("cpu", "cuda"):
        return "no"
    if processor.native_bf16:
        return "bf16"
    return "fp16" if processor.kind == "cuda" else "no"


def this_processor() -> Processor:
    """The one that a training run on this machine takes."""
    if not parse_flag_from_env("ACCELERATE_USE_CPU"):
        if torch.cuda.is_available():
            # Unless asked so, torch counts the cards that emulate it, such as Colab's T4.
            return Processor("cuda", torch.cuda.is_bf16_supported(including_emulation=False))
        if torch.accelerator.is_available():
            accelerator = torch.accelerator.current_accelerator()
            return Processor("cpu" if accelerator is None else accelerator.type, native_bf16=False)
    # Not every version of torch has both questions.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return Processor("cpu", any(getattr(torch.cpu, name, bool)() for name in names))


def with_precision(config: TrainingConfig) -> TrainingConfig:
    """The config with what "auto" stands for here, as which it is kept with every checkpoint."""
    if config.mixed_precision != "auto":
        return config
    return replace(config, mixed_precision=choose_precision(this_processor()))


def sampling_precision(asked: MixedPrecision, checked: Collection[str]) -> MixedPrecision:
    """What samples are drawn in: what is `asked` for.

    "auto" is what this machine is best at if the model's samples were `checked` in it, else "no".
    """
    if asked == "auto":
        best = choose_precision(this_processor())
        return best if best in checked else "no"
    if asked == "fp16" and this_processor().kind == "cpu":
        raise ValueError("fp16 is for GPUs, and there is none here; choose 'bf16' or 'no'")
    return asked


def computing_in(precision: MixedPrecision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Convolutions and products in this precision, the rest in float32."""
    if precision == "no":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def trainable(diffusion: GaussianDiffusion) -> GaussianDiffusion:
    """The model as the trainer takes it: the plain one of a compiled one.

    Raises:
        TypeError: if it is no `GaussianDiffusion`, such as a bare network.
        ValueError: if its weights are in half precision, in which most updates would round to nothing, or all frozen,
            or of inference mode.
    """
    diffusion = plain_diffusion(diffusion, "Trainer")
    halves = {str(weight.dtype) for weight in diffusion.parameters() if weight.dtype in HALVES}
    if halves:
        raise ValueError(
            f"the model's weights are {' and '.join(sorted(halves))}, in which most updates would round to nothing:"
            " give diffusion.float(), and mixed_precision='auto' to compute in half precision"
        )
    if not any(weight.requires_grad for weight in diffusion.parameters()):
        raise ValueError(
            "the model has no weight to train: all are frozen (requires_grad=False), as those of trainer.ema_model;"
            " give diffusion.requires_grad_(True)"
        )
    if torch.is_inference_mode_enabled() or any(weight.is_inference() for weight in diffusion.parameters()):
        raise ValueError(
            "tensors that are made in torch.inference_mode() cannot be trained: make the model, and the Trainer,"
            " outside of it"
        )
    return diffusion
