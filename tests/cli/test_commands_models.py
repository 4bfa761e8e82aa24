"""The command `ddpm`, as a user meets it: models draw, are exported and evaluated."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ddpm import __version__, data, grids, load_pretrained, sampler_choice
from ddpm.cli import commands
from ddpm.evaluation.features import extractor
from ddpm.evaluation.metrics import frechet_distance
from ddpm.evaluation.report import random_images, report_on_samples
from ddpm.likelihood import vlb_terms
from ddpm.reverse_process import FixedVariance
from ddpm.training import precision
from ddpm.training.distributed import draw_images
from tests.cli.conftest import trained
from tests.cli.small_runs import ENVIRONMENT, SMALL
from tests.data.pictures import write_mnist


def pixels(path):
    return np.asarray(Image.open(path).convert("L"))


# sample


def test_sample_draws_a_grid_from_a_model_that_ships(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = ddpm("sample", "digits", "-n", "6", "--seed", "3", "--steps", "3")
    assert out.startswith("6 images in samples.png\n  model      the model digits that ships, in ")
    grid = pixels(tmp_path / "samples.png")
    assert grid.shape == (19, 28)  # two rows of three, a pixel of white around each
    images = draw_images(load_pretrained("digits"), range(3, 9), sampling_timesteps=3)
    for place, image in enumerate(images):
        row, column = divmod(place, 3)
        cell = grid[1 + 9 * row : 9 + 9 * row, 1 + 9 * column : 9 + 9 * column]
        assert np.abs(cell / 255 - image[0].numpy()).max() < 0.51 / 255
    assert (grid[0] == 255).all()


@pytest.mark.parametrize(
    ("options", "seeds", "drawn"),
    [
        (["-n", "3", "--seed", "2", "--batch-size", "2"], range(2, 5), {}),
        (["-n", "1", "--sampling-steps", "7"], [0], {"sampling_timesteps": 7}),
        (["-n", "1", "--sampler", "ancestral"], [0], {"sampling_timesteps": 20, "sampler": "ancestral"}),
        (["-n", "1", "--eta", "0"], [0], {"eta": 0.0}),
        (
            ["-n", "1", "--steps", "20", "--eta", "0"],
            [0],
            {"sampling_timesteps": 20, "sampler": "ddim", "eta": 0.0},
        ),
        (
            ["-n", "1", "--sampler", "dpm++", "--sampling-steps", "5", "--spacing", "log-snr"],
            [0],
            {"sampling_timesteps": 5, "sampler": "dpm++", "spacing": "log-snr"},
        ),
        (
            ["-n", "1", "--sampler", "heun", "--spacing", "quadratic"],
            [0],
            {"sampler": "heun", "spacing": "quadratic"},
        ),
        (
            ["-n", "1", "--sampler", "ancestral", "--variance", "fixed_large"],
            [0],
            {"sampler": "ancestral", "variance": "fixed_large"},
        ),
        (["-n", "1", "--weights", "model"], [0], {}),
    ],
)
def test_sample_follows_its_options_into_a_folder(ddpm, finished, tmp_path, options, seeds, drawn):
    ddpm("sample", finished, "--out", tmp_path / "out", *options)
    model = load_pretrained(finished, weights="model" if "model" in options else "ema")
    expected = draw_images(model, seeds, **drawn)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{seed:06d}.png" for seed in seeds}
    for seed, image in zip(seeds, expected, strict=True):
        shown = pixels(tmp_path / f"out/{seed:06d}.png") / 255
        assert np.abs(shown - image[0].numpy()).max() < 0.51 / 255
    usual = draw_images(load_pretrained(finished), [0])
    assert (usual[0] - expected[0]).abs().max() > 1e-6


def test_sample_offers_all_that_the_library_has():
    """The command line does not import it before the arguments are read, and so has the words of its own."""
    hints = get_type_hints(commands.sample)
    assert hints["sampler"] == sampler_choice.Sampler | None
    assert hints["spacing"] == grids.Spacing | None
    assert set(get_args(get_args(hints["variance"])[0])) == {*get_args(FixedVariance), "learned"}


def test_sample_from_a_damaged_model_is_an_error_in_words(ddpm, finished, tmp_path):
    for name in ("model.safetensors", "config.json"):
        shutil.copy(finished / "checkpoints/step-00000004" / name, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    _, err = ddpm("sample", tmp_path, code=1)
    assert err.startswith("error: ")


def test_sample_gives_classes_in_turn_or_the_one_wanted(ddpm, with_classes, tmp_path):
    # The weights themselves: after so few steps their average has seen next to nothing of the classes.
    some = ("sample", with_classes, "-n", "12", "--weights", "model")
    ddpm(*some, "--out", tmp_path / "in-turn")
    ddpm(*some, "--label", "1", "--out", tmp_path / "one")
    same = [
        np.array_equal(pixels(tmp_path / f"in-turn/{name}"), pixels(tmp_path / f"one/{name}"))
        for name in (f"{number:06d}.png" for number in range(12))
    ]
    assert same == [number % 10 == 1 for number in range(12)]
    _, err = ddpm("sample", with_classes, "--label", "10", code=1)
    assert err == "error: this model has the classes 0 … 9, but got the label 10\n"


# export


@pytest.mark.parametrize(
    ("options", "weights", "kind", "rounding"),
    [
        ([], "ema", torch.float32, {"rtol": 0, "atol": 0}),
        (["--half", "--weights", "model"], "model", torch.float16, {"rtol": 2**-11, "atol": 1e-7}),
    ],
)
def test_export_writes_a_model_by_itself(ddpm, finished, tmp_path, options, weights, kind, rounding):
    file = tmp_path / "model" / "model.safetensors"
    out, _ = ddpm("export", finished, file.parent, *options)
    assert re.match(re.escape(f"{file}, ") + r"[\d.]+ KiB; read it", out)
    assert {path.name for path in file.parent.iterdir()} == {"config.json", "model.safetensors"}
    assert {tensor.dtype for tensor in load_file(file).values()} == {kind}
    exported, trained = load_pretrained(file.parent), load_pretrained(finished, weights=weights)
    assert exported.config == trained.config
    tensors = exported.state_dict()
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor, **rounding)


@pytest.mark.parametrize(("native", "drawn_in"), [(True, "bf16"), (False, "no")])
def test_sample_draws_in_a_checked_precision_where_the_machine_has_it(
    ddpm, tmp_path, monkeypatch, native, drawn_in
):
    model, picture = tmp_path / "model", tmp_path / "one.png"
    ddpm("export", "digits", model, "--checked", "bf16")
    assert "\n  checked in bf16" in ddpm("info", model)[0]
    monkeypatch.setattr(precision, "this_processor", lambda: precision.Processor("cpu", native))
    drawn = {
        word: draw_images(load_pretrained("digits"), [0], sampling_timesteps=2, precision=word)[0, 0]
        for word in ("bf16", "no")
    }
    greys = {word: image.mul(255).add(0.5).to(torch.uint8).numpy() for word, image in drawn.items()}
    assert not np.array_equal(greys["bf16"], greys["no"])
    for options, expected in (([], drawn_in), (["--mixed-precision", "no"], "no")):
        ddpm("sample", model, "-n", "1", "--steps", "2", "--out", picture, *options)
        assert np.array_equal(pixels(picture), greys[expected])


def test_evaluate_keeps_samples_of_another_precision_apart(ddpm, run):
    for options, named in (([], None), (["--mixed-precision", "bf16"], "bf16")):
        ddpm("evaluate", run, "-n", "4", "--steps", "2", "--bound-images", "0", *options)
        written = json.loads((run / "evaluation.json").read_text())
        assert written["model"].get("mixed_precision") == named
    assert len(list((run / "samples").glob("*/000000.png"))) == 2


def test_export_takes_an_extra_average_by_its_name(ddpm, tmp_path):
    run = trained(tmp_path / "run", "--set", "training.extra_ema_decays=[0.5]")
    ddpm("export", run, tmp_path / "model", "--weights", "ema-0.5")
    exported, kept = load_pretrained(tmp_path / "model"), load_pretrained(run, weights="ema-0.5")
    for name, tensor in kept.state_dict().items():
        assert torch.equal(exported.state_dict()[name], tensor)
    _, err = ddpm("export", run, tmp_path / "other", "--weights", "ema-0.7", code=1)
    assert "unknown weights 'ema-0.7'; choose one of 'ema', 'model', 'ema-0.5'" in err


# evaluate


def assert_near(figures, expected):
    for name, value in asdict(expected).items():
        assert figures[name] == (None if value is None else pytest.approx(value, rel=1e-4)), name


# With classes the weights themselves, as above.
@pytest.mark.parametrize(("fixture", "weights"), [("run", "ema"), ("with_classes", "model")])
def test_evaluate_compares_samples_and_takes_the_bound(ddpm, request, fixture, weights):
    run = request.getfixturevalue(fixture)
    options = [] if weights == "ema" else ["--weights", weights]
    words = ["-n", "40", "--steps", "2", "--bound-images", "3", "--timesteps", "5", *options]
    out, _ = ddpm("evaluate", run, *words)
    figures = json.loads((run / "evaluation.json").read_text())
    images, labels = random_images(data.digits(), 40)
    labels = labels if fixture == "with_classes" else None
    model = load_pretrained(run, weights=weights)
    classes = None if labels is None else labels.tolist()
    drawn = draw_images(model, range(40), sampling_timesteps=2, labels=classes).mul(255).round() / 255
    expected = report_on_samples(drawn, images, [data.digits().tensors[0]])
    assert_near(figures, replace(expected, recognised=0))
    images, labels = random_images(data.digits(), 3)
    labels = labels if fixture == "with_classes" else None
    bound = vlb_terms(model, images * 2 - 1, timesteps_per_image=5, labels=labels, seeds=range(3))
    assert figures["bits_per_dimension"] == pytest.approx(float(bound.bits_per_dim(bound.total).mean))
    said = f"the run in {run}, its checkpoint of step 4"
    assert figures["model"] == {
        "model": said,
        "weights": weights,
        "sampler": "ddim",
        "network_calls": 2,
        "spacing": "even",
        "eta": 1.0,
    }
    settings = {"images": 40, "data": "digits", "part": "training", "features": "pixels", "seed": 0}
    settings |= {"searched_for_copies": 1797, "dimensions": 64, "bound_images": 3, "bound_timesteps": 5}
    assert figures["settings"] == settings | {"ddpm": __version__, "torch": torch.__version__}
    assert f"Fréchet distance  {figures['distance']:.4f}" in out
    assert f"nearest image     {figures['nearest_training']:.3f} in 1,797 of training\n" in out
    bits = f"{figures['bits_per_dimension']:.3f} ± {figures['standard_error']:.3f} bits per dimension"
    assert f"{bits}, on 3 training images, 64 dimensions\n" in out
    (kept,) = (path for path in (run / "samples").iterdir() if path.is_dir())
    counted = "40 samples, 2 network calls each, and as many training images, by pixels\n"
    assert out.startswith(f"40 images in {kept}\n{counted}")
    assert "data       40 of 1,797 training images, drawn by the seed; the digits of scikit-learn\n" in out
    assert f" model {said} data " in " ".join(out.split())
    assert out.endswith(f"written to {run / 'evaluation.json'}\n")


def test_evaluate_shows_how_far_the_bound_has_come(ddpm, run, monkeypatch):
    monkeypatch.setattr("ddpm.io.progress.is_terminal", lambda _: True)
    _, err = ddpm("evaluate", run, "-n", "4", "--steps", "1", "--bound-images", "2", "--timesteps", "3")
    assert "bound: 100%" in err
    assert " 4/4 " in err


def test_evaluate_compares_with_images_drawn_by_the_seed(ddpm, run):
    halves = []
    for seed in (0, 7):
        words = ["-n", "40", "--steps", "1", "--bound-images", "0", "--seed", seed]
        ddpm("evaluate", run, *words)
        real = random_images(data.digits(), 40, seed=seed)[0]
        halves.append(json.loads((run / "evaluation.json").read_text())["halves"])
        assert halves[-1] == pytest.approx(report_on_samples(real, real, [real]).halves)
    assert halves[0] != halves[1]


@pytest.mark.parametrize(
    ("features", "code", "words"),
    [
        ("classifier", 1, "are for images of Fashion-MNIST, 1 × 28 × 28, but got 1 × 8 × 8"),
        ("clip", 2, "'clip'"),
    ],
)
def test_evaluate_refuses_features_that_do_not_fit_before_it_draws(
    ddpm, run, monkeypatch, features, code, words
):
    monkeypatch.setattr("ddpm.cli.drawing.draw_kept", None)
    assert words in ddpm("evaluate", run, "-n", "4", "--features", features, code=code)[1]


@pytest.mark.parametrize(
    ("words", "sampler", "calls", "spacing", "eta"),
    [
        (["--steps", "20"], "ancestral", 20, None, None),
        (["--sampler", "ancestral"], "ancestral", 20, None, None),
        (["--steps", "20", "--spacing", "even"], "ddim", 20, "even", 1.0),
        (["--steps", "3"], "ddim", 3, "even", 1.0),
        (["--sampler", "heun", "--steps", "4"], "heun", 7, "even", None),
        (["--sampler", "dpm++", "--steps", "4", "--spacing", "log-snr"], "dpm++", 4, "log-snr", None),
    ],
)
def test_evaluate_draws_by_the_sampler_that_it_names(ddpm, run, words, sampler, calls, spacing, eta):
    ddpm("evaluate", run, "-n", "4", "--bound-images", "0", *words)
    written = json.loads((run / "evaluation.json").read_text())
    named = [written["model"][name] for name in ("sampler", "network_calls", "spacing", "eta")]
    assert named == [sampler, calls, spacing, eta]
    steps = 20 if sampler == "ancestral" else int(words[words.index("--steps") + 1])
    options = {"sampling_timesteps": steps, "sampler": sampler, "spacing": spacing}
    model = load_pretrained(run)
    drawn = draw_images(model, range(4), **options).mul(255).round() / 255
    images = random_images(data.digits(), 4, seed=0)[0]
    assert written["distance"] == pytest.approx(frechet_distance(drawn, images), rel=1e-4)


def test_evaluate_holds_a_model_against_the_test_part_where_there_is_one(ddpm, tmp_path):
    parts = write_mnist(tmp_path, train=9, test=8)
    run = tmp_path / "run"
    ddpm("train", "fashion-mnist", *SMALL, "--data-root", tmp_path, "--out", run)
    words = ["-n", "8", "--bound-images", "3", "--levels", "2", "--features", "classifier"]
    out, _ = ddpm("evaluate", run, *words)
    written = json.loads((run / "evaluation.json").read_text())
    test, train = (torch.from_numpy(parts[part])[:, None] / 255 for part in ("test", "train"))
    settings = {"data": "FashionMNIST", "part": "test", "features": "classifier", "searched_for_copies": 8}
    assert settings.items() <= written["settings"].items()
    drawn = draw_images(load_pretrained(run), range(8)).mul(255).round() / 255
    searched = random_images(list(train), 8)[0]
    expected = report_on_samples(drawn, test, [searched], [test], features=extractor("classifier"))
    assert_near(written, expected)
    assert "\n8 samples, 4 network calls each, and as many test images, by classifier\n" in out
    assert "on 3 test images, 784 dimensions" in out
    assert f"{expected.nearest_held_out:.3f} in as many held-out ones; in the mean at" in out
    assert "recognised" not in out
    assert "bits" not in ddpm("evaluate", run, "-n", "4", "--bound-images", "0")[0]


SPY = """
import os
from ddpm.cli import main
from ddpm.training import distributed
draw, this = distributed.drawn_batches, int(os.environ["RANK"])
def share(*arguments, rank, world_size, **options):
    assert (rank, world_size) == (this, 2)
    return draw(*arguments, rank=rank, world_size=world_size, **options)
