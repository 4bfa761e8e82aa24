"""Images on the disk as they are drawn, and what a signal leaves of them."""

import errno
import math
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import make_grid, save_image

from ddpm import GaussianDiffusion
from ddpm.cli import drawing
from ddpm.cli.drawing import draw_into, draw_kept
from tests.cli.small_runs import ENVIRONMENT
from tests.networks import Pointwise, seeded


def make_model(channels=1):
    network = Pointwise()
    network.channels = channels
    return GaussianDiffusion(network, image_size=4, timesteps=20, sampling_timesteps=2)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_folder_and_picture_hold_what_torchvision_writes(tmp_path, batch_size, capsys):
    """As the command wrote them when it kept all images to the end."""
    model, seeds = make_model(), range(5, 12)
    images = model.sample(7, seeds=list(seeds))
    (tmp_path / "folder").mkdir()
    draw_into(tmp_path / "folder", model, seeds, batch_size=batch_size)
    draw_into(tmp_path / "grid.png", model, seeds, batch_size=batch_size)
    save_image(make_grid(images, nrow=3, padding=1, pad_value=1.0), tmp_path / "theirs.png")
    assert np.array_equal(pixels(tmp_path / "grid.png"), pixels(tmp_path / "theirs.png"))
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        f"{seed:06d}.png" for seed in seeds
    ]
    for seed, image in zip(seeds, images, strict=True):
        save_image(image, tmp_path / "theirs.png")
        assert np.array_equal(pixels(tmp_path / f"folder/{seed:06d}.png"), pixels(tmp_path / "theirs.png"))
    out, err = capsys.readouterr()
    assert out == f"7 images in {tmp_path / 'folder'}\n7 images in {tmp_path / 'grid.png'}\n"
    assert err == ""


@pytest.mark.parametrize("out", ["folder", "x.png"])
def test_a_full_disk_is_said_with_the_file_and_leaves_no_half_of_one(tmp_path, monkeypatch, out):
    written, save = [], Image.Image.save

    def full_disk(image, path, **options):
        save(image, path, **options)
        written.append(path)
        if len(written) == (3 if out == "folder" else 1):
            path.write_bytes(path.read_bytes()[:20])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full_disk)
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        OSError, match=r"[2x]\.png cannot be written \(No space left on device\); .*: make room"
    ):
        draw_into(tmp_path / out, make_model(), range(4), batch_size=2)
    names = {path.name for path in tmp_path.rglob("*")}
    assert names == ({"folder", "000000.png", "000001.png"} if out == "folder" else {"folder"})


@pytest.mark.parametrize("count", range(1, 11))
@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 4, 4)])
def test_pictures_stand_as_torchvision_puts_them(count, shape):
    pictures = torch.randint(0, 200, (count, *shape), generator=seeded(1)).to(torch.uint8)
    theirs = make_grid(pictures, nrow=math.ceil(math.sqrt(count)), padding=1, pad_value=255)
    ours = drawing._side_by_side(list(pictures))
    assert ours.dtype == torch.uint8
    assert torch.equal(ours.expand(3, -1, -1), theirs)


def test_drawing_does_not_wait_for_torchvision():
    """To import it takes a second; the network calls of a few pictures take no longer."""
    code = "import sys, ddpm.cli.drawing; print({'torchvision', 'torch._dynamo'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.fixture
def stopped(monkeypatch):
    """Raises a signal while the batch of this number is drawn, counted from 0; deliveries are noted, not made."""
    delivered = []
    monkeypatch.setattr(drawing.Interrupts, "deliver", lambda self: delivered.append(self.received))

    def stop_at(model, batch, number):
        sample, drawn = model.sample, []

        def interrupted(count, **options):
            if len(drawn) == batch:
                signal.raise_signal(number)
            drawn.append(count)
            return sample(count, **options)

        model.sample = interrupted
        return delivered

    return stop_at


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("name", ["folder", "grid.png"])
def test_a_signal_leaves_what_was_drawn_and_says_how_to_draw_the_rest(
    tmp_path, stopped, capsys, number, name
):
    model, out = make_model(), tmp_path / name
    expected = model.sample(6, seeds=list(range(10, 16)))
    if name == "folder":
        out.mkdir()
    delivered = stopped(model, 1, number)
    draw_into(out, model, range(10, 30), batch_size=3)
    said = capsys.readouterr()
    where = "" if name == "folder" else ", into another picture"
    assert f"6 images in {out}; 14 are still to be drawn, with --seed 16 -n 14{where}\n" in said.out
    assert "Stopping after these images" in said.err
    assert delivered == [number]
    if name == "folder":
        assert sorted(path.name for path in out.iterdir()) == [f"{seed:06d}.png" for seed in range(10, 16)]
        return
    save_image(make_grid(expected, nrow=3, padding=1, pad_value=1.0), tmp_path / "theirs.png")
    assert np.array_equal(pixels(out), pixels(tmp_path / "theirs.png"))


