"""A folder of pictures: all of them are found, in order; what cannot be read is named, counted and left out."""

import pickle
import struct
import warnings

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ddpm import data
from tests.data.pictures import assert_eight_bit, write_images


def cut_short(path):
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])


def test_image_folder_finds_images_at_any_depth_in_any_spelling_and_in_order(tmp_path):
    wanted = ["B.PNG", "a.jpg", "b/c.JPEG", "b/d/e.webp", "b/d/f.Tiff", "b/g.tif", "h.bmp"]
    write_images(tmp_path, reversed(wanted))
    (tmp_path / "folder.png").mkdir()
    dataset = data.image_folder(tmp_path, 8)
    assert [path.relative_to(tmp_path).as_posix() for path in dataset.paths] == wanted
    assert dataset.unreadable == {}
    images = torch.stack(list(dataset))
    assert images.shape == (7, 3, 8, 8)
    assert_eight_bit(images)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0], images[0])


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tiff", "bmp"])
def test_image_folder_names_counts_and_leaves_out_truncated_files(tmp_path, extension):
    names = [f"{name}.{extension}" for name in ("fine", "sub/broken", "also-fine")]
    write_images(tmp_path, names, size=(64, 64))
    cut_short(tmp_path / f"sub/broken.{extension}")
    message = rf"left out: 1 of 3 images .* cannot be read: .*broken\.{extension} \(.+\)"
    with pytest.warns(UserWarning, match=message) as caught:
        dataset = data.image_folder(tmp_path, 16)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # the warning points at the line that named the folder
    assert [path.name for path in dataset.paths] == [f"also-fine.{extension}", f"fine.{extension}"]
    assert [path.name for path in dataset.unreadable] == [f"broken.{extension}"]
    for workers in (0, 2):
        (batch,) = DataLoader(dataset, batch_size=4, num_workers=workers)
        assert batch.shape == (2, 3, 16, 16)


def set_tag(tag, place, form, value):
    """Writes a number into a TIFF's table: each entry is a tag (2 bytes), a kind (2), a count (4) and a value (4)."""

    def change(content, table):
        count = struct.unpack_from("<H", content, table)[0]
        entries = range(table + 2, table + 2 + 12 * count, 12)
        entry = next(at for at in entries if struct.unpack_from("<H", content, at)[0] == tag)
        struct.pack_into(form, content, entry + place, value)

    return change


WIDTH, STRIPS = 256, 273
BROKEN_TABLES = {
    "cut off": lambda content, table: content.__delitem__(slice(table + 20, None)),
    "beyond the file": lambda content, _: struct.pack_into("<I", content, 4, 2**32 - 1),
    "without entries": lambda content, table: struct.pack_into("<H", content, table, 0),
    "2^31 widths": set_tag(WIDTH, 4, "<I", 2**31),
    "no width": set_tag(WIDTH, 4, "<I", 0),
    "a width of 2^31": set_tag(WIDTH, 8, "<I", 2**31),
    "a width that is a fraction": set_tag(WIDTH, 2, "<H", 11),
    "a width in words": set_tag(WIDTH, 2, "<H", 2),
    "2^31 strips": set_tag(STRIPS, 4, "<I", 2**31),
    "strips beyond the file": set_tag(STRIPS, 8, "<I", 2**32 - 1),
}


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("change", BROKEN_TABLES.values(), ids=BROKEN_TABLES)
def test_a_tiff_with_a_broken_table_is_left_out_by_its_name(tmp_path, change, compression):
    write_images(tmp_path, ["fine.png"])
    Image.new("RGB", (20, 20)).save(tmp_path / "broken.tif", compression=compression)
    content = bytearray((tmp_path / "broken.tif").read_bytes())
    change(content, struct.unpack_from("<I", content, 4)[0])
    (tmp_path / "broken.tif").write_bytes(content)
    with pytest.warns(UserWarning, match=r"left out: 1 of 2 images .*broken\.tif \([^<\n]+\)$") as caught:
        dataset = data.image_folder(tmp_path, 8)
    assert len(caught) == 1
    assert [path.name for path in dataset.paths] == ["fine.png"]
    with pytest.raises(RuntimeError, match=r"cannot read the image .*broken\.tif: [^<\n]+$"):
        data.image_folder(tmp_path, 8, check=False)[0]


def test_image_folder_cuts_a_long_list_of_problems(tmp_path):
    write_images(tmp_path, ["fine.png"])
    for index in range(11):
        (tmp_path / f"{index:02}.jpg").write_text("no image at all")
    (tmp_path / "10.jpg").write_bytes(b"")
    (tmp_path / "11.bmp").write_bytes(bytes(1000))
    with pytest.warns(UserWarning, match=r"12 of 13 .*00\.jpg .*09\.jpg .*; and 2 more$"):
        dataset = data.image_folder(tmp_path, 8)
    assert len(dataset.unreadable) == 12


