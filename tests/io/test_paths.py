"""Names against paths: which of the two a word is, and what is said of it."""

import os
import re
import shutil
import warnings
from pathlib import Path

import pytest

from ddpm import (
    GaussianDiffusion,
    load_diffusers_pipeline,
    load_diffusers_unet,
    load_pretrained,
    save_diffusers_pipeline,
    save_diffusers_unet,
    save_pretrained,
)
from ddpm.io import paths
from ddpm.io.paths import find_model, is_file_name, is_path, locate_model
from tests import runs


class Like:
    def __fspath__(self):
        return "digits"


@pytest.mark.parametrize("word", ["./digits", "a/b", "/a", "~", "~/a", "digits/", Path("digits"), Like()])
def test_a_path_is_no_name(word):
    assert is_path(word)


@pytest.mark.parametrize("word", ["digits", "Fashion-MNIST", "a.b", "", ".", ".."])
def test_a_word_may_be_a_name(word):
    assert not is_path(word)


WRITERS = {  # what writes into a folder, and what reads it
    "model": (lambda folder: save_pretrained(runs.model(), folder), load_pretrained),
    "network": (lambda folder: save_diffusers_unet(runs.model().network, folder), load_diffusers_unet),
    "pipeline": (lambda folder: save_diffusers_pipeline(runs.model(), folder), load_diffusers_pipeline),
    "run": (lambda folder: runs.trained(folder, train_num_steps=1), load_pretrained),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("word", ["~/it", Path("~/it"), "~no-such-user"])
def test_home_is_meant_where_a_folder_is_written_as_where_it_is_read(tmp_path, monkeypatch, kind, word):
    (home := tmp_path / "home").mkdir()
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    write, read = WRITERS[kind]
    write(word)
    written = here / word if word == "~no-such-user" else home / "it"
    assert [*here.iterdir(), *home.iterdir()] == [written]
    read(word)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model, and a run of two checkpoints."""
    folder = tmp_path_factory.mktemp("models")
    runs.trained(folder / "run")
    save_pretrained(runs.model(3), folder / "model")
    return folder


SHIPPED = Path(__file__).parents[2] / "checkpoints"
HERE = {  # what lies in ./digits, and how it is said
    "a run": ("run", "the run in {path}, its checkpoint of step 4", "checkpoints/step-00000004"),
    "a model": ("model", "the model in {path}", ""),
    "a checkpoint": ("run/checkpoints/step-00000002", "the checkpoint {path}", ""),
}


@pytest.mark.parametrize("here", HERE)
@pytest.mark.parametrize("word", ["digits", "./digits", "{absolute}", "~/digits", "digits/"])
def test_a_folder_here_goes_before_the_model_that_ships(tmp_path, monkeypatch, model, here, word):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    source, said, within = HERE[here]
    shutil.copytree(model / source, tmp_path / "digits")
    word = word.format(absolute=tmp_path / "digits")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = locate_model(word)
        loaded = load_pretrained(word)
    assert found.folder.resolve() == tmp_path / "digits" / within
    assert found.said == said.format(path=Path(word).expanduser())
    assert found.folder == find_model(Path(word))
    ours, shipped = (load_pretrained(place / "digits").config for place in (tmp_path, SHIPPED))
    assert loaded.config == ours != shipped
    assert len(warned) == (2 if word == "digits" else 0)
    for warning in warned:
        assert str(warning.message) == (
            f"'digits' is taken for {found.said}, before the model digits that ships, which is {SHIPPED / 'digits'};"
            " write ./digits to say so"
        )


@pytest.mark.parametrize("word", ["digits", "Digits", "fashion-mnist", "FashionMNIST", "fashion_mnist"])
@pytest.mark.parametrize("here", [[], ["{word}/a.png"], ["{word}"]])
def test_a_model_that_ships_is_found_by_its_name(tmp_path, monkeypatch, word, here):
    """Also where a folder of that name holds no model."""
    monkeypatch.chdir(tmp_path)
    for name in here:
        (tmp_path / name.format(word=word)).parent.mkdir(exist_ok=True)
        (tmp_path / name.format(word=word)).write_bytes(b"")
    name = "digits" if word.lower() == "digits" else "fashion-mnist"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = locate_model(word)
    assert found.folder == SHIPPED / name
    assert found.said == f"the model {name} that ships, in {SHIPPED / name}"
    assert GaussianDiffusion.from_pretrained(word).config == load_pretrained(SHIPPED / name).config


SHIP = "or one of the models that ship: digits, fashion-mnist, fashion-mnist-classes"
REFUSED = [  # word, what lies here, what the message says
    ("./digits", [], r"no model at './digits' \(no such folder\): .* that ship \(did you mean digits\?\)"),
    (Path("digits"), [], r"no model at 'digits' \(no such folder\)"),
    ("./digits", ["digits/a.png"], r"'./digits' \(it holds neither\)"),
    (
        "digit",
        [],
        r"'digit' \(no such folder\): .* \(did you mean digits\?\): digits, fashion-mnist, fashion-mnist-classes$",
    ),
    ("nowhere", [], rf"give a folder that holds config.json and model.safetensors, .* {SHIP}$"),
    ("", ["config.json", "model.safetensors"], r"no model at '' \(no such folder\)"),
    ("", ["checkpoints/step-00000004/x"], r"no model at '' \(no such folder\)"),
    ("a.png", ["a.png"], r"'a.png' \(a file\)"),
    (".", [], r"'.' \(it holds neither\)"),
    ("../checkpoints/digits", [], "no such folder"),
    # Begun, so it is meant, and the model that ships does not stand in for it.
    ("digits", ["digits/run.json"], r"'digits' \(a run without a checkpoint yet\)"),
    ("digits", ["digits/run.json", "digits/checkpoints/.step-4.part/x"], "a run without a checkpoint yet"),
    ("digits", ["digits/config.json"], r"'digits' \(it holds config.json alone\)"),
    ("digits", ["digits/model.safetensors"], r"'digits' \(it holds model.safetensors alone\)"),
    ("digits", ["digits/checkpoints/x"], r"'digits' \(it holds neither\)"),
    (
        "google/ddpm-cifar10-32",
        [],
        r"\(no such folder; if it is a name on the Hugging Face Hub, load_diffusers_pipeline fetches it\)",
    ),
    ("google/a", ["google/a/x"], r"\(it holds neither\)"),
    (
        "a",
        ["a/model_index.json"],
        r"\(it holds neither; load_diffusers_pipeline reads the model of diffusers",
    ),
    (
        "a",
        ["a/config.json", "a/diffusion_pytorch_model.fp16.safetensors"],
        r"\(it holds config.json alone; load_diffusers_unet reads the network of diffusers there\)",
    ),
    ("pics", ["pics/a.png", "runs/pics/run.json"], r"\(it holds neither; did you mean runs/pics\?\)"),
    ("runs/pisc", ["runs/pics/run.json"], r"load_diffusers_pipeline fetches it; did you mean runs/pics\?\)"),
    ("runs", ["runs/b/run.json", "runs/a b/run.json"], r"did you mean 'runs/a b' or runs/b\?\)"),
    ("a/checkpoints/step-4/ema", ["a/run.json", "a/checkpoints/step-4/ema"], r"\(a file; did you mean a\?\)"),
    ("a", ["a/unet_ema/diffusion_pytorch_model.bin"], "neither; load_diffusers_unet reads the network"),
]


@pytest.mark.parametrize(("word", "here", "message"), REFUSED)
def test_what_is_no_model_is_refused_with_what_is_missing(tmp_path, monkeypatch, word, here, message):
    monkeypatch.chdir(tmp_path)
    for name in here:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for look in (locate_model, find_model, load_pretrained):
        with pytest.raises(FileNotFoundError, match=message):
            look(word)


def test_an_installed_package_has_its_models_inside(tmp_path, monkeypatch):
    """There goes before the checkout, whose folder of that name may be anybody's."""
    inside, beside = tmp_path / "pretrained", tmp_path / "checkpoints"
    for folder in (inside / "digits", beside / "digits", beside / "half"):
        save_pretrained(runs.model(), folder)
    (beside / "half/model.safetensors").unlink()
    monkeypatch.setattr(paths, "_SHIPPED", [inside, beside])
    monkeypatch.chdir(tmp_path)
    assert find_model("digits") == inside / "digits"
    with pytest.raises(FileNotFoundError, match=re.escape("models that ship: digits") + "$"):
        find_model("half" + os.sep)


FILES = "x.gif X.GIF .gif a/.jpg x.jpeg x.jfif x.heic x.avif x.tiff x.mp4 x.webm x.webp x.pdf x.npz x.npy x.pt x.zip"
FILES += " x.txt .json v1.5/x.svg run.png deep/er/model.safetensors model.CKPT"
FOLDERS = ["run", "v1.5", "run.1", "a.b", ".hidden", "my run", "epoch.final", "x.v2", "2026.11.28"]


def test_the_name_of_a_file_is_told_by_its_ending_unless_a_folder_has_it(tmp_path):
    assert [name for name in FOLDERS if is_file_name(Path(name))] == []
    for name in FILES.split():
        assert is_file_name(tmp_path / name), name
        (tmp_path / name).mkdir(parents=True)
        assert not is_file_name(tmp_path / name), name
