"""What a run does on which machine, asked of facts: no GPU is needed, nor anything but this file."""

import contextlib
import os

import pytest
import torch

from ddpm.training import distributed
from ddpm.training.config import TrainingConfig
from ddpm.training.machine import (
    Machine,
    backend,
    check_launcher,
    copies_without_waiting,
    deterministic_kernels,
    fuses_optimizer,
    meets_on_cpu,
    memory_format,
    missing_environment,
    pins_memory,
)
from tests.runs import spied

MACHINES = [  # the machine, whether the user said CPU; on the CPU?, by which means
    (Machine(), False, False, None),
    (Machine(), True, True, None),
    (Machine("cuda", devices=1, nccl=True), False, False, None),
    (Machine("cuda", devices=1, nccl=True), True, True, None),
    (Machine("mps", devices=1), False, False, None),
    (Machine("cpu", 2, 2), False, True, "gloo"),
    (Machine("mps", 2, 2, devices=1), False, True, "gloo"),
    (Machine("cuda", 2, 2, devices=2, nccl=True), False, False, "nccl"),
    (Machine("cuda", 16, 8, devices=8, nccl=True), False, False, "nccl"),
    (Machine("cuda", 2, 2, devices=2), False, False, "gloo"),  # Windows
    (Machine("cuda", 2, 2, devices=2, nccl=True), True, True, "gloo"),
    (Machine("cuda", 4, 4, devices=1, nccl=True), True, True, "gloo"),
    (Machine("xpu", 2, 2, devices=2), False, False, None),
]


@pytest.mark.parametrize(("machine", "told", "on_cpu", "means"), MACHINES)
def test_processes_meet_where_they_can_by_what_there_is(machine, told, on_cpu, means):
    assert meets_on_cpu(machine, told=told) is on_cpu
    assert backend(machine, told_cpu=told) == means


@pytest.mark.parametrize("device", ["cuda", "xpu"])
def test_backend_refuses_more_processes_than_gpus(device):
    with pytest.raises(
        ValueError, match=r"3 processes were started here, and .* for 2 of them: start at most 2"
    ):
        backend(Machine(device, 3, 3, devices=2, nccl=True))


@pytest.mark.parametrize(
    ("device", "pinned", "waits_not", "layout", "fused"),
    [
        ("cpu", False, False, torch.channels_last, True),
        ("cuda", True, True, torch.channels_last, True),
        ("mps", False, False, torch.contiguous_format, False),
        ("xpu", False, False, torch.channels_last, False),
    ],
)
def test_memory_and_copies_and_optimizer_follow_the_device(device, pinned, waits_not, layout, fused):
    assert pins_memory(device) is pinned
    assert copies_without_waiting(device) is waits_not
    assert memory_format(device, channels_last=True) == layout
    assert memory_format(device, channels_last=False) == torch.contiguous_format
    assert fuses_optimizer(device) is fused


