"""Every file below a folder is a picture that is taken, or left out for a reason that is told."""

import os
import socket
import sys
from types import SimpleNamespace

import pytest
from PIL import Image, PngImagePlugin

from ddpm import data
from ddpm.data import files
from ddpm.data.files import AGAIN, ENDING, HIDDEN, NOWHERE, OF_A_RUN, SPECIAL, find_images, picture_endings
from ddpm.data.images import add_formats
from tests.data.pictures import write_images

ONE_EACH = {  # path below the folder -> why it is left out, None for a picture; "->" is a link
    "a.png": None,
    "B.JPEG": None,
    "deep/er/c.webp": None,
    "folder.png/d.bmp": None,
    "e.jfif": None,
    "f.gif": None,
    "g.PPM": None,
    "h.mpo": None,
    "i.pjpeg": None,
    "j.tga": None,
    "k.jp2": None,
    "nearly.png.txt": ENDING,
    "x.heic": ENDING,
    "x.CR2": ENDING,
    "x.svg": ENDING,
    "x.npy": ENDING,
    "x.h5": ENDING,
    "x.mpeg": ENDING,
    "x.jpg_large": ENDING,
    "no_ending": ENDING,
    "._a.png": HIDDEN,
    ".hidden.jpg": HIDDEN,
    ".ipynb_checkpoints/a-checkpoint.png": HIDDEN,
    ".thumbnails/large/a.png": HIDDEN,
    ".Trash-1000/files/a.png": HIDDEN,
    "__MACOSX/a.png": HIDDEN,
    "deep/@eaDir/a.jpg/b.jpg": HIDDEN,
    "$RECYCLE.BIN/a.png": HIDDEN,
    "lost+found/a.png": HIDDEN,
    "RECYCLER/a.png": HIDDEN,
    "#snapshot/old/a.png": HIDDEN,
    "~snapshot/daily.0/a.png": HIDDEN,
    "@__thumb/default/a.png": HIDDEN,
    "@Recently-Snapshot/a.png": HIDDEN,
}


@pytest.mark.parametrize(("name", "reason"), ONE_EACH.items())
def test_each_file_is_taken_or_left_out_for_its_reason(tmp_path, name, reason):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"anything")
    found = find_images(tmp_path)
    assert found.images == ([] if reason else [tmp_path / name])
    assert found.left_out == ({tmp_path / name: reason} if reason else {})
    said = files.described(found, tmp_path)
    assert (name in said and reason in said) if reason else said == ""


@pytest.mark.parametrize("name", [".DS_Store", ".git/objects/ab", ".cache/notes.txt"])
def test_what_is_hidden_and_no_picture_is_no_news(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"anything")
    assert find_images(tmp_path).left_out == {}


@pytest.mark.parametrize("name", ["bird", "bird/.DS_Store", "bird/.keep", "bird/.thumbnails/x", "deep/bird"])
def test_a_folder_with_nothing_to_be_seen_in_it_is_named(tmp_path, name):
    """What a download that broke off leaves."""
    write_images(tmp_path, ["cat/a.png"])
    (tmp_path / name).mkdir(parents=True)
    found = find_images(tmp_path)
    bird = name[: name.index("bird") + 4]
    assert found.left_out == {tmp_path / bird: files.EMPTY}
    assert files.described(found, tmp_path) == f"1 empty: {bird}"
    assert find_images(tmp_path / bird).left_out == {}


def test_a_hidden_folder_may_be_asked_for(tmp_path):
    write_images(tmp_path, [".cache/pictures/a.png"])
    assert len(find_images(tmp_path / ".cache/pictures").images) == 1
    assert len(find_images(tmp_path / ".cache").images) == 1


