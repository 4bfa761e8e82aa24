"""Everything that a resumed run needs: the tensors, the counters and the random states, out of a trainer and back."""

import random
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, set_seed
from torch import Tensor

from ddpm.data.batches import SeededBatches
from ddpm.diffusion import GaussianDiffusion
from ddpm.io.checkpoint import Checkpoint
from ddpm.io.files import sha256
from ddpm.io.paths import expanded
from ddpm.io.pretrained import model_config
from ddpm.io.weights import load_weights, weights_of
from ddpm.schedule import NoiseSchedule
from ddpm.training.average import Averages
from ddpm.training.config import FREE_TO_CHANGE, TrainingConfig
from ddpm.training.sampler import Purpose, mixed_seed
from ddpm.version import __version__

COUNTERS = ("step", "images_seen", "seconds")
# Training does not depend on them.
SAMPLING_ONLY = {
    "sampling_timesteps",
    "ddim_sampling_eta",
    "sampler",
    "spacing",
    "class_names",
    "variance",
}


class Training(Protocol):
    """What a run consists of, as the `Trainer` holds it."""

    config: TrainingConfig
    diffusion: GaussianDiffusion
    folder_or_dataset: Any
    data: SeededBatches
    averages: Averages
    optimizer: Any
    accelerator: PartialState
    scaler: torch.amp.GradScaler
    step: int
    images_seen: int
    seconds: float


def gather_state(training: Training) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What a checkpoint holds: its tensors and its documents, by file. Every process has to call this."""
    generators = gather_object([_random_states()])
    tensors = {
        "model": weights_of(training.diffusion.network),
        **{name: weights_of(network) for name, network in _averaged(training)},
        "optimizer": _optimizer_tensors(training.optimizer),
        "random": {f"{rank}.{name}": x for rank, (xs, _) in enumerate(generators) for name, x in xs.items()},
    }
    state = {name: getattr(training, name) for name in COUNTERS} | {
        "averaged": int(training.averages.first.n_averaged),
        "schedule": _checksum(training.diffusion.schedule),
        "scaler": training.scaler.state_dict() or None,
        "random": [others for _, others in generators],
    }
    return tensors, {"config": _described(training), "state": state}


def _averaged(training: Training) -> list[tuple[str, Any]]:
    """The names of the averages, with the networks that hold them."""
    return [(name, average.module.network) for name, average in training.averages.models.items()]


def _described(training: Training) -> dict[str, Any]:
    """The whole configuration, and the versions of what it ran on."""
    source = training.folder_or_dataset
    name = str(expanded(source).absolute()) if isinstance(source, str | Path) else type(source).__name__
    others = {package: version(package) for package in ("torch", "accelerate", "numpy")}
    return model_config(training.diffusion) | {
        "training": training.config.to_json(),
        "data": {"source": name, "images": len(training.data)},
        "processes": training.accelerator.num_processes,
        "device": str(training.accelerator.device),
        "versions": {"ddpm": __version__} | others,
    }


def restore_state(training: Training, saved: Checkpoint) -> None:
    """Put everything back as a checkpoint of this model has it, the random states of this process included."""
    _check_same_model(saved, training.diffusion)
    _warn_of_changes(saved.documents["config"], _described(training))
    state = saved.documents["state"]
    for name, network in (("model", training.diffusion.network), *_averaged(training)):
        # An average that the run did not keep begins with the weights as they are.
        kept = saved.tensors["model"] if name.startswith("ema-") else saved.tensors[name]
        load_weights(network, saved.tensors.get(name, kept), f"{saved.folder} does not fit the model")
    for average in training.averages.models.values():
        average.n_averaged.fill_(state["averaged"])
    _restore_optimizer(training.optimizer, saved.tensors["optimizer"])
    if state["scaler"]:
        training.scaler.load_state_dict(state["scaler"])
    for name in COUNTERS:
        setattr(training, name, state[name])
    rank = training.accelerator.process_index
    if rank < len(state["random"]):
        _restore_random_states(saved.tensors["random"], rank, state["random"][rank])
    else:  # a process that the run did not have before
        set_seed(mixed_seed(Purpose.PROCESS, training.config.seed, training.step, rank) % 2**31)


def _check_same_model(saved: Checkpoint, diffusion: GaussianDiffusion) -> None:
    """Refuse the checkpoint of another model, naming the differences."""
    before, now = saved.documents["config"], model_config(diffusion)
    differences = [line for part in now for line in _differences(before[part], now[part], SAMPLING_ONLY)]
    schedule = _checksum(diffusion.schedule)
    # Earlier versions kept none.
    if saved.documents["state"].get("schedule", schedule) != schedule:
        differences.append("its schedule had another table alpha_bar")
    if differences:
        raise ValueError(
            f"{saved.folder} is the checkpoint of another model: {'; '.join(differences)}. Build the model as it was,"
            " or choose another results_folder"
        )


def _checksum(schedule: NoiseSchedule) -> str:
    """What tells a schedule from any other, but for rounding."""
    return sha256(" ".join(f"{alpha_bar:.8g}" for alpha_bar in schedule.exact_alpha_bar.tolist()).encode())


def _warn_of_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Say what makes the rest of the run another one than it would have been, by the `config.json` of both."""
    stretches = now["training"]["lr_schedule"] == "cosine"  # its end is the last update
    free = FREE_TO_CHANGE - ({"train_num_steps"} if stretches else set())
    old, new = (
        said["training"] | {key: said[key] for key in ("processes", "data")} for said in (before, now)
    )
    source = old["data"]["source"]
    if str(expanded(source).absolute()) == new["data"]["source"]:  # earlier versions kept it as it was given
        old["data"] = old["data"] | {"source": new["data"]["source"]}
    if changes := _differences(old, new, free):
        warnings.warn(f"the run goes on with other settings: {'; '.join(changes)}", stacklevel=4)


def _differences(before: dict[str, Any], now: dict[str, Any], free: set[str]) -> list[str]:
    """What is no longer as it was, apart from what is `free` to change."""
    changed = [key for key, old in before.items() if key not in free and now.get(key) != old]
    return [f"{key} was {before[key]!r} and is {now.get(key)!r}" for key in changed]


def _optimizer_tensors(optimizer: Any) -> dict[str, Tensor]:
    """The optimiser's tensors by name: `12.exp_avg` is that of parameter 12."""
    states = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, state in states.items() for name, value in state.items()}


def _restore_optimizer(optimizer: Any, tensors: dict[str, Tensor]) -> None:
    """The optimiser's tensors put back, each in the memory layout of its parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        shaped = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        states.setdefault(int(index), {})[key] = shaped.detach()
    # Learning rate, betas and weight decay are those of this trainer, not those of the checkpoint.
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of this process's global generators, as tensors and as JSON."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (it is saved because data sets may use it)
    return tensors, {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}


def _restore_random_states(tensors: dict[str, Tensor], rank: int, others: dict[str, Any]) -> None:
    """The states of this process's global generators put back."""
    torch.set_rng_state(tensors[f"{rank}.cpu"])
    if torch.cuda.is_available() and f"{rank}.cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{rank}.cuda"])
    version, words, gauss = others["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = others["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