distributed.drawn_batches = share
main()
"""


@pytest.fixture
def two_processes(tmp_path):
    """Runs the command in two processes, each of which has to draw its share."""
    (tmp_path / "spy.py").write_text(SPY)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

    def run(*words):
        command = [*launch, tmp_path / "spy.py", *map(str, words)]
        done = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_two_processes_draw_what_one_draws(two_processes, finished, tmp_path):
    done = two_processes("sample", finished, "-n", "5", "--batch-size", "2", "--out", tmp_path / "two")
    assert done.stdout.startswith(f"5 images in {tmp_path / 'two'}\n  model ")
    assert done.stdout.count("model ") == 1
    for number, image in enumerate(draw_images(load_pretrained(finished), range(5))):
        assert np.abs(pixels(tmp_path / f"two/{number:06d}.png") / 255 - image[0].numpy()).max() < 1.01 / 255


def test_two_processes_evaluate_what_one_drew_in_part(ddpm, two_processes, run):
    words = ["evaluate", run, "-n", "9", "--bound-images", "0", "--batch-size", "2"]
    expected, _ = ddpm(*words)
    (kept,) = (path for path in (run / "samples").iterdir() if path.is_dir())
    for seed in (0, 2, 3, 8):
        (kept / f"{seed:06d}.png").unlink()
    done = two_processes(*words)
    expected = expected.replace("9 images in", f"5 images in {kept}, drawn before\n4 images in", 1)
    assert done.stdout.split() == expected.split()
