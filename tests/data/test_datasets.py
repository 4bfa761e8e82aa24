"""Data: every kind of picture file becomes the tensor that its format's definition says, or is named and left out."""

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea
from sklearn.datasets import load_digits, load_sample_image
from torch.utils.data import DataLoader

from ddpm import data, to_model_scale
from ddpm.book import photographs
from ddpm.data import datasets
from ddpm.gaussians import discretized_log_likelihood

RANDOM = np.random.default_rng(0)


def assert_eight_bit(images):
    assert images.dtype == torch.float32
    assert torch.equal((images * 255).round() / 255, images)
    assert images.min() >= 0
    assert images.max() <= 1


def read_one(folder, image_size, **options):
    """The only image of a folder."""
    dataset = data.image_folder(folder, image_size, **options)
    assert len(dataset) == 1
    return dataset[0]


def write_images(folder, names, size=(12, 10)):
    """Small colour pictures under these names; the folders in them are made."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def cut_short(path, share=0.6):
    """Throw the end of a file away."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


# Embedded pictures


def test_digits_are_those_of_scikit_learn_moved_to_the_nearest_eight_bit_level():
    images, labels = data.digits().tensors
    source = load_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert labels.dtype == torch.int64
    assert np.array_equal(labels, source.target)
    assert_eight_bit(images)
    distance = np.abs(images[:, 0].double().numpy() - source.images / 16)
    assert distance.max() <= 1 / 510 + 1e-7  # 1e-7: float32
    assert len(images.unique()) == 17


@pytest.mark.parametrize("size", [8, 16, (10, 12)])
def test_digits_fit_the_discrete_decoder_at_any_size(size):
    """The decoder refuses pixels that lie between two of its 256 levels."""
    images = to_model_scale(data.digits(size).tensors[0][:50])
    log_likelihood = discretized_log_likelihood(images, images, torch.tensor(-6.0))
    assert log_likelihood.exp().min() > 0.05


def test_digits_with_three_channels_are_still_grey():
    images = data.digits(channels=3).tensors[0]
    assert images.shape == (1797, 3, 8, 8)
    assert torch.equal(images, data.digits().tensors[0].expand(-1, 3, -1, -1))


@pytest.mark.parametrize(
    ("photograph", "source", "left", "upper"),
    [
        (photographs.cat_photograph, chelsea(), 85, 0),
        (photographs.flower_photograph, load_sample_image("flower.jpg"), 158, 71),
    ],
)
def test_photographs(photograph, source, left, upper):
    square = source[upper : upper + 300, left : left + 300] / 255
    full, small = photograph(300), photograph(30)
    assert np.allclose(full.permute(1, 2, 0), square, atol=1e-6)
    assert small.shape == (3, 30, 30)
    assert_eight_bit(small)
    # Antialiasing averages: a pixel of the small picture is near the mean of its 10 × 10 block, not one of its pixels.
    blocks = square.reshape(30, 10, 30, 10, 3)
    from_mean = np.abs(small.permute(1, 2, 0).numpy() - blocks.mean((1, 3))).mean()
    from_one = np.abs(small.permute(1, 2, 0).numpy() - blocks[:, 5, :, 5]).mean()
    assert from_mean < 0.01 < from_one


@pytest.mark.parametrize("size", [0, -3, 2.5, "64", (64,), True])
def test_photographs_refuse_a_size_that_is_none(size):
    with pytest.raises(ValueError, match="whole number >= 1"):
        photographs.cat_photograph(size)


# torchvision, by name


