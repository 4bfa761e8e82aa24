"""Who measures when: the workers, the log of what they found, and the rounds."""

import argparse
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.network_speed.jobs import NETWORKS, Figures, Job

ROOT = Path(__file__).resolve().parents[2]
CUDA_BATCH = 128  # the paper's
SEARCHED = tuple(CUDA_BATCH * 2**doubling for doubling in range(7))  # until the memory is full
# The line of a traceback that says why.
ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Exit)\b.*", re.MULTILINE)


class Worker:
    """A process that does one job as often as it is told to."""

    def __init__(self, job: Job, threads: int) -> None:
        # A cache of its own: every compilation is seen whole, and one that was cut off spoils no later run.
        self.cache = tempfile.TemporaryDirectory(prefix="network-speed-", ignore_cleanup_errors=True)
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": self.cache.name,
        }
        if job.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, "-m", "benchmarks.network_speed", "--child", json.dumps(asdict(job))]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed when the worker ends)
        self.process = subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            start_new_session=True,  # so that its compilers end with it
        )

    def measure(self) -> Figures:
        """The figures of a round; `{"error": …}` if the process has ended."""
        orders, answers = self.process.stdin, self.process.stdout
        assert orders is not None
        assert answers is not None
        with contextlib.suppress(BrokenPipeError):
            print(file=orders, flush=True)
            for line in answers:
                if line.startswith('{"'):  # and is not something that a package prints
                    return json.loads(line)
        status = self.process.wait()
        self.errors.seek(0)
        said = ERROR.findall(self.errors.read())
        return {"error": said[-1] if said else f"exit status {status}"}

    def end(self) -> None:
        """End the process and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        self.errors.close()
        self.cache.cleanup()


@dataclass
class Log:
    """What was measured: a line of JSON for each measurement in a file, and the same lines here.

    Attributes:
        path: the file.
        lines: what is in it.
    """

    path: Path
    lines: list[Figures]

    def has(self, number: int, job: Job) -> bool:
        """Whether the job was done in this round."""
        key = list(job.key)
        return any(
            line["round"] == number and line["key"] == key and "error" not in line for line in self.lines
        )

    def add(self, number: int, job: Job, figures: Figures, taken: float) -> None:
        """Write the figures down, and a word about them to stderr."""
        self.lines.append({"round": number, "key": list(job.key)} | figures)
        with self.path.open("a") as file:
            print(json.dumps(self.lines[-1]), file=file)
        words = ", ".join(
            f"{value if isinstance(value, str) else format(value, ',.4g')} {name}"
            for name, value in figures.items()
            if not isinstance(value, dict)
        )
        print(f"round {number + 1}: {job}: {words} ({taken:.0f} s)", file=sys.stderr, flush=True)


def comparisons(network: str, options: argparse.Namespace) -> Iterator[list[Job]]:
    """The jobs that are compared with each other, in groups; the yardsticks come first in each."""
    base = Job(
        "step",
        network,
        device=options.device,
        compile_mode=options.compile_mode,
        steps=options.steps,
        seconds=options.seconds,
    )
    for task, mode, precision in itertools.product(options.tasks, options.modes, options.precisions):
        for batch in batches(network, task, options):
            job = replace(base, task=task, mode=mode, precision=precision, batch=batch)
            yield [
                replace(job, kind="yardsticks", seconds=min(1.0, job.seconds)),
                *(replace(job, implementation=name) for name in options.implementations),
            ]


def batches(network: str, task: str, options: argparse.Namespace) -> Sequence[int]:
    """The batch sizes, smallest first."""
    chosen = options.train_batches if task == "train" else options.evaluate_batches
    if chosen:
        return sorted(chosen)
    if options.search:
        return SEARCHED
    return [CUDA_BATCH if options.device == "cuda" else NETWORKS[network].batches[task]]


def measure(options: argparse.Namespace, log: Log) -> None:
    """Do all jobs that are not in the log.

    Raises:
        SystemExit: if the networks are not alike.
    """
    for network in options.networks:
        job = Job("count", network)
        figures = in_turn([job], 1, options.threads, log)
        if figures:
            raise SystemExit(f"the networks cannot be compared: {figures[job.key]}")
    too_large: set[tuple[Any, ...]] = set()  # for these, memory did not suffice at a smaller batch
    for network in options.networks:
        for jobs in comparisons(network, options):
            left = [job for job in jobs if replace(job, batch=0).key not in too_large]
            errors = in_turn(left, options.rounds or NETWORKS[network].rounds, options.threads, log)
            too_large |= {replace(job, batch=0).key for job in left if "memory" in errors.get(job.key, "")}


def in_turn(jobs: Sequence[Job], rounds: int, threads: int, log: Log) -> dict[tuple[Any, ...], str]:
    """Do some jobs round after round, each first in turn, except what the log has.

    Returns:
        The errors by key; a job that failed is not tried again.
    """
    workers: dict[Job, Worker] = {}
    errors: dict[tuple[Any, ...], str] = {}
    try:
        for number in range(rounds):
            first = number % len(jobs)
            for job in [*jobs[first:], *jobs[:first]]:
                if log.has(number, job) or job.key in errors:
                    continue
                started = time.monotonic()
                if job not in workers:
                    workers[job] = Worker(job, threads)
                figures = workers[job].measure()
                if "error" in figures:
                    errors[job.key] = figures["error"]
                log.add(number, job, figures, time.monotonic() - started)
    finally:
        for worker in workers.values():
            worker.end()
    return errors
