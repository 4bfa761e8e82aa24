"""The child: a process of its own that does one job whenever the parent says so."""

import importlib
import json
import signal
import statistics
import sys
from collections.abc import Iterator

import torch

from benchmarks.network_speed.clock import Memory, seconds, times
from benchmarks.network_speed.contenders import TRAINING, evaluation
from benchmarks.network_speed.jobs import Figures, Job
from benchmarks.network_speed.yardstick import count, measure_yardsticks
from ddpm.training.memory import keep_freed_memory

LONGEST = 1800  # seconds that a process may take to answer, compiling included
# Loaded first, so that their own memory does not count as the network's.
LOADED_FIRST = {
    "ours": ("ddpm.training.trainer",),
    "diffusers": ("diffusers.models.unets.unet_2d", "diffusers.schedulers.scheduling_ddpm"),
    "denoising-diffusion-pytorch": ("denoising_diffusion_pytorch",),
}


def measure_step(job: Job) -> Iterator[Figures]:
    """Time and memory of a training step or a network call, measured whenever they are asked for."""
    for module in LOADED_FIRST[job.implementation]:
        importlib.import_module(module)
    if job.implementation == "ours":
        keep_freed_memory()  # as the Trainer and the command do
    if job.mode == "compiled":
        importlib.import_module("torch._inductor.compile_fx")
    memory = Memory(job.device)
    step = TRAINING[job.implementation](job) if job.task == "train" else evaluation(job)
    first = seconds(step, job.device)
    while True:
        memory.forget_peak()  # the compiler's does not count
        step()  # warms up what the others have cooled
        taken = times(step, job)
        yield {
            "images_per_second": job.batch / statistics.median(taken),
            "peak_memory_mib": memory.growth(),
            "first_call_seconds": first,
            "steps": len(taken),
        }
        if job.device == "cuda":
            torch.cuda.empty_cache()  # the others need it


DUTIES = {"step": measure_step, "yardsticks": measure_yardsticks, "count": count}


def child(job: Job) -> None:
    """Answer each line from the parent with a line of figures."""
    torch.manual_seed(0)
    figures = DUTIES[job.kind](job)
    for _ in sys.stdin:
        signal.alarm(LONGEST)
        print(json.dumps(next(figures)), flush=True)
        signal.alarm(0)
