"""Options as text, held against what the parts of a run take."""

import inspect
import json
from typing import Any, get_type_hints

import pytest

from ddpm import GaussianDiffusion, Unet
from ddpm.cli.overrides import OPTIONS, check_options, read_override
from ddpm.data import load_dataset
from ddpm.training.config import TrainingConfig
from ddpm.weighting import Weighting

# Not options: the network itself, and which part of the data.
OBJECTS = {"network", "train"}
TAKEN_BY = (load_dataset, Unet.__init__, GaussianDiffusion.__init__, TrainingConfig.__init__)


@pytest.mark.parametrize(("part", "function"), list(zip(OPTIONS, TAKEN_BY, strict=True)))
def test_options_are_those_of_the_signatures(part, function):
    hints = get_type_hints(function)
    names = inspect.signature(function).parameters.keys() - {"self", *OBJECTS}
    expected = {name: dict | None if hints[name] == Weighting | None else hints[name] for name in names}
    assert OPTIONS[part] == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("network.dropout=0.2", 0.2),
        ("network.num_classes=null", None),
        ("network.num_classes=None", None),
        ("network.self_condition=True", True),
        ("network.dim_mults=[1, 2, 4]", [1, 2, 4]),
        ("diffusion.objective = pred_x0 ", "pred_x0"),
        ('diffusion.loss_weighting={"name": "MinSNR", "gamma": 5}', {"name": "MinSNR", "gamma": 5}),
        ("training.ema_halflife=5000", 5000),
        (" training.train_lr = 1e-3 ", 1e-3),
        ("training.adam_betas=[0.9, 0.999]", [0.9, 0.999]),
        ("data.root=~/a=b", "~/a=b"),
    ],
)
def test_read_override_reads_numbers_lists_and_words(text, value):
    part, option = text.partition("=")[0].strip().split(".")
    read: tuple[str, str, Any] = read_override(text)
    assert read == (part, option, value)
    assert type(read[2]) is type(value)
    check_options(part, {option: value})
    assert read_override(f"{part}.{option}={json.dumps(value)}")[2] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dropout=0.2", "'dropout=0.2' is not of the form part.option=value, .*data, network, diff"),
        ("network.dropout", "not of the form"),
        ("nettwork.dropout=0.2", "not of the form"),
        ("network.dropuot=0.2", r"no option 'dropuot' \(did you mean dropout\?\); it takes dim, .*dropout"),
        ("diffusion.network=3", "diffusion has no option 'network'; it takes image_size"),
        ("network.dim=true", "network.dim must be a whole number, but got True"),
        ("network.dim=1.5", "network.dim must be a whole number, but got 1.5"),
        ("network.dim_mults=1,2", r"network.dim_mults must be a list such as \[1, 2\], but got '1,2'"),
        ("network.dim_mults=[1, 0.5]", "network.dim_mults must be a list"),
        ("network.num_classes=ten", "network.num_classes must be a whole number or null, but got 'ten'"),
        ("network.self_condition=1", "network.self_condition must be true or false, but got 1"),
        ("network.dropout=true", "network.dropout must be a number, but got True"),
        ("training.adam_betas=0.9", r"training.adam_betas must be a list such as \[0.9, 0.99\]"),
        ("training.mixed_precision=fp8", "mixed_precision must be no or fp16 or bf16 or auto, but got 'fp8'"),
        ("diffusion.beta_schedule=3", "diffusion.beta_schedule must be a word or null"),
        ("diffusion.loss_weighting=3", "loss_weighting must be a weighting such as MinSNR or .* or null"),
        ("data.name_or_path=x", "data.name_or_path cannot be set so: it is the argument"),
        ("network.channels=3", "network.channels cannot be set so: give data.channels"),
    ],
)
def test_what_is_no_option_is_refused(text, message):
    def read_and_check():
        part, option, value = read_override(text)
        check_options(part, {option: value})

    with pytest.raises(ValueError, match=message):
        read_and_check()
