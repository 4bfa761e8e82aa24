"""A cache of prepared images: the same pixels, decoded once, whatever comes, goes, changes or breaks in between."""

import errno
import json
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ddpm import data
from ddpm.data import cache as caches
from ddpm.data.cache import PreparedImages, is_fresh, prepare_all
from ddpm.data.images import PrepareImage
from tests.cli.small_runs import ENVIRONMENT
from tests.data.pictures import write_images


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded, as they are."""
    names, read = [], caches.read_sized
    monkeypatch.setattr(caches, "read_sized", lambda path, size: names.append(path.name) or read(path, size))
    return names


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "pictures", ["a.png", "b.jpg", "sub/c.png"], size=(20, 30))
    return tmp_path / "pictures"


def opened(folder, size=8, **options):
    """The images through the cache and without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = data.image_folder(folder, size, cache=folder.parent / "cache", **options)
        return kept, data.image_folder(folder, size, **options)


def assert_same(folder, size=8, **options):
    kept, plain = opened(folder, size, **options)
    assert kept.paths == plain.paths
    assert kept.unreadable == plain.unreadable
    for flips in (0, 1):
        torch.manual_seed(flips)
        expected = plain.__getitems__(range(len(plain)))
        torch.manual_seed(flips)
        for image, other in zip(kept.__getitems__(range(len(kept))), expected, strict=True):
            assert torch.equal(image, other)
            assert image.dtype == other.dtype
    return kept


@pytest.mark.parametrize("options", [{}, {"channels": 1}, {"augment_horizontal_flip": True}, {"channels": 4}])
@pytest.mark.parametrize("size", [8, (6, 12)])
def test_cached_images_are_the_same_bit_for_bit(folder, decoded, size, options):
    kept = assert_same(folder, size, **options)
    assert sorted(decoded) == ["a.png", "b.jpg", "c.png"]
    decoded.clear()
    again = assert_same(folder, size, **options)
    assert decoded == []
    (folder / "a.png").unlink()  # what is cached needs its file no more
    assert torch.equal(again[0], kept[0]) or options.get("augment_horizontal_flip")
    for workers in (0, 2):
        (batch,) = DataLoader(again, batch_size=3, num_workers=workers)
        assert batch.shape[0] == 3
    other = pickle.loads(pickle.dumps(again))
    assert again._prepared[0]._pixels is not None
    assert other._prepared[0]._pixels is None  # each process maps them for itself
    assert other[1].shape == again[1].shape


def change(folder):
    Image.new("RGB", (40, 40), "red").save(folder / "a.png")


def touch(folder):
    os.utime(folder / "b.jpg", ns=(1, 1))


def move(folder):
    (folder / "a.png").rename(folder / "z.png")


def swap(folder):
    """The same two files under each other's names."""
    (folder / "a.png").rename(folder / "x")
    (folder / "sub/c.png").rename(folder / "a.png")
    (folder / "x").rename(folder / "sub/c.png")


def spoil(folder):
    (folder / "sub/c.png").write_bytes(b"no picture")


CHANGES = [  # what happens, the files that are decoded again
    (lambda _: None, []),
    (change, ["a.png"]),
    (touch, ["b.jpg"]),
    (move, ["z.png"]),
    (swap, ["a.png", "c.png"]),
    (spoil, ["c.png"]),
    (lambda folder: write_images(folder, ["0.png"]), ["0.png"]),
    (lambda folder: (folder / "b.jpg").unlink(), []),
]


@pytest.mark.parametrize(("happens", "again"), CHANGES)
def test_only_what_changed_is_decoded_again(folder, decoded, happens, again):
    opened(folder)
    happens(folder)
    decoded.clear()
    there = is_fresh(folder, PrepareImage(8, 3), folder.parent / "cache")
    assert (there, decoded) == (happens is CHANGES[0][0], [])
    assert_same(folder)
    assert sorted(decoded) == again
    files = {path.suffix for path in (folder.parent / "cache").iterdir() if path.name != ".lock"}
    assert files == {".json", ".u8"}
    assert len(list((folder.parent / "cache").glob("*.u8"))) == 1


def test_a_file_that_could_not_be_read_is_tried_again(folder, decoded):
    whole = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(bytes(len(whole)))
    os.utime(folder / "b.jpg", ns=(5, 5))
    assert [path.name for path in assert_same(folder).unreadable] == ["b.jpg"]
    index = (folder.parent / "cache/3x8x8.json").read_bytes()
    decoded.clear()
    assert len(assert_same(folder)) == 2
    assert decoded == ["b.jpg"]
    assert (folder.parent / "cache/3x8x8.json").read_bytes() == index
    (folder / "b.jpg").write_bytes(whole)
    os.utime(folder / "b.jpg", ns=(5, 5))
    assert len(assert_same(folder)) == 3


def test_warnings_and_sizes_are_kept(folder):
    """What the first look said, every start says."""
    write_images(folder, ["small.png"], size=(4, 5))
    (folder / "broken.png").write_bytes(b"")
    cut_off = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"
    Image.new("RGB", (30, 30)).save(folder / "exif.jpg", exif=cut_off)
    said = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data.image_folder(folder, 8, cache=folder.parent / "cache")
        said.append([str(warning.message) for warning in caught])
    assert said[0] == said[1]
    assert len(said[0]) == 3
    for word in ("broken.png", "exif.jpg (Corrupt EXIF", "1 of 5 images", "small.png, 4×5"):
        assert any(word in text for text in said[0])


