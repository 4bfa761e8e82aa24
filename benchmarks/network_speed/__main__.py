"""The command: `python -m benchmarks.network_speed`."""

import argparse
import json
import shlex
import signal
import sys
from pathlib import Path

import torch

import benchmarks.network_speed as package
from benchmarks.network_speed.child import child
from benchmarks.network_speed.clock import CALLS
from benchmarks.network_speed.jobs import IMPLEMENTATIONS, MODES, NETWORKS, PRECISIONS, TASKS, Figures, Job
from benchmarks.network_speed.picture import draw
from benchmarks.network_speed.rounds import Log, measure
from benchmarks.network_speed.summary import machine, merged, summarised
from benchmarks.network_speed.tables import tables, write_tables
from ddpm.training.precision import this_processor

FOLDER = Path(__file__).parents[1]


def at_least_one(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number of at least 1, but got {text!r}")
    return int(text)


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(package.__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument(
        "--implementations", nargs="+", choices=IMPLEMENTATIONS, default=list(IMPLEMENTATIONS)
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, help="float32; where it is native, also bf16"
    )
    parser.add_argument("--device", choices=tuple(CALLS), default="cpu")
    parser.add_argument(
        "--rounds", type=at_least_one, help="how often; 4 for the small network, 3 for the paper's"
    )
    parser.add_argument(
        "--steps", type=at_least_one, default=Job("").steps, help="at least so many in a round"
    )
    parser.add_argument("--seconds", type=float, default=Job("").seconds, help="at least so long in a round")
    parser.add_argument("--train-batches", type=at_least_one, nargs="+", help="images per training step")
    parser.add_argument("--evaluate-batches", type=at_least_one, nargs="+", help="images per network call")
    parser.add_argument(
        "--search", action="store_true", help="batches of 128, 256, … until the memory is full"
    )
    parser.add_argument("--threads", type=at_least_one, default=torch.get_num_threads())
    parser.add_argument("--compile-mode", default=Job("").compile_mode, help="of torch.compile")
    parser.add_argument("--out", type=Path, help="another JSON; the README and the picture then stay")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run of this --out that was stopped"
    )
    parser.add_argument("--redraw", action="store_true", help="tables and picture from the JSON alone")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search and options.device == "cpu":
        parser.error("--search looks for the limit of a GPU's memory: add --device cuda")
    half = options.device == "cuda" or this_processor().native_bf16
    options.precisions = options.precisions or PRECISIONS[: 1 + half]
    return options


def command_line(options: argparse.Namespace) -> str:
    """The command as one would repeat it; a run that was resumed counts as one."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    program = f"OMP_NUM_THREADS={options.threads} python -m benchmarks.network_speed"
    return " ".join([program, *map(shlex.quote, arguments)])


def show(report: Figures, options: argparse.Namespace) -> None:
    """Print the tables; those of the JSON that is committed also go to the README, and the picture with them."""
    print(tables(report))
    if options.out is None:
        write_tables(report, options.device)
        if options.device == "cpu":
            draw(report)


def main() -> None:
    """Measure, write, show."""
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers end as well
    if options.child:
        child(Job(**json.loads(options.child)))
        return
    committed = FOLDER / ("network_speed_cuda.json" if options.device == "cuda" else "network_speed.json")
    out = options.out or committed
    old = json.loads(out.read_text()) if out.exists() else {}
    if options.redraw and not old:
        raise SystemExit(f"{out} does not exist: measure first, without --redraw")
    if options.redraw:
        show(old, options)
        return
    here = machine(options.threads, options.device)
    if old and old["machine"] != here:
        raise SystemExit(
            f"{out} has figures of {old['machine']}, and this is {here}; delete it, or give --out"
        )
    path = FOLDER / "results" / f"{out.stem}.jsonl"
    path.parent.mkdir(exist_ok=True)
    if not options.resume:
        path.write_text("")
    log = Log(path, [json.loads(line) for line in path.read_text().splitlines()])
    measure(options, log)
    new = summarised(log.lines)
    report = merged(old, {"command": command_line(options), "machine": here} | new)
    out.write_text(json.dumps(report, indent=2) + "\n")
    show(report, options)


if __name__ == "__main__":
    main()