@pytest.mark.parametrize(
    ("device", "deterministic", "environment", "missing"),
    [
        ("cuda", True, {}, {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}),
        ("cuda", True, {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, {}),
        ("cuda", False, {}, {}),
        ("cpu", True, {}, {}),
        ("mps", True, {}, {}),
    ],
)
def test_missing_environment_is_what_a_deterministic_gpu_needs(device, deterministic, environment, missing):
    assert missing_environment(device, environment, deterministic=deterministic) == missing


PLAIN = {
    "ACCELERATE_USE_FSDP": "false",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
}
OTHER = {"MIXED_PRECISION": "bf16", "GRADIENT_ACCUMULATION_STEPS": "4", "DYNAMO_BACKEND": "INDUCTOR"}
OTHER = {f"ACCELERATE_{name}": value for name, value in OTHER.items()}
ALIKE = {"mixed_precision": "bf16", "gradient_accumulate_every": 4, "compile": True}


@pytest.mark.parametrize(
    ("environment", "options"),
    # By the last the first process has said it.
    [({}, {}), (PLAIN, {}), (PLAIN, ALIKE), (OTHER, ALIKE), (OTHER | {"RANK": "1"}, {})],
)
@pytest.mark.filterwarnings("error")
def test_what_accelerate_launch_says_by_default_or_as_the_trainer_passes_in_silence(environment, options):
    check_launcher(environment, vars(TrainingConfig(**options)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(
            (f"USE_{kind}", "true", f"told to USE_{kind}, but a Trainer keeps the whole .* with `torchrun`")
            for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
        ),
        ("MIXED_PRECISION", "fp8", "told mixed_precision=fp8, .* mixed_precision='no' holds"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "gradient_accumulation_steps=4, .* gradient_accumulate_every=1"),
        ("DYNAMO_BACKEND", "INDUCTOR", "compile=False holds: .*--set training.compile=…"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_accelerate_launch_was_told_in_vain_is_refused_or_said(
    monkeypatch, tmp_path, name, value, message
):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(ValueError if value == "true" else UserWarning, match=message):
        spied(tmp_path)


@pytest.mark.parametrize(
    ("environment", "accelerator", "expected"),
    [
        ({}, None, Machine("cpu", 1, 1, 0, nccl=True)),
        ({"WORLD_SIZE": "4"}, None, Machine("cpu", 4, 4, 0, nccl=True)),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, "cuda", Machine("cuda", 16, 8, 3, nccl=True)),
    ],
)
def test_machine_is_found_by_torch_and_the_launcher(monkeypatch, environment, accelerator, expected):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = None if accelerator is None else torch.device(accelerator)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: found is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert Machine.found() == expected


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_deterministic_kernels_are_put_back(monkeypatch, wanted, before):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(before, warn_only=before)
    try:
        with contextlib.suppress(KeyError), deterministic_kernels(wanted):
            assert torch.are_deterministic_algorithms_enabled() is (wanted or before)
            assert torch.is_deterministic_algorithms_warn_only_enabled() is (before and not wanted)
            assert torch.backends.cudnn.benchmark is not wanted
            raise KeyError
        assert torch.are_deterministic_algorithms_enabled() is before
        assert torch.is_deterministic_algorithms_warn_only_enabled() is before
        assert torch.backends.cudnn.benchmark is True
    finally:
        torch.use_deterministic_algorithms(False)


def test_trainer_asks_the_machine(tmp_path, monkeypatch):
    """Each decision is that of the function, which here answers as no device does."""
    asked = []

    def answers(name, answer):
        def decide(device, *_, **__):
            asked.append((name, device))
            return answer

        monkeypatch.setattr(f"ddpm.training.machine.{name}", decide)

    for name, answer in {"fuses_optimizer": False, "memory_format": torch.contiguous_format}.items():
        answers(name, answer)
    answers("missing_environment", {"DDPM_TEST_WORKSPACE": "1"})
    for name in ("pins_memory", "copies_without_waiting"):
        answers(name, False)
    monkeypatch.setenv("DDPM_TEST_WORKSPACE", "0")
    ours = spied(tmp_path, deterministic=True)
    assert os.environ["DDPM_TEST_WORKSPACE"] == "1"
    assert ours.optimizer.param_groups[0]["fused"] is False
    step, seen = ours.training_step, []

    def watched(*args):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return step(*args)

    ours.training_step = watched
    ours.train()
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()
    names = [
        "copies_without_waiting",
        "fuses_optimizer",
        "memory_format",
        "missing_environment",
        "pins_memory",
    ]
    assert sorted({name for name, _ in asked}) == names
    assert {device for _, device in asked} == {ours.accelerator.device.type}


def test_make_optimizer_is_fused_on_this_device(tmp_path):
    ours = spied(tmp_path)
    kind = ours.accelerator.device.type
    optimizer = distributed.make_optimizer(ours.diffusion.network, kind, TrainingConfig())
    assert optimizer.param_groups[0]["fused"] is fuses_optimizer(kind)
