"""In which precision a machine trains: the choice as a function of the processor, and what torch is asked."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch

from ddpm import Unet
from ddpm.io.checkpoint import list_checkpoints
from ddpm.training import precision
from ddpm.training.config import TrainingConfig
from ddpm.training.precision import Processor, choose_precision, this_processor, with_precision
from tests.runs import model, trainer

CPU, CPU_BF16 = Processor("cpu", native_bf16=False), Processor("cpu", native_bf16=True)
OLD_GPU, NEW_GPU = Processor("cuda", native_bf16=False), Processor("cuda", native_bf16=True)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (CPU, "no"),
        (CPU_BF16, "bf16"),
        (OLD_GPU, "fp16"),
        (NEW_GPU, "bf16"),
        # Nothing is known of these.
        (Processor("mps", native_bf16=False), "no"),
        (Processor("xpu", native_bf16=True), "no"),
    ],
)
def test_choice(processor, expected):
    assert choose_precision(processor) == expected


@pytest.fixture
def machine(monkeypatch):
    """A machine with a GPU of a compute capability, or none, and a CPU with some instructions."""

    def make(capability=None, instructions=(), build="12.8"):
        monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
        major, minor = capability or (0, 0)
        card = SimpleNamespace(major=major, minor=minor)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: card)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device=None: (major, minor))
        # As on a T4: there are no instructions, but a tensor of bfloat16 can be made.
        monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _device: True, raising=False)
        monkeypatch.setattr(torch.version, "cuda", build)
        monkeypatch.setattr(torch.version, "hip", None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda name=name: name in instructions, raising=False)

    return make


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 1), "fp16"),
        ((7, 0), "fp16"),
        ((7, 5), "fp16"),
        ((8, 0), "bf16"),
        ((8, 9), "bf16"),
        ((9, 0), "bf16"),
    ],
)
def test_gpus_by_compute_capability(machine, capability, expected):
    """Cards that emulate bf16, such as the T4 of Colab (7.5), of which torch says that they support it."""
    machine(capability, ["_is_avx512_bf16_supported"])
    assert torch.cuda.is_bf16_supported(), "torch counts the emulation"
    assert choose_precision(this_processor()) == expected
    assert with_precision(TrainingConfig(mixed_precision="auto")).mixed_precision == expected


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [((), "no"), (["_is_avx512_bf16_supported"], "bf16"), (["_is_amx_tile_supported"], "bf16")],
)
def test_without_a_gpu_the_cpu_decides(machine, instructions, expected, monkeypatch):
    machine(None, instructions)
    assert choose_precision(this_processor()) == expected
    # A GPU that is not to be used.
    machine((7, 5), instructions)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert choose_precision(this_processor()) == expected


def test_an_older_torch_that_cannot_be_asked_knows_no_bf16(machine, monkeypatch):
    machine(None)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert this_processor() == CPU


@pytest.mark.parametrize("word", ["no", "fp16", "bf16"])
def test_what_was_chosen_is_kept(monkeypatch, word):
    monkeypatch.setattr(precision, "this_processor", lambda: pytest.fail("nothing is to be asked"))
    config = TrainingConfig(mixed_precision=word)
    assert with_precision(config) is config


# A run


@pytest.mark.parametrize(("processor", "expected"), [(CPU, "no"), (CPU_BF16, "bf16")])
def test_a_run_keeps_what_auto_stood_for(tmp_path, monkeypatch, processor, expected):
    monkeypatch.setattr(precision, "this_processor", lambda: processor)
    ours = trainer(tmp_path, mixed_precision="auto", train_num_steps=1)
    assert ours.mixed_precision == expected
    ours.train()
    saved = json.loads((list_checkpoints(tmp_path)[-1] / "config.json").read_text())
    assert saved["training"]["mixed_precision"] == expected
    ours.mixed_precision = "auto"
    assert ours.mixed_precision == expected


def test_a_run_that_goes_on_elsewhere_says_that_its_precision_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "this_processor", lambda: CPU_BF16)
    trainer(tmp_path, mixed_precision="auto", train_num_steps=1).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(tmp_path, mixed_precision="auto").load()
        trainer(tmp_path, mixed_precision="bf16").load()
    monkeypatch.setattr(precision, "this_processor", lambda: CPU)
    with pytest.warns(UserWarning, match="other settings: mixed_precision was 'bf16' and is 'no'"):
        trainer(tmp_path, mixed_precision="auto").load()


def test_trainer_takes_the_plain_model_of_a_compiled_one(tmp_path):
    plain = model()
    assert trainer(tmp_path, torch.compile(plain)).diffusion is plain
    with pytest.raises(
        TypeError, match="Trainer takes a GaussianDiffusion, but got a Unet; around a network"
    ):
        trainer(tmp_path, Unet(8, dim_mults=(1, 2), channels=1))


@pytest.mark.parametrize(
    ("asked", "checked", "processor", "drawn_in"),
    [
        ("auto", [], CPU_BF16, "no"),
        ("auto", ["bf16"], CPU_BF16, "bf16"),
        ("auto", ["bf16"], CPU, "no"),
        ("auto", ["fp16"], CPU_BF16, "no"),
        ("auto", ["fp16", "bf16"], Processor("cuda", native_bf16=False), "fp16"),
        ("auto", ["bf16"], Processor("cuda", native_bf16=False), "no"),
        ("auto", ["fp16", "bf16"], Processor("mps", native_bf16=False), "no"),
        ("no", ["bf16"], CPU_BF16, "no"),
        ("bf16", [], CPU, "bf16"),
        ("fp16", [], Processor("cuda", native_bf16=True), "fp16"),
    ],
)
def test_samples_are_drawn_in_what_was_asked_for_or_checked(monkeypatch, asked, checked, processor, drawn_in):
    monkeypatch.setattr(precision, "this_processor", lambda: processor)
    assert precision.sampling_precision(asked, checked) == drawn_in


def test_sampling_precision_refuses_fp16_on_a_cpu(monkeypatch):
    monkeypatch.setattr(precision, "this_processor", lambda: CPU_BF16)
    with pytest.raises(ValueError, match="fp16 is for GPUs, and there is none here; choose 'bf16' or 'no'"):
        precision.sampling_precision("fp16", ["fp16"])


@pytest.mark.parametrize(("word", "kind"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_computing_in_is_torch_s_own_autocast(word, kind):
    with precision.computing_in(word, torch.device("cpu")):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == kind
