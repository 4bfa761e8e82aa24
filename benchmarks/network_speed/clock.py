"""Time and memory, as a process sees them from inside."""

import contextlib
import resource
import sys
import time
from pathlib import Path

import torch

from benchmarks.network_speed.contenders import Step
from benchmarks.network_speed.jobs import Job

CALLS = {"cpu": 1, "cuda": 10}  # steps between two looks at the clock, for which a GPU must have finished
MIB = 2**20


class Memory:
    """Memory beyond what the process had at the start; on the CPU it is the resident set."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.forget_peak()
        self.start = self.peak()

    def forget_peak(self) -> None:
        """Let the peak be what is in use now, where the system can do that."""
        if self.device == "cuda":
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """The peak in bytes."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        with contextlib.suppress(OSError):
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def growth(self) -> float:
        """The peak above the start, in MiB."""
        return (self.peak() - self.start) / MIB


def seconds(step: Step, device: str, calls: int = 1) -> float:
    """The time of a step, as the mean of so many."""
    started = time.perf_counter()
    for _ in range(calls):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / calls


def times(step: Step, job: Job) -> list[float]:
    """Times of single steps, as many as the job asks for."""
    taken: list[float] = []
    calls = CALLS[job.device]
    while len(taken) < job.steps or sum(taken) * calls < job.seconds:
        taken.append(seconds(step, job.device, calls))
    return taken