def write_idx(path, array):
    """The IDX format of MNIST: zero, zero, 8 (unsigned bytes), number of axes, their lengths, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    """A root with a small MNIST (6 training and 3 test images) and EMNIST letters; returns (root, arrays)."""
    arrays = {"train": RANDOM.integers(0, 256, (6, 28, 28)), "test": RANDOM.integers(0, 256, (3, 28, 28))}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        labels = np.arange(len(arrays[part]))
        write_idx(tmp_path / f"MNIST/raw/{prefix}-images-idx3-ubyte", arrays[part])
        write_idx(tmp_path / f"MNIST/raw/{prefix}-labels-idx1-ubyte", labels)
        for kind, content in (("images-idx3", arrays[part]), ("labels-idx1", labels)):
            write_idx(tmp_path / f"EMNIST/raw/emnist-letters-{part}-{kind}-ubyte", content)
    return tmp_path, arrays


@pytest.mark.parametrize("name", ["MNIST", "mnist", "M-NIST", "m_n i s t"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_torchvision_by_a_forgiving_name(mnist, name, part):
    root, arrays = mnist
    dataset = data.torchvision_dataset(name, root, train=part == "train")
    assert len(dataset) == len(arrays[part])
    for index, (image, label) in enumerate(dataset):
        assert_eight_bit(image)
        assert np.array_equal((image[0] * 255).round().numpy(), arrays[part][index])
        assert label == index


def test_torchvision_resizes_and_converts(mnist):
    root, _ = mnist
    image, _ = data.torchvision_dataset("mnist", root, image_size=(14, 20), channels=3)[0]
    assert image.shape == (3, 14, 20)
    assert torch.equal(image[0], image[2])
    assert_eight_bit(image)


def test_torchvision_options_reach_a_base_class(mnist):
    """EMNIST hands `train` on to MNIST by **kwargs, and has a `split` that is no part."""
    root, arrays = mnist
    with pytest.raises(ValueError, match=r"EMNIST needs split as well"):
        data.torchvision_dataset("emnist", root)
    dataset = data.torchvision_dataset("emnist", root, train=False, split="letters")
    assert len(dataset) == len(arrays["test"])


def test_torchvision_class_with_a_split(tmp_path):
    """Country211 has split="train" | "valid" | "test" and no `train`."""
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        write_images(tmp_path / "country211" / part, [f"AD/{index}.png" for index in range(count)])
    lengths = [len(data.torchvision_dataset("country211", tmp_path, train=train)) for train in (True, False)]
    assert lengths == [3, 1]
    assert len(data.torchvision_dataset("country211", tmp_path, split="valid")) == 2
    with pytest.raises(ValueError, match=r"'tset'.*valid"):
        data.torchvision_dataset("country211", tmp_path, split="tset")


def test_torchvision_class_without_parts():
    image, label = data.torchvision_dataset("fake-data", image_size=16, size=5)[0]
    assert image.shape == (3, 16, 16)
    assert 0 <= label < 10
    with pytest.raises(ValueError, match="FakeData has no test part"):
        data.torchvision_dataset("fake-data", train=False)
    with pytest.raises(ValueError, match="LFWPeople are not training and test"):
        data.torchvision_dataset("lfw-people")


def test_every_torchvision_name_leads_to_its_class():
    names = datasets.torchvision_names()
    assert {"mnist", "fashionmnist", "cifar10", "cifar100", "svhn", "stl10", "celeba"} <= set(names)
    assert all(datasets.torchvision_class(name).__name__ == name for name in names.values())


def test_unknown_torchvision_name_suggests_close_ones():
    with pytest.raises(
        ValueError, match=r"no data set 'fashion-mnits' \(did you mean FashionMNIST.*known are .*CIFAR10"
    ):
        data.torchvision_dataset("fashion-mnits")


def test_missing_files_are_reported_with_the_folder(tmp_path):
    with pytest.raises(RuntimeError, match=re.escape(f"could not load CIFAR10 from '{tmp_path}'")):
        data.torchvision_dataset("cifar10", tmp_path, download=False)


# A folder of pictures


def test_images_are_found_at_any_depth_in_any_spelling_and_in_order(tmp_path):
    wanted = ["B.PNG", "a.jpg", "b/c.JPEG", "b/d/e.webp", "b/d/f.Tiff", "b/g.tif", "h.bmp"]
    write_images(tmp_path, wanted)
    write_images(tmp_path, ["b/skipped.gif"])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    dataset = data.image_folder(tmp_path, 8)
    assert [path.relative_to(tmp_path).as_posix() for path in dataset.paths] == wanted
    assert dataset.unreadable == {}
    images = torch.stack(list(dataset))
    assert images.shape == (7, 3, 8, 8)
    assert_eight_bit(images)


def test_lossless_files_come_back_exactly(tmp_path):
    pixels = RANDOM.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for extension in ("png", "bmp", "tiff"):
        Image.fromarray(pixels).save(tmp_path / f"x.{extension}")
    for image in data.image_folder(tmp_path, (9, 7)):
        assert np.array_equal((image * 255).round().permute(1, 2, 0).numpy(), pixels)


def test_shorter_side_is_fitted_and_the_centre_kept(tmp_path):
    """Red, green and blue thirds side by side: the central square is green."""
    pixels = np.zeros((20, 60, 3), np.uint8)
    for third in range(3):
        pixels[:, 20 * third : 20 * (third + 1), third] = 255
    Image.fromarray(pixels).save(tmp_path / "flag.png")
    image = read_one(tmp_path, 10)
    assert torch.equal(image[:, :, 2:8], torch.tensor([0.0, 1, 0])[:, None, None].expand(3, 10, 6))
    whole = read_one(tmp_path, (10, 30))
    assert whole.shape == (3, 10, 30)
    assert whole[0, 5, 3] == whole[2, 5, 27] == 1


def test_resizing_is_antialiased(tmp_path):
    """A chessboard of single pixels becomes even grey; picking pixels would make it black or white."""
    Image.fromarray((np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8)).save(tmp_path / "board.png")
    inner = read_one(tmp_path, 16, channels=1)[:, 2:-2, 2:-2]
    assert (inner - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path, extension):
    pixels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / f"deep.{extension}")
    for channels in (1, 3):
        image = read_one(tmp_path, 8, channels=channels)
        assert_eight_bit(image)
        assert np.abs(image.double().numpy() - pixels / 65535).max() <= 1 / 510 + 1e-7


@pytest.mark.parametrize("pixels", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), -1, np.int32)])
def test_pixels_without_a_known_scale_are_refused(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "depth.tiff")
    with pytest.raises(
        ValueError, match=r"1 of 1 images .*depth.tiff \(pixels of mode .* no known black and white"
    ):
        data.image_folder(tmp_path, 4)


def test_grey_bilevel_palette_and_cmyk_become_rgb(tmp_path):
    grey = Image.fromarray(np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8))
    grey.save(tmp_path / "grey.png")
    grey.convert("P").save(tmp_path / "palette.png")
    grey.convert("1", dither=Image.Dither.NONE).save(tmp_path / "bilevel.png")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.tiff")
    bilevel, plain, palette, red = data.image_folder(tmp_path, 8)
    level = torch.arange(0, 256, 4).view(1, 8, 8).expand(3, -1, -1) / 255
    assert torch.equal(plain, level)
    assert torch.equal(palette, level)
    assert torch.equal(bilevel, (level > 127 / 255).float())
    assert torch.equal(red, torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 8))


def test_rgb_becomes_grey_by_luma(tmp_path):
    pixels = RANDOM.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    luma = pixels @ np.array([0.299, 0.587, 0.114]) / 255  # ITU-R 601, as Pillow documents
    assert np.abs(read_one(tmp_path, 6, channels=1)[0].numpy() - luma).max() < 1.01 / 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    alpha = np.linspace(0, 255, 16).astype(np.uint8).reshape(4, 4)
    if mode == "P":
        alpha = np.where(alpha > 128, 255, 0).astype(np.uint8)
        image = Image.fromarray((alpha > 0).astype(np.uint8)).convert("P")
        image.putpalette([7, 7, 7, 100, 100, 100])
        image.save(tmp_path / "x.png", transparency=0)
    else:
        channels = [np.full_like(alpha, 100)] * (len(mode) - 1)
        Image.fromarray(np.stack([*channels, alpha], axis=-1), mode).save(tmp_path / "x.png")
    share = alpha / 255.0
    over_white = share * 100 / 255 + (1 - share)
    for count in (1, 3):
        image = read_one(tmp_path, 4, channels=count)
        assert image.shape[0] == count
        assert np.abs(image.numpy() - over_white).max() < 1.01 / 255


def test_four_channels_keep_the_transparency(tmp_path):
    pixels = RANDOM.integers(0, 256, (5, 5, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "x.png")
    image = read_one(tmp_path, 5, channels=4)
    assert np.array_equal((image * 255).round().permute(1, 2, 0).numpy(), pixels)


# Orientation -> side of the upright picture on which the stored file's row 0 and column 0 lie (EXIF 2.3, tag 274).
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored(upright, orientation):
    """What a camera held that way writes for an upright picture."""
    row, column = ORIENTATIONS[orientation]
    picture = upright if row in ("top", "bottom") else upright.transpose(1, 0, 2)
    picture = picture[::-1] if row in ("bottom", "right") else picture
    return picture[:, ::-1] if column in ("bottom", "right") else picture


@pytest.mark.parametrize("extension", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_respected(tmp_path, orientation, extension):
    upright = RANDOM.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = Image.fromarray(np.ascontiguousarray(stored(upright, orientation)))
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if extension == "webp" else {}
    image.save(tmp_path / f"x.{extension}", exif=exif, **options)
    result = read_one(tmp_path, (6, 9))
    assert np.array_equal((result * 255).round().permute(1, 2, 0).numpy(), upright)


def test_flips_happen_half_of_the_time_and_mirror_left_and_right(tmp_path):
    write_images(tmp_path, ["x.png"], size=(6, 6))
    image = read_one(tmp_path, 6)
    dataset = data.image_folder(tmp_path, 6, augment_horizontal_flip=True)
    torch.manual_seed(0)
    draws = [dataset[0] for _ in range(400)]
    flipped = sum(torch.equal(draw, image.flip(-1)) for draw in draws)
    assert flipped + sum(torch.equal(draw, image) for draw in draws) == 400
    assert abs(flipped - 200) < 4 * 10  # four standard deviations of a fair coin


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tiff", "bmp"])
def test_truncated_files_are_named_counted_and_left_out(tmp_path, extension):
    write_images(
        tmp_path, [f"{name}.{extension}" for name in ("fine", "sub/broken", "also-fine")], size=(64, 64)
    )
    cut_short(tmp_path / f"sub/broken.{extension}")
    with pytest.warns(
        UserWarning, match=rf"1 of 3 images .* cannot be read: .*broken\.{extension} \(.+\)"
    ) as caught:
        dataset = data.image_folder(tmp_path, 16)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # the warning points at the line that named the folder
    assert [path.name for path in dataset.paths] == [f"also-fine.{extension}", f"fine.{extension}"]
    assert [path.name for path in dataset.unreadable] == [f"broken.{extension}"]
    assert torch.stack(list(dataset)).shape == (2, 3, 16, 16)


def test_a_truncated_jpeg_passes_the_quick_check_of_pillow(tmp_path):
    """Why `image_folder` decodes every file."""
    write_images(tmp_path, ["x.jpg"], size=(64, 64))
    cut_short(tmp_path / "x.jpg")
    Image.open(tmp_path / "x.jpg").verify()
    with pytest.raises(OSError, match="truncated"):
        Image.open(tmp_path / "x.jpg").load()


def test_files_that_are_no_images_at_all(tmp_path):
    write_images(tmp_path, ["fine.png"])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("I am a text.")
    (tmp_path / "zeros.bmp").write_bytes(bytes(1000))
    with pytest.warns(UserWarning, match=r"3 of 4 images .*empty\.jpg.*text\.png.*zeros\.bmp"):
        assert len(data.image_folder(tmp_path, 8)) == 1


def test_a_long_list_of_problems_is_cut(tmp_path):
    write_images(tmp_path, ["fine.png"])
    for index in range(13):
        (tmp_path / f"{index:02}.jpg").write_text("no")
    with pytest.warns(UserWarning, match=r"13 of 14 .*09\.jpg .*; and 3 more$"):
        dataset = data.image_folder(tmp_path, 8)
    assert len(dataset.unreadable) == 13


def test_only_broken_images_are_an_error(tmp_path):
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).write_text("no")
    with pytest.raises(ValueError, match=r"2 of 2 images .* cannot be read: .*a\.jpg .*b\.png"):
        data.image_folder(tmp_path, 8)


def test_without_the_check_a_broken_file_is_named_in_its_turn(tmp_path):
    write_images(tmp_path, ["a.jpg", "b.jpg"], size=(64, 64))
    cut_short(tmp_path / "b.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = data.image_folder(tmp_path, 8, check=False)
    assert dataset[0].shape == (3, 8, 8)
    with pytest.raises(RuntimeError, match=r"cannot read the image .*b\.jpg: .*truncated"):
        dataset[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_in_worker_processes_after_the_check(tmp_path, workers):
    write_images(tmp_path, [f"{index}.jpg" for index in range(9)], size=(32, 32))
    cut_short(tmp_path / "4.jpg")
    with pytest.warns(UserWarning, match="1 of 9"):
        dataset = data.image_folder(tmp_path, 8)
    batches = list(DataLoader(dataset, batch_size=4, num_workers=workers))
    assert [len(batch) for batch in batches] == [4, 4]


def test_data_sets_can_be_sent_to_other_processes(tmp_path):
    write_images(tmp_path, ["a.png"])
    dataset = data.image_folder(tmp_path, 8)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0], dataset[0])


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(ValueError, match=r"holds no image: none of its 0 files ends in one of \.jpg"):
        data.image_folder(tmp_path, 8)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="none of its 1 files"):
        data.image_folder(tmp_path, 8)
    with pytest.raises(NotADirectoryError, match=r"notes\.txt is a file; give the path of a folder"):
        data.image_folder(tmp_path / "notes.txt", 8)
    with pytest.raises(NotADirectoryError, match=r"nowhere does not exist"):
        data.image_folder(tmp_path / "nowhere", 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size must be"),
        ({"image_size": (8, 8, 8)}, "image_size must be"),
        (
            {"image_size": 8, "channels": 2},
            r"channels must be 1 \(grey\), 3 \(RGB\) or 4 \(RGBA\), but got 2",
        ),
    ],
)
def test_settings_of_a_folder_are_checked_before_its_files(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        data.image_folder(tmp_path / "nowhere", **options)


# By one word


def test_load_dataset_knows_digits_names_and_folders(tmp_path, mnist, monkeypatch):
    root, arrays = mnist
    assert len(data.load_dataset("digits")) == 1797
    assert data.load_dataset("Digits", image_size=16, channels=3)[0][0].shape == (3, 16, 16)
    assert len(data.load_dataset("mnist", root=root, train=False)) == len(arrays["test"])
    write_images(tmp_path, ["pictures/a.png", "mnist/b.png"])
    monkeypatch.chdir(tmp_path)
    assert data.load_dataset("pictures", image_size=8)[0].shape == (3, 8, 8)
    assert data.load_dataset(tmp_path / "pictures", image_size=8, channels=1)[0].shape == (1, 8, 8)
    for folder in ("./mnist", Path("mnist")):  # not the data set of that name
        assert [path.name for path in data.load_dataset(folder, image_size=8).paths] == ["b.png"]


def test_load_dataset_says_what_is_allowed(tmp_path):
    with pytest.raises(
        ValueError, match=r"no folder 'digts' .*did you mean digits.*known are .*digits.*MNIST"
    ):
        data.load_dataset("digts")
    with pytest.raises(ValueError, match="give an image_size"):
        data.load_dataset(tmp_path)
    with pytest.raises(NotADirectoryError, match="does not exist"):
        data.load_dataset(tmp_path / "nowhere", image_size=8)
    for name in ("digits", tmp_path):
        with pytest.raises(ValueError, match="has no test part"):
            data.load_dataset(name, train=False)
    with pytest.raises(ValueError, match="image_size must be"):
        data.load_dataset("digits", image_size=0)
    with pytest.raises(ValueError, match="channels must be"):
        data.load_dataset("digits", channels=0)