def test_image_folder_without_the_check_names_a_broken_file_in_its_turn(tmp_path):
    write_images(tmp_path, ["a.jpg", "b.jpg"], size=(64, 64))
    cut_short(tmp_path / "b.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = data.image_folder(tmp_path, 8, check=False)
    assert dataset[0].shape == (3, 8, 8)
    with pytest.raises(RuntimeError, match=r"cannot read the image .*b\.jpg: .*truncated"):
        dataset[1]


def test_image_folder_warns_of_images_that_have_to_be_enlarged(tmp_path):
    write_images(tmp_path, ["a.png", "b.png"], size=(40, 40))
    write_images(tmp_path, ["c.png"], size=(40, 20))
    message = r"1 of 3 images .* smaller than image_size 24×24 .*c\.png, 40×20\); .* at most 20$"
    with pytest.warns(UserWarning, match=message) as caught:
        assert len(data.image_folder(tmp_path, 24)) == 3
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.image_folder(tmp_path, (40, 20))


@pytest.mark.parametrize(
    ("files", "place", "error", "message"),
    [
        ([], "", ValueError, r"holds no image: none of its 0 files ends in one of \.jpg"),
        (["notes.txt"], "", ValueError, "none of its 1 files"),
        (["notes.txt"], "notes.txt", NotADirectoryError, r"notes\.txt is a file; give the path of a folder"),
        ([], "nowhere", NotADirectoryError, "nowhere does not exist"),
        (["a.jpg", "b.png"], "", ValueError, r"2 of 2 images .* cannot be read: .*a\.jpg .*b\.png"),
        (
            ["x.heic", ".y.png"],
            "",
            ValueError,
            r"none of its 2 .*\.xpm \(left out: 1 hidden: .*1 \.heic .*: pip install",
        ),
        (["a.jpg"], "a.jpg/b", NotADirectoryError, "a.jpg/b does not exist"),
    ],
)
def test_image_folder_refuses_folders_that_cannot_be_used(tmp_path, files, place, error, message):
    for name in files:
        (tmp_path / name).write_text("no image")
    with pytest.raises(error, match=message):
        data.image_folder(tmp_path / place, 8)


@pytest.mark.parametrize("word", ["digits", "CIFAR-10"])
def test_a_folder_that_is_asked_for_by_a_name_is_told_how_to_get_the_data(tmp_path, monkeypatch, word):
    """The Trainer takes folders and data sets; a word is a folder there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        NotADirectoryError, match=rf"{word} does not exist; .*: ddpm.data.load_dataset\('{word}'\)$"
    ):
        data.image_folder(word, 8)
    with pytest.raises(NotADirectoryError, match=r"a folder that holds images$"):
        data.image_folder(f"./{word}", 8)


def test_image_folder_knows_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_images(tmp_path, ["pictures/a.png"])
    assert data.image_folder("~/pictures", 8).paths == [tmp_path / "pictures/a.png"]
    assert data.load_dataset("~/pictures", image_size=8).paths == [tmp_path / "pictures/a.png"]


def test_items_come_one_by_one_and_by_the_batch(tmp_path):
    write_images(tmp_path, ["a.png", "b.png", "c.png"])
    dataset = data.image_folder(tmp_path, 8)
    for index, image in zip([2, 0, 2], dataset.__getitems__([2, 0, 2]), strict=True):
        assert torch.equal(image, dataset[index])


@pytest.mark.parametrize("cached", [False, True])
def test_sub_folders_are_classes(tmp_path, cached):
    """In the order of their names, at any depth; one all of whose pictures cannot be read keeps its number."""
    folder = tmp_path / "pictures"
    write_images(folder, ["b/1.png", "a/deep/2.png", "a/3.png", "d/4.png"])
    (folder / "c").mkdir()
    (folder / "c" / "broken.png").write_text("no image")
    with pytest.warns(UserWarning, match="1 of 5 images"):
        dataset = data.load_dataset(
            folder, image_size=8, classes="folders", cache=tmp_path / "cache" if cached else None
        )
    assert dataset.classes == ["a", "b", "c", "d"]
    assert [path.name for path in dataset.paths] == ["3.png", "2.png", "1.png", "4.png"]
    assert [label for _, label in dataset] == [0, 0, 1, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = data.image_folder(folder, 8)
    assert plain.classes is None
    for index, (image, label) in enumerate(dataset.__getitems__([3, 0])):
        assert torch.equal(image, plain[[3, 0][index]])
        assert label == [3, 0][index]
    images, labels = next(iter(DataLoader(dataset, batch_size=4)))
    assert (tuple(images.shape), labels.tolist()) == ((4, 3, 8, 8), [0, 0, 1, 3])


@pytest.mark.parametrize(
    "names",
    [["train/1.png", "bus/1.png"], ["test/1.png", "a/1.png"], ["0/1.png", "1/1.png"], ["cats/1.png"]],
)
def test_a_class_may_be_called_as_a_part_is(tmp_path, names):
    write_images(tmp_path, names)
    dataset = data.image_folder(tmp_path, 8, classes="folders")
    assert dataset.classes == sorted(name[:-6] for name in names)


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (["a/1.png", "2.png"], "folders", r"has to lie in one, but 1 lie in .* itself, such as 2\.png: move"),
        (
            ["celeba/celeba/1.png"],
            "folders",
            r"but celeba would be the only one: give .*/celeba, or",
        ),
        (
            ["test/a/1.png", "train/a/1.png"],
            "folders",
            r"test and train would be the parts .* as .*/train, or",
        ),
        (["Test/1.png", "TRAIN/1.png", "val/1.png"], "folders", r"such as .*/TRAIN, or do without classes"),
        (["a/1.png"], "labels", "unknown classes 'labels'; choose one of 'folders'"),
    ],
)
def test_what_cannot_be_classes_is_refused(tmp_path, names, classes, message):
    write_images(tmp_path, names)
    with pytest.raises(ValueError, match=message):
        data.image_folder(tmp_path, 8, classes=classes)
    with pytest.raises(ValueError, match="classes='folders' is for a folder of images; digits has labels"):
        data.load_dataset("digits", classes="folders")
