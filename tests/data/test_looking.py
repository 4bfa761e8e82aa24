"""While files are read something is said, once; and what Pillow says has the file's name, once."""

import errno
import os
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from ddpm import data
from ddpm.data import looking
from ddpm.data.looking import look_at, told
from tests.data.pictures import write_images
from tests.io.test_streams import Broken

CUT_OFF = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"


def write_noisy(folder):
    """A panorama of 90 megapixels, cut-off metadata, broken ones; and what Pillow is silent about."""
    picture = Image.fromarray(np.zeros((20, 20, 3), np.uint8))
    Image.new("1", (10_000, 9_000)).save(folder / "panorama.png")
    picture.save(folder / "exif.jpg", exif=CUT_OFF)
    picture.save(folder / "broken.webp", exif=b"Exif\0\0nonsense")
    picture.save(folder / "fine.png")
    return ["broken.webp", "exif.jpg", "panorama.png"]


def caught(call):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        given = call()
    return given, [str(warning.message) for warning in said]


@pytest.mark.parametrize("options", [{}, {"check": False}, {"cache": "cache"}])
def test_what_pillow_says_has_the_files_name_and_does_not_come_again(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    names = write_noisy(tmp_path / "pictures")
    dataset, first = caught(lambda: data.image_folder(tmp_path / "pictures", 8, **options))
    if options.get("check", True):
        assert len(first) == 1
        assert f"of 3 images in {tmp_path / 'pictures'} Pillow says: " in first[0]
        assert all(f"/{name} (" in first[0] for name in names)
        assert "decompression bomb" in first[0]
    for epoch in range(2):
        _, later = caught(lambda: [dataset[index] for index in range(4)])
        if options.get("check", True):
            assert later == []
        elif epoch == 0:  # nobody has looked before
            assert len(later) == 3
            assert all(f"/{name}: " in text for name, text in zip(names, later, strict=True))


def test_without_the_check_it_is_said_once_for_each_file(tmp_path, capsys, monkeypatch):
    names = write_noisy(tmp_path)
    dataset = data.image_folder(tmp_path, 8, check=False)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: print(message))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for _ in range(3):
            list(map(dataset.__getitem__, range(4)))
    said = capsys.readouterr().out.splitlines()
    assert [name for text in said for name in names if name in text] == names


def test_reading_leaves_the_warnings_of_others_alone(tmp_path):
    """Neither are they lost nor do they come again: the filters of a program are not touched by sound files."""
    write_images(tmp_path, ["a.png"])
    dataset = data.image_folder(tmp_path, 8)
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda message, *_, **__: said.append(str(message))
        for _ in range(3):
            warnings.warn("of somebody else", stacklevel=1)
            dataset[0]
    assert said == ["of somebody else"]


def test_warnings_of_other_threads_are_shown_as_ever():
    done = threading.Event()

    def read(path):
        done.wait(10)
        warnings.warn("of the file", stacklevel=1)
        return path, (1, 1)

    def elsewhere():
        warnings.warn("of another thread", stacklevel=1)
        done.set()

    def look():
        looks = look_at(["x"], read, "looking")
        threading.Timer(0.2, elsewhere).start()
        return list(looks)

    looks, said = caught(look)
    assert looks == [("x", looking.Look((1, 1), "", ("of the file",)), "x")]
    assert said == ["of another thread"]


# Files of several pictures


def write_several(folder):
    """Two pages or frames a file, red and blue; a photograph with a second view; and one whose second page is cut."""
    red, blue = (Image.new("RGB", (20, 20), colour) for colour in ("red", "blue"))
    for name in ("a.gif", "b.tif", "c.webp", "d.png"):
        red.save(folder / name, save_all=True, append_images=[blue], duration=100)
    red.save(folder / "e.tif", save_all=True, append_images=[blue])
    red.save(folder / "one.gif")
    red.save(folder / "one.mpo", save_all=True, append_images=[blue])
    whole = (folder / "a.gif").read_bytes()
    (folder / "cut.gif").write_bytes(whole[: whole.rindex(b",") + 4])


@pytest.mark.parametrize("options", [{}, {"check": False}, {"cache": "cache"}])
def test_files_of_several_pictures_are_counted_and_named_once(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    write_several(tmp_path / "pictures")
    dataset, first = caught(lambda: data.image_folder("pictures", 8, **options))
    several = (
        "of 5 images in pictures the first of several pictures is taken: a.gif, b.tif, c.webp and 2 more"
    )
    assert first == ([several] if options.get("check", True) else [])
    images, later = caught(lambda: [dataset[index] for index in range(8)])
    assert later == []
    assert len(dataset) == 8
    for image in images:
        assert image[0].min() > 0.9
        assert image[2].max() < 0.1


# Something is said


@pytest.mark.parametrize(
    ("pause", "rank", "lines"), [(0.03, "0", 1), (0.03, None, 1), (0.0, "0", 0), (0.03, "1", 0)]
)
def test_one_line_says_how_long_it_takes(monkeypatch, capsys, pause, rank, lines):
    monkeypatch.setattr(looking, "_PATIENCE", 0.1)
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)

    def slow():
        for number in range(20):
            time.sleep(pause)
            yield number

    assert list(told(slow(), 20, "looking at x")) == list(range(20))
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == lines
    for line in err.splitlines():
        assert line.startswith("looking at x: ")
        assert " of 20 images, about " in line
        assert line.endswith(" left")


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(looking, "_PATIENCE", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(told(range(5), 5, "looking at x")) == list(range(5))
    assert "looking at x:" in capsys.readouterr().err


@pytest.mark.parametrize("stream", [None, Broken(OSError(errno.EIO, "Input/output error"))])
def test_files_are_read_where_nobody_listens(monkeypatch, stream):
    monkeypatch.setattr(looking, "_PATIENCE", 0.0)
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(told(range(5), 5, "looking at x")) == list(range(5))


@pytest.mark.parametrize("options", [{}, {"cache": "cache"}])
def test_a_folder_that_takes_long_says_so_before_it_is_done(tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "pictures", [f"{number:02}.png" for number in range(40)])
    monkeypatch.setattr(looking, "_PATIENCE", -1.0)
    data.image_folder("pictures", 8, **options)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.split(": ")[0] in ("looking at the images in pictures", "preparing the images in pictures")
    assert ": 1 of 40 images" in line


# Order, errors


def test_answers_come_in_order_and_few_are_ahead(monkeypatch):
    monkeypatch.setattr(looking, "_cores", lambda: 2)
    started = []

    def read(number):
        started.append(number)
        time.sleep(0.001 * (number % 3))
        if number % 7 == 3:
            raise [ValueError("seven"), KeyError()][number % 2]
        return -number, (number, 1)

    looks = look_at(range(100), read, "looking")
    path, look, given = next(looks)
    assert (path, look.size, given) == (0, (0, 1), 0)
    assert len(started) <= 1 + 2 * 8
    rest = list(looks)
    assert [path for path, _, _ in rest] == list(range(1, 100))
    for number, look, given in rest:
        broken = number % 7 == 3
        assert look.problem == (("seven", "KeyError")[number % 2] if broken else "")
        assert given == (None if broken else -number)


def test_ctrl_c_does_not_wait_for_what_is_ahead(monkeypatch):
    monkeypatch.setattr(looking, "_cores", lambda: 1)
    looks = look_at(range(1000), lambda _: (time.sleep(0.05), (1, 1)), "looking")
    next(looks)
    began = time.monotonic()
    looks.close()
    assert time.monotonic() - began < 0.3


def test_cores_are_those_that_the_program_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert looking._cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    assert looking._cores() == (os.cpu_count() or 1)