def test_one_cache_serves_several_sizes_and_folders_that_moved(folder, decoded):
    for size in (8, 16):
        opened(folder, size)
    decoded.clear()
    for size in (8, 16):
        assert_same(folder, size)
    moved = folder.rename(folder.parent / "moved")
    assert_same(moved)
    assert decoded == []


def cut(cache):
    file = next(cache.glob("*.u8"))
    file.write_bytes(file.read_bytes()[:-1])


def lose(cache):
    next(cache.glob("*.u8")).unlink()


def garble(text):
    return lambda cache: next(cache.glob("*.json")).write_text(text)


def other_format(cache):
    index = next(cache.glob("*.json"))
    index.write_text(json.dumps(json.loads(index.read_text()) | {"format": 0}))


DAMAGE = [
    (cut, r"has 575 bytes where 576 are due"),
    (lose, r"No such file"),
    (garble(""), "Expecting value"),
    (garble("{}"), "'format'"),
    (garble("[]"), "list indices"),
    (garble('{"format": 1, "images": [[1]]}'), "not enough values"),
    (garble('{"format": 1, "images": [], "pixels": "../../x"}'), "No such file"),
    (other_format, None),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_cache_is_made_again(folder, damage, message):
    opened(folder)
    damage(folder.parent / "cache")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data.image_folder(folder, 8, cache=folder.parent / "cache")
    assert len(said) == (message is not None)
    for warning in said:
        assert "3x8x8.json is damaged (" in str(warning.message)
        assert message in str(warning.message)
        assert str(warning.message).endswith("): it is made again")
    assert_same(folder)


def test_a_cache_that_is_killed_in_its_making_leaves_the_one_before(folder):
    before = opened(folder)[0].__getitems__(range(3))
    swap(folder)
    script = f"""
import os
from ddpm.data import cache
cache.write_whole = lambda *_: os._exit(9)  # the pixels are in place, the index is not
from ddpm.data import image_folder
image_folder({str(folder)!r}, 8, cache={str(folder.parent / "cache")!r})
"""
    killed = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, check=False)
    assert killed.returncode == 9, killed.stderr
    (folder.parent / "cache/.3x8x8-remains.u8.part").write_bytes(b"of another")
    swap(folder)
    assert all(map(torch.equal, opened(folder)[0].__getitems__(range(3)), before))
    write_images(folder, ["new.png"])
    assert_same(folder)
    assert len(list((folder.parent / "cache").glob("*.u8"))) == 1
    assert list((folder.parent / "cache").glob(".*part")) == []


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (
            errno.ENOSPC,
            "No space left on device); the disk is full: make room, or choose another folder for the cache",
        ),
        (errno.EDQUOT, "your quota on that disk is used up"),
        (errno.EROFS, "that disk is read-only: choose another folder for the cache, or do without it"),
    ],
)
def test_a_cache_that_cannot_be_written_says_what_to_do(folder, monkeypatch, number, hint):
    opened(folder)
    change(folder)

    def fail(_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=r"the cache of images .* cannot be written") as refused:
            data.image_folder(folder, 8, cache=folder.parent / "cache")
    assert hint in str(refused.value)
    assert refused.value.errno == number
    assert len(list((folder.parent / "cache").glob("*.u8"))) == 1
    assert_same(folder)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_a_cache_is_for_a_folder(tmp_path, name):
    with pytest.raises(ValueError, match="is for a folder of images, and not for"):
        data.load_dataset(name, cache=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_is_for_images_of_one_shape(folder):
    for prepare in (PrepareImage(), PrepareImage(8), PrepareImage(channels=3)):
        with pytest.raises(ValueError, match="a cache of images needs their size and channels"):
            prepare_all([folder / "a.png"], folder, prepare, folder.parent / "cache")


def test_pixels_are_in_the_order_that_is_asked_for(folder):
    paths, prepare = [folder / "a.png", folder / "b.jpg"], PrepareImage(8, 3)
    first = prepare_all(paths, folder, prepare, folder.parent / "cache")[1][[0, 1]]
    looks, images = prepare_all(paths[::-1], folder, prepare, folder.parent / "cache")
    assert list(looks) == paths[::-1]
    assert torch.equal(images[[1, 0]], first)


def test_processes_make_it_once(folder):
    script = f"""
import warnings
from ddpm.data import image_folder
print(sum(float(image.sum()) for image in image_folder({str(folder)!r}, 8, cache={str(folder.parent / "cache")!r})))
"""
    command = [sys.executable, "-c", script]
    both = [subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate(timeout=60)[0] for process in both}
    assert len(printed) == 1
    assert float(printed.pop()) == pytest.approx(sum(float(image.sum()) for image in opened(folder)[1]))


def test_pixels_are_in_memory_of_their_own(tmp_path):
    pixels = np.arange(24, dtype=np.uint8)
    (tmp_path / "x.u8").write_bytes(pixels.tobytes())
    images = PreparedImages(tmp_path / "x.u8", 2, (3, 2, 2))
    rows = images[[1, 0, 1]]
    assert rows.shape == (3, 3, 2, 2)
    assert rows[1].flatten().tolist() == list(range(12))
    rows += 1
    assert images[[0]].flatten().tolist() == list(range(12))