LINKS = [  # links, pictures found, left out; the folder holds a.png and sub/b.png, and outside lies out/c.png
    ({"l.png": "a.png"}, ["a.png", "l.png", "sub/b.png"], {}),
    ({"l": "../out"}, ["a.png", "l/c.png", "sub/b.png"], {}),
    ({"0": "sub"}, ["a.png", "sub/b.png"], {"0": AGAIN}),
    ({"sub/up": ".."}, ["a.png", "sub/b.png"], {"sub/up": AGAIN}),
    ({"l": "../out", "m": "../out"}, ["a.png", "l/c.png", "sub/b.png"], {"m": AGAIN}),
    ({"l": "l"}, ["a.png", "sub/b.png"], {"l": NOWHERE}),
    ({"l.png": "gone.png"}, ["a.png", "sub/b.png"], {"l.png": NOWHERE}),
    ({"l": "/gone/folder"}, ["a.png", "sub/b.png"], {"l": NOWHERE}),
    ({".l.png": "a.png"}, ["a.png", "sub/b.png"], {".l.png": HIDDEN}),
    ({"l.png": "../out/.d.png"}, ["a.png", "l.png", "sub/b.png"], {}),
    ({"l": "../out/.store"}, ["a.png", "l/e.png", "sub/b.png"], {}),
]


@pytest.mark.parametrize(("links", "taken", "left_out"), LINKS)
def test_links_are_followed_and_folders_read_once(tmp_path, links, taken, left_out):
    folder = tmp_path / "pictures"
    write_images(folder, ["a.png", "sub/b.png", "../out/c.png", "../out/.d.png", "../out/.store/e.png"])
    for name, target in links.items():
        (folder / name).symlink_to(target)
    found = find_images(folder)
    assert sorted(path.relative_to(folder).as_posix() for path in found.images) == taken
    hidden_outside = {path: why for path, why in found.left_out.items() if "l/" in str(path)}
    expected = {folder / name: why for name, why in left_out.items()}
    assert {path: why for path, why in found.left_out.items() if path not in hidden_outside} == expected
    (tmp_path / "by-link").symlink_to(folder)
    assert len(find_images(tmp_path / "by-link").images) == len(taken)


def test_a_link_into_a_hidden_store_is_followed(tmp_path):
    """As programs for large data lay them out; the store itself stays hidden."""
    write_images(tmp_path, [".store/e.png"])
    (tmp_path / "l").symlink_to(".store")
    found = find_images(tmp_path)
    assert found.images == [tmp_path / "l/e.png"]
    assert found.left_out == {tmp_path / ".store/e.png": HIDDEN}


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    """Reading a pipe would wait for ever."""
    write_images(tmp_path, ["a.png"])
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as place:
        place.bind(str(tmp_path / "s.png"))
    found = find_images(tmp_path)
    assert [path.name for path in found.images] == ["a.png"]
    assert found.left_out == {tmp_path / "pipe.png": SPECIAL, tmp_path / "s.png": SPECIAL}


