"""Every kind of picture file becomes the tensor that its format's definition says."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm import data
from ddpm.data import PrepareImage
from ddpm.data.images import read_image, read_sized
from tests.data.pictures import RANDOM, assert_eight_bit, read_one, write_images


def grid(image):
    """The grey levels 0 … 255 of an image, (H, W, C)."""
    return (image * 255).round().permute(1, 2, 0).numpy()


# Size


@pytest.mark.parametrize(
    ("size", "channels"),
    [*((size, 3) for size in (0, -3, 2.5, "64", (64,), (8, 8, 8), True)), (8, 0), (8, 2), (8, "3")],
)
def test_prepare_image_refuses_sizes_and_channels_that_are_none(tmp_path, size, channels):
    grey = r"channels must be 1 \(grey\), 3 \(RGB\) or 4 \(RGBA\), but got"
    message = grey if size == 8 else "image_size must be .* whole number >= 1"
    for refuse in (
        lambda: PrepareImage(size, channels),
        lambda: data.image_folder(
            tmp_path / "nowhere", size, channels=channels
        ),  # before a file is looked at
        lambda: data.load_dataset("digits", image_size=size, channels=channels),
    ):
        with pytest.raises(ValueError, match=message):
            refuse()


@pytest.mark.parametrize(("extension", "channels"), [("png", 3), ("bmp", 3), ("tiff", 3), ("png", 4)])
def test_lossless_files_come_back_exactly(tmp_path, extension, channels):
    """Also transparency, where there is a channel for it."""
    pixels = RANDOM.integers(0, 256, (9, 7, channels), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"x.{extension}")
    assert np.array_equal(grid(read_one(tmp_path, (9, 7), channels=channels)), pixels)
    assert np.array_equal(grid(PrepareImage()(Image.fromarray(pixels))), pixels)


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


# Large JPEGs


def natural(height, width, slope, seed=0):
    """Noise whose amplitude falls as 1/frequency to this power: 1 is that of photographs (Field 1987), 0 of snow."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf if slope else 1
    noise = np.random.default_rng(seed).standard_normal((3, height, width))
    shaped = np.fft.irfft2(np.fft.rfft2(noise) / frequency**slope, (height, width))
    shaped = 128 + 50 * (shaped + shaped.mean(0)) / shaped.std()
    return Image.fromarray(np.clip(shaped, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def flags(height, width):
    """Sharp edges between the strongest colours."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    pixels[height // 3 : height // 2, width // 8 : -width // 4] = (0, 255, 0)
    return Image.fromarray(pixels)


LARGE = [
    (natural(768, 1024, 1.0), {"quality": 90}),
    (natural(768, 1024, 1.5), {"quality": 75, "subsampling": 2}),
    (natural(768, 1024, 0.0), {"quality": 95, "subsampling": 0}),
    (natural(771, 1021, 1.0), {"quality": 90, "progressive": True}),
    (natural(1600, 809, 1.0), {"quality": 90}),
    (natural(768, 1024, 1.0).convert("L"), {"quality": 90}),
    (natural(768, 1024, 1.0).convert("CMYK"), {"quality": 90}),
    (flags(768, 1024), {"quality": 90}),
    (flags(3000, 4000), {"quality": 90}),
]


@pytest.mark.parametrize(("picture", "options"), LARGE)
@pytest.mark.parametrize("size", [16, 32, (48, 20), 64, 128])
def test_large_jpegs_are_decoded_at_a_fraction_within_the_stated_tolerance(tmp_path, picture, options, size):
    picture.save(tmp_path / "x.jpg", **options)
    prepare = PrepareImage(size, 3)
    whole, reduced = read_image(tmp_path / "x.jpg"), read_image(tmp_path / "x.jpg", size)
    assert whole.size == picture.size
    apart = 255 * (prepare(whole) - prepare(reduced)).abs()
    assert apart.max() < 6.5
    assert apart.mean() < 0.7
    assert torch.equal(data.image_folder(tmp_path, size)[0], prepare(reduced))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_turned_upright(tmp_path, orientation):
    """Six times as high as wide when upright, so that the wrong side would ask for more than there is."""
    upright = np.asarray(natural(1600, 256, 1.0))
    exif = Image.Exif()
    exif[274] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored(upright, orientation)))
    picture.save(tmp_path / "x.jpg", quality=95, exif=exif)
    image, size = read_sized(tmp_path / "x.jpg", (200, 32))
    assert size == (1600, 256)
    assert image.size == (128, 800)
    prepare = PrepareImage((200, 32), 3)
    assert 255 * (prepare(Image.fromarray(upright)) - prepare(image)).abs().mean() < 1.5  # the compression's


@pytest.mark.parametrize(
    ("sides", "size", "divisor"),
    [
        ((768, 1024), 24, 8),
        ((768, 1024), 25, 4),  # 768 / 8 is less than four times 25
        ((768, 1024), 48, 4),
        ((768, 1024), 96, 2),
        ((768, 1024), 97, 1),
        ((768, 1024), 2000, 1),
        ((768, 1024), (8, 128), 2),
        ((772, 1028), 24, 4),  # of 772 / 8 = 96.5 half a row too little moves the picture by 0.12 of a pixel
        ((3001, 4001), 64, 8),
        ((3004, 4000), 64, 4),
        ((768, 1024), None, 1),
    ],
)
def test_how_far_a_jpeg_is_reduced(tmp_path, sides, size, divisor):
    Image.new("RGB", sides[::-1]).save(tmp_path / "x.jpg")
    image, whole = read_sized(tmp_path / "x.jpg", size)
    assert whole == sides
    assert image.size == tuple(round(side / divisor) for side in sides[::-1])


def test_other_formats_are_not_reduced_and_a_reduced_jpeg_is_read_to_its_end(tmp_path):
    picture = natural(768, 1024, 1.0)
    for ending in ("png", "webp", "tiff"):
        picture.save(tmp_path / f"x.{ending}")
        assert read_image(tmp_path / f"x.{ending}", 16).size == picture.size
    for options in ({}, {"progressive": True}):
        picture.save(tmp_path / "x.jpg", **options)
        content = (tmp_path / "x.jpg").read_bytes()
        (tmp_path / "x.jpg").write_bytes(content[: -len(content) // 50])
        with pytest.raises(OSError, match="truncated"):
            read_image(tmp_path / "x.jpg", 16)


# Colours

GREYS = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
GREY = Image.fromarray(GREYS)
RED = np.array([1.0, 0, 0])[:, None, None]
DEEP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
COLOURS = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)
ALPHA = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
ON_OFF = np.where(ALPHA > 128, 255, 0).astype(np.uint8)


def over_white(alpha):
    """A grey of 100 under this opacity, laid over white."""
    return alpha / 255 * (100 / 255) + 1 - alpha / 255


def with_alpha(mode):
    grey = np.full_like(ALPHA, 100)
    return Image.fromarray(np.stack([*[grey] * (len(mode) - 1), ALPHA], axis=-1), mode)


def with_clear_colour():
    """A palette of which one entry is transparent."""
    image = Image.fromarray((ON_OFF > 0).astype(np.uint8)).convert("P")
    image.putpalette([7, 7, 7, 100, 100, 100])
    return image


@pytest.mark.parametrize(
    ("image", "name", "options", "channels", "expected", "levels"),
    [
        (GREY, "x.png", {}, (3,), GREYS / 255, 1e-5),
        (GREY.convert("P"), "x.png", {}, (3,), GREYS / 255, 1e-5),
        (GREY.convert("1", dither=Image.Dither.NONE), "x.png", {}, (3,), (GREYS > 127) * 1.0, 1e-5),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "x.tiff", {}, (3,), RED, 1e-5),
        # 16 bits are scaled, not clipped, to the nearest of 256 levels; 1e-5: float32.
        (Image.fromarray(DEEP), "x.png", {}, (1, 3), DEEP / 65535, 0.5 + 1e-5),
        (Image.fromarray(DEEP), "x.tiff", {}, (1, 3), DEEP / 65535, 0.5 + 1e-5),
        # ITU-R 601, as Pillow documents.
        (Image.fromarray(COLOURS), "x.png", {}, (1,), COLOURS @ np.array([0.299, 0.587, 0.114]) / 255, 1.01),
        (with_alpha("RGBA"), "x.png", {}, (1, 3), over_white(ALPHA), 1.01),
        (with_alpha("LA"), "x.png", {}, (1, 3), over_white(ALPHA), 1.01),
        (with_clear_colour(), "x.png", {"transparency": 0}, (1, 3), over_white(ON_OFF), 1.01),
    ],
)
def test_every_mode_becomes_grey_or_rgb(tmp_path, image, name, options, channels, expected, levels):
    image.save(tmp_path / name, **options)
    for count in channels:
        read = read_one(tmp_path, 8, channels=count)
        assert read.shape == (count, 8, 8)
        assert_eight_bit(read)
        assert np.abs(read.double().numpy() - expected).max() <= levels / 255


@pytest.mark.parametrize(
    "pixels",
    [np.full((4, 4), 0.5, np.float32), np.full((4, 4), -1, np.int32), np.full((4, 4), 65536, np.int32)],
)
def test_pixels_without_a_known_scale_are_refused(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "depth.tiff")
    message = r"1 of 1 images .*depth.tiff \(pixels of mode .* no known black and white"
    with pytest.raises(ValueError, match=message):
        data.image_folder(tmp_path, 4)


# Orientation

# Tag 274 -> side of the upright picture on which the stored file's row 0 and column 0 lie (EXIF 2.3).
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
    assert np.array_equal(grid(read_one(tmp_path, (6, 9))), upright)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGBA", "CMYK"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_orientation_of_an_uncompressed_tiff_of_any_mode_is_respected(tmp_path, orientation, mode):
    """Pillow maps such files into memory where it can."""
    grey = RANDOM.integers(0, 2, (6, 9, 1), dtype=np.uint8) * 255
    pixels = np.ascontiguousarray(stored(grey, orientation))[..., 0]
    sixteen = mode == "I;16"
    image = Image.fromarray(pixels.astype(np.uint16) * 257 if sixteen else pixels)
    image = image if sixteen else image.convert(mode)
    image.save(tmp_path / "x.tif", tiffinfo={274: orientation})
    assert np.array_equal(grid(read_one(tmp_path, (6, 9), channels=1)), grey)


@pytest.mark.parametrize("highest", [255, 1023, 4095])
def test_sixteen_bits_that_hold_eight_or_a_camera_s_twelve_are_warned_of(tmp_path, highest):
    Image.fromarray(np.linspace(0, highest, 256).astype(np.uint16).reshape(16, 16)).save(tmp_path / "x.png")
    with pytest.warns(UserWarning, match=f"16-bit pixels of at most {highest} are almost black"):
        read_image(tmp_path / "x.png")


def test_flips_happen_half_of_the_time_and_mirror_left_and_right(tmp_path):
    write_images(tmp_path, ["x.png"], size=(6, 6))
    image = read_one(tmp_path, 6)
    dataset = data.image_folder(tmp_path, 6, augment_horizontal_flip=True)
    torch.manual_seed(0)
    draws = [dataset[0] for _ in range(400)]
    flipped = sum(torch.equal(draw, image.flip(-1)) for draw in draws)
    assert flipped + sum(torch.equal(draw, image) for draw in draws) == 400
    assert abs(flipped - 200) < 4 * 10  # four standard deviations of a fair coin