def test_images_are_not_kept(tmp_path):
    """What is on the disk is on the disk before the next batch is drawn."""
    model, there = make_model(), []
    sample = model.sample

    def watched(*args, **options):
        there.append(len(list(tmp_path.iterdir())))
        return sample(*args, **options)

    model.sample = watched
    draw_into(tmp_path, model, range(7), batch_size=2)
    assert there == [0, 2, 4, 6]


def test_a_picture_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    whole = Image.Image.save

    def breaks(self, path, **options):
        whole(self, path, **options)
        if path.name.startswith(".000001"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", breaks)
    with pytest.raises(OSError, match="No space left"):
        draw_into(tmp_path, make_model(), range(3), batch_size=1)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["000000.png"]


def test_several_processes_write_their_own_and_one_speaks(tmp_path, monkeypatch, capsys):
    states = [
        SimpleNamespace(process_index=i, num_processes=2, is_main_process=i == 0, device="cpu")
        for i in (0, 1)
    ]
    monkeypatch.setattr(
        "accelerate.utils.gather_object", lambda given: [4, 3] if given in ([4], [3]) else given
    )
    for state in reversed(states):
        monkeypatch.setattr(drawing, "this_process", lambda state=state: state)
        draw_into(tmp_path, make_model(), range(7), batch_size=2)
    assert len(list(tmp_path.iterdir())) == 7
    assert f"7 images in {tmp_path}" in capsys.readouterr().out
    for seed, image in enumerate(make_model().sample(7, seeds=list(range(7)))):
        expected = (image.mul(255) + 0.5).clamp(0, 255).to(torch.uint8).numpy()
        assert np.array_equal(pixels(tmp_path / f"{seed:06d}.png")[..., 0], expected[0])


# What `ddpm evaluate` keeps


def classed(channels=1):
    model = make_model(channels)
    model.network.num_classes = 3
    return model


def counting(model):
    """The seeds that the model is asked for."""
    sample, asked = model.sample, []

    def noted(*args, seeds, **options):
        asked.extend(seeds)
        return sample(*args, seeds=seeds, **options)

    model.sample = noted
    return asked


def test_the_image_of_a_seed_has_the_same_class_wherever_drawing_begins(tmp_path):
    """So that the rest of seven, from the fifth on, is what it would have been."""
    model, drawn = classed(), {}
    for name, ranges in (("whole", [range(7)]), ("parts", [range(4), range(4, 7)])):
        (tmp_path / name).mkdir()
        for seeds in ranges:
            draw_into(tmp_path / name, model, seeds, batch_size=3)
        drawn[name] = [pixels(path).tolist() for path in sorted((tmp_path / name).iterdir())]
    assert drawn["whole"] == drawn["parts"]
    save_image(model.sample(1, seeds=[5], labels=[5 % 3]), tmp_path / "sixth.png")
    assert drawn["whole"][5] == pixels(tmp_path / "sixth.png").tolist()


OPTIONS = {"batch_size": 3, "sampling_timesteps": None, "sampler": None, "spacing": None}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", [None, [0, 2, 1, 1, 0, 2, 2]])
def test_kept_images_are_what_is_drawn_in_whole_grey_levels(tmp_path, channels, labels):
    model = make_model(channels) if labels is None else classed(channels)
    expected = model.sample(7, seeds=list(range(5, 12)), labels=labels).mul(255).round() / 255
    for _ in range(2):
        assert torch.equal(draw_kept(tmp_path, model, range(5, 12), labels, **OPTIONS), expected)


@pytest.mark.parametrize("labels", [None, [0, 2, 1, 1, 0, 2, 2]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_same_call_goes_on_where_a_signal_stopped_it(tmp_path, stopped, capsys, number, labels):
    """Classes stay with their images, also those that come in turn."""
    arguments = (range(5, 12), labels)
    expected = draw_kept(tmp_path / "other", classed(), *arguments, **OPTIONS)
    (folder,) = (tmp_path / "other").iterdir()
    model = classed()
    stopped(model, 1, number)
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):  # here, where nothing delivers the signal
        draw_kept(tmp_path, model, *arguments, **OPTIONS)
    kept = tmp_path / folder.name
    out, _ = capsys.readouterr()
    assert out == f"6 images in {kept}; 1 is still to be drawn, by the same command\n"
    asked = counting(again := classed())
    assert torch.equal(draw_kept(tmp_path, again, *arguments, **OPTIONS), expected)
    assert asked == [11]
    assert capsys.readouterr().out == f"6 images in {kept}, drawn before\n1 image in {kept}\n"
    asked = counting(again := classed())
    assert torch.equal(draw_kept(tmp_path, again, *arguments, **OPTIONS), expected)
    assert asked == []


def test_a_larger_number_draws_what_is_missing_and_nothing_twice(tmp_path):
    asked = counting(model := make_model())
    draw_kept(tmp_path, model, range(4, 7), None, **OPTIONS)
    draw_kept(tmp_path, model, range(8), None, **OPTIONS | {"batch_size": 64})
    assert asked == [4, 5, 6, 0, 1, 2, 3, 7]


def other_weights(model):
    model.network.register_buffer("weight", torch.ones(1))
    return model


@pytest.mark.parametrize(
    ("model", "labels", "options", "again"),
    [
        (classed(), [0, 1, 2], OPTIONS, False),
        (classed(), None, OPTIONS, False),  # in turn, which is the same
        (classed(), [0, 1, 1], OPTIONS, True),
        (classed(), [0, 1, 2], OPTIONS | {"batch_size": 64}, False),
        (classed(), [0, 1, 2], OPTIONS | {"sampling_timesteps": 2}, False),  # the model's own
        (classed(), [0, 1, 2], OPTIONS | {"sampling_timesteps": 3}, True),
        (classed(), [0, 1, 2], OPTIONS | {"sampler": "dpm++"}, True),
        (classed(), [0, 1, 2], OPTIONS | {"spacing": "quadratic"}, True),
        (other_weights(classed()), [0, 1, 2], OPTIONS, True),
    ],
)
def test_images_of_another_model_or_drawn_otherwise_are_not_taken(tmp_path, model, labels, options, again):
    draw_kept(tmp_path, classed(), range(3), [0, 1, 2], **OPTIONS)
    asked = counting(model)
    draw_kept(tmp_path, model, range(3), labels, **options)
    assert asked == ([0, 1, 2] if again else [])


def test_a_log_says_from_time_to_time_how_many_there_are(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    model = make_model()
    sample = model.sample

    def slow(*args, **options):
        now[0] += 20
        return sample(*args, **options)

    model.sample = slow
    draw_into(tmp_path, model, range(10), batch_size=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2/10 images, 0:02:40 left"
    assert lines[-1] == "10/10 images"
    assert len(lines) == 5


def test_sample_leaves_its_images_when_it_is_killed_outright(tmp_path):
    words = ["sample", "digits", "-n", "100000", "--steps", "20", "--batch-size", "8", "--out", "out"]
    with subprocess.Popen([sys.executable, "-m", "ddpm", *words], cwd=tmp_path, env=ENVIRONMENT) as process:
        patience = time.monotonic() + 120
        while len(list(tmp_path.glob("out/0*.png"))) < 20:
            assert process.poll() is None
            assert time.monotonic() < patience
            time.sleep(0.05)
        process.kill()
    for path in tmp_path.glob("out/0*.png"):
        assert pixels(path).shape == (8, 8, 3)


SLOW = """
import pathlib, sys
from ddpm.cli import drawing, main
whole = drawing._as_bytes
def noted(images):
    pathlib.Path("drawn").touch()
    return whole(images)
drawing._as_bytes = noted
main(sys.argv[1:])
"""


def test_sample_answers_sigterm_with_a_picture_of_what_there_is(tmp_path):
    words = ["sample", "digits", "-n", "100000", "--steps", "20", "--batch-size", "8", "--out", "grid.png"]
    command = [sys.executable, "-c", SLOW, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, **pipes) as process:
        patience = time.monotonic() + 120
        while not (tmp_path / "drawn").exists():
            assert process.poll() is None
            assert time.monotonic() < patience
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM, err
    count = int(re.search(r"([\d,]+) images? in grid\.png; .* still to be drawn", out)[1].replace(",", ""))
    assert count % 8 == 0
    assert pixels(tmp_path / "grid.png").shape[1] == 9 * math.ceil(math.sqrt(count)) + 1


def test_evaluate_goes_on_after_it_was_killed_outright(ddpm, run):
    words = ["evaluate", str(run), "-n", "600", "--steps", "20", "--batch-size", "8", "--bound-images", "0"]
    with subprocess.Popen([sys.executable, "-m", "ddpm", *words], env=ENVIRONMENT) as process:
        patience = time.monotonic() + 120
        while len(there := list(run.glob("samples/*/0*.png"))) < 10:
            assert process.poll() is None
            assert time.monotonic() < patience
            time.sleep(0.05)
        process.kill()
    out, _ = ddpm(*words)
    before, after = map(int, re.findall(r"^([\d,]+) images in", out.replace(",", ""), re.MULTILINE))
    assert before >= len(there)
    assert before + after == 600
    assert ddpm(*words)[0].splitlines()[1:] == out.splitlines()[2:]