@pytest.fixture
def closed(monkeypatch):
    """Folders called "closed" cannot be listed, whoever runs the tests."""
    listing = os.scandir

    def scandir(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listing(folder)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.usefixtures("closed")
def test_a_folder_that_cannot_be_opened_is_named(tmp_path):
    write_images(tmp_path, ["a.png", "deep/closed/b.png"])
    with pytest.warns(UserWarning, match=r"1 cannot be opened \(Permission denied\): deep/closed$"):
        dataset = data.image_folder(tmp_path, 8)
    assert len(dataset) == 1
    assert dataset.left_out == {tmp_path / "deep/closed": "cannot be opened (Permission denied)"}
    with pytest.raises(PermissionError, match="Permission denied"):
        data.image_folder(tmp_path / "deep/closed", 8)


RUNS = [["samples/step-1.png", name] for name in ("run.json", "metrics.jsonl", "checkpoints/step-00000003/x")]


@pytest.mark.parametrize("content", RUNS)
def test_samples_of_a_run_are_no_data(tmp_path, content):
    write_images(tmp_path, ["a.png", "run/samples/step-1.png", "run/drawn/0.png", "run/mine.png"])
    for name in content[1:]:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("{}")
    found = find_images(tmp_path)
    assert found.images == [tmp_path / "a.png"]
    assert set(found.left_out.values()) == {OF_A_RUN}
    assert len(found.left_out) == 3
    # The run's folder itself: what the run did not write there is data.
    found = find_images(tmp_path / "run")
    assert [path.name for path in found.images] == ["0.png", "mine.png"]


@pytest.mark.parametrize("names", [["samples/a.png"], ["samples/a.png", "sub/run.json"], ["run.json"]])
def test_a_folder_that_is_called_samples_is_no_run_for_that(tmp_path, names):
    write_images(tmp_path, ["x/b.png", *(f"x/{name}" for name in names if name.endswith("png"))])
    for name in names:
        (tmp_path / "x" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x" / name).touch()
    assert OF_A_RUN not in find_images(tmp_path).left_out.values()


def test_endings_are_all_that_pillow_reads():
    """Each writes what it can and reads it back, under its own ending."""
    endings = picture_endings()
    assert endings[:3] == (".jpg", ".jpeg", ".png")
    assert len(endings) == len(set(endings)) > 60
    known = Image.registered_extensions()
    assert {".avif", ".qoi", ".dds", ".jfif", ".apng", ".ico", ".psd"} < set(endings)
    passed_over = {ending for ending, name in known.items() if name in Image.OPEN} - set(endings)
    assert {known[ending] for ending in passed_over} == {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}


WRITTEN = ["jpg", "png", "webp", "tiff", "bmp", "gif", "jfif", "jpe", "ppm", "pgm", "pcx", "tga"]
WRITTEN += ["sgi", "ico", "icns", "jp2", "dds", "dib", "qoi", "apng", "avif", "mpo", "pjpeg"]


@pytest.mark.parametrize("ending", WRITTEN)
def test_a_file_of_each_ending_is_read(tmp_path, ending):
    kinds = {"mpo": "MPO", "pjpeg": "JPEG", "ico": "ICO"}
    picture = Image.new("RGB", (32, 32), (200, 40, 90))
    picture.save(tmp_path / f"x.{ending}", kinds.get(ending))
    image = data.image_folder(tmp_path, 32)[0]
    assert (image - picture.getpixel((0, 0))[0] / 255)[0].abs().max() < 0.06
    assert image[1].max() < 0.35


def register():
    """What pillow-heif's function does, for PNGs."""
    Image.register_open("HEIF", PngImagePlugin.PngImageFile, lambda start: start.startswith(b"\x89PNG"))
    Image.register_extension("HEIF", ".heic")


def test_photographs_of_phones_are_read_once_the_package_is_there(tmp_path, monkeypatch):
    """What the warning advises; afterwards all is as before for the tests that follow."""
    write_images(tmp_path, ["a.png"])
    (tmp_path / "b.heic").write_bytes((tmp_path / "a.png").read_bytes())
    with pytest.warns(
        UserWarning, match=r"1 \.heic \(b\.heic\); those of phones .*: pip install pillow-heif$"
    ):
        assert len(data.image_folder(tmp_path, 8)) == 1
    for name in ("OPEN", "EXTENSION", "ID"):
        monkeypatch.setattr(Image, name, getattr(Image, name).copy())
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    add_formats.cache_clear()
    try:
        assert len(data.image_folder(tmp_path, 8)) == 2
    finally:
        add_formats.cache_clear()


def test_a_message_counts_what_it_does_not_name(tmp_path):
    write_images(tmp_path, ["a.png", *(f".t/{number}.png" for number in range(7))])
    for number in range(5):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / "x.cr2").touch()
    said = "left out of .*: 7 hidden: .t/0.png, .t/1.png, .t/2.png and 4 more; 6 with another ending than pictures"
    with pytest.warns(UserWarning, match=rf"^{said} have: 5 \.txt \(0\.txt\), 1 \.cr2 \(x\.cr2\)$") as caught:
        dataset = data.image_folder(tmp_path, 8)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert len(dataset.left_out) == 13


def test_a_message_does_not_name_as_many_endings_as_the_web_has(tmp_path):
    write_images(tmp_path, ["a.png"])
    for number in range(99):
        (tmp_path / f"a.jpg?w={number}").touch()
    with pytest.warns(UserWarning, match=r": 99 with another .* \(a\.jpg\?w=17\) and 89 other endings$"):
        data.image_folder(tmp_path, 8)
