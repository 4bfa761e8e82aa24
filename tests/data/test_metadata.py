"""Pictures whose metadata are broken and whose pixels are whole are taken, pixel for pixel; no other is mended."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from ddpm import data
from ddpm.data.metadata import without_metadata
from tests.data.pictures import RANDOM

PIXELS = RANDOM.integers(0, 256, (24, 32, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def saved(kind, image=PICTURE, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_with(name, content, checksum=None):
    """A PNG with one more chunk before its pixels."""
    checksum = zlib.crc32(name + content) if checksum is None else checksum
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
    whole = saved("PNG")
    return whole[:33] + chunk + whole[33:]


def jpeg_with(marker, content, **options):
    """A JPEG with one more segment at its beginning."""
    whole = saved("JPEG", **options)
    return whole[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + whole[2:]


def exif(*, broken):
    """Upright, or turned by a quarter with another tag that cannot be written again."""
    tags = Image.Exif()
    tags[274] = 6
    tags[271] = "camera"
    content, camera = tags.tobytes(), struct.pack(">HHI", 271, 2, 7)
    assert camera in content
    return content.replace(camera, struct.pack(">HHI", 271, 5, 1)) if broken else content


MEGABYTES = zlib.compress(b"x" * 3_000_000)
WHOLE = {
    "PNG, comment with a wrong checksum": png_with(b"tEXt", b"a\0b", 1),
    "PNG, time with a wrong checksum": png_with(b"tIME", b"1234567", 7),
    "PNG, unknown chunk with a wrong checksum": png_with(b"abCd", b"12", 9),
    "PNG, comment of three megabytes": png_with(b"zTXt", b"a\0\0" + MEGABYTES),
    "PNG, 66 megabytes of comments": png_with(b"tEXt", b"a\0" + b"x" * 900_000)[:33]
    + (png_with(b"tEXt", b"a\0" + b"x" * 900_000)[33:900_047] * 75)
    + saved("PNG")[33:],
    "PNG, colour profile of an unknown kind": png_with(b"iCCP", b"a\0\5garbage"),
    "PNG, colour profile of three megabytes": png_with(b"iCCP", b"a\0\0" + MEGABYTES),
    "PNG, resolution cut short": png_with(b"pHYs", b"ab"),
    "PNG, gamma cut short": png_with(b"gAMA", b""),
    "PNG, primaries cut short": png_with(b"cHRM", b"abc"),
    "PNG, animation cut short": png_with(b"acTL", b"12"),
    "PNG, EXIF that is none": png_with(b"eXIf", b"nonsense"),
    "PNG, EXIF with a wrong checksum": png_with(b"eXIf", exif(broken=False)[6:], 3),
    "JPEG, JFIF cut short": jpeg_with(0xE0, b"JFIF"),
    "JPEG, colour profile cut short": jpeg_with(0xE2, b"ICC_PROFILE\0"),
    "JPEG, Adobe's mark cut short": jpeg_with(0xEE, b"Adobe"),
    "JPEG, several pictures that are not there": jpeg_with(0xE2, b"MPF\0"),
    "JPEG, EXIF that is none": jpeg_with(0xE1, b"Exif\0\0nonsense"),
    "JPEG, EXIF cut short": jpeg_with(0xE1, exif(broken=False)[:20]),
    "JPEG, bytes after its end": saved("JPEG") + b"anything",
    "WebP, EXIF that is none": saved("WEBP", lossless=True, exif=b"Exif\0\0nonsense"),
    "WebP, EXIF that breaks off with the file": saved("WEBP", lossless=True, exif=exif(broken=False))[:-8],
    "TIFF, with EXIF": saved("TIFF"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_whole_pixels_are_taken(tmp_path, case):
    kind, content = case.partition(",")[0], WHOLE[case]
    (tmp_path / f"x.{kind.lower()}").write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dataset = data.image_folder(tmp_path, (24, 32))
        image = dataset[0]
    expected = np.asarray(Image.open(io.BytesIO(saved("JPEG")))) if kind == "JPEG" else PIXELS
    assert np.array_equal((image * 255).round().permute(1, 2, 0).numpy(), expected)
    assert len(said) <= 1
    assert all(f"x.{kind.lower()}" in str(warning.message) for warning in said)


BROKEN = {
    "PNG, pixels cut short": saved("PNG")[:-400],
    "PNG, pixels cut short after a broken comment": png_with(b"tEXt", b"a\0b", 1)[:-400],
    "JPEG, pixels cut short": saved("JPEG")[:-300],
    "JPEG, pixels cut short after a broken profile": jpeg_with(0xE2, b"ICC_PROFILE\0")[:-300],
    "WebP, pixels cut short": saved("WEBP", lossless=True)[:-500],
    "PNG, nothing but its beginning": b"\x89PNG\r\n\x1a\n",
    "JPEG, nothing but its beginning": b"\xff\xd8",
    "JPEG, nothing but marks": b"\xff\xd8" + b"\xff" * 40,
    "WebP, nothing but its beginning": b"RIFF\0\0\0\0WEBP",
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_pixels_are_refused_as_before(tmp_path, case):
    (tmp_path / f"x.{case.partition(',')[0].lower()}").write_bytes(BROKEN[case])
    with pytest.raises(ValueError, match=r"1 of 1 images .* cannot be read: .*x\."):
        data.image_folder(tmp_path, 8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_survives_another_tag_that_is_broken(tmp_path, kind):
    """Pillow's own exif_transpose fails on these, after it has seen the orientation."""
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(kind, exif=exif(broken=True), **options)
    (tmp_path / f"x.{kind.lower()}").write_bytes(content)
    image = data.image_folder(tmp_path, (32, 24))[0]
    with Image.open(io.BytesIO(content)) as stored:
        with pytest.raises(AttributeError):
            ImageOps.exif_transpose(stored)
        upright = np.asarray(stored.convert("RGB").transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal((image * 255).round().permute(1, 2, 0).numpy(), upright)


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (b"GIF89a", None),
        (b"", None),
        (saved("PNG"), None),
        (jpeg_with(0xFE, b"a comment"), saved("JPEG")),
        (jpeg_with(0xED, b"Photoshop 3.0\0"), saved("JPEG")),
        (b"\xff\xd8\xff\xff\xfe\0\4ab" + saved("JPEG")[2:], saved("JPEG")),
        (png_with(b"tEXt", b"a\0b"), saved("PNG")),
    ],
)
def test_metadata_alone_go(content, left):
    assert without_metadata(content) == left


def test_what_the_decoder_needs_stays(tmp_path):
    """A palette with a transparent entry, and Adobe's mark, which says that a JPEG's channels are red, green, blue."""
    clear = Image.fromarray((PIXELS[..., 0] > 99).astype(np.uint8)).convert("P")
    clear.putpalette([7, 7, 7, 100, 100, 100])
    red = saved("JPEG", Image.new("RGB", (32, 24), "red"), keep_rgb=True)
    numbers = red.replace(b"\x03R\x11\0G\x11\0B\x11\0", b"\x03\1\x11\0\2\x11\0\3\x11\0")
    numbers = numbers.replace(b"\x03R\0G\0B\0", b"\x03\1\0\2\0\3\0")
    assert numbers.count(b"Adobe") == 1
    for name, content in (
        ("clear.png", saved("PNG", clear, transparency=0)),
        ("red.jpeg", numbers[:2] + b"\xff\xfe\0\4ab" + numbers[2:]),
        ("ink.jpeg", saved("JPEG", Image.new("CMYK", (32, 24), (0, 255, 255, 0)), comment="x")),
    ):
        (tmp_path / name).write_bytes(without_metadata(content) or content)
    images = dict(zip(["clear", "ink", "red"], data.image_folder(tmp_path, (24, 32)), strict=True))
    assert set((images["clear"] * 255).unique().tolist()) == {100, 255}
    for name in ("ink", "red"):
        assert images[name][0].min() > 0.95
        assert images[name][1:].max() < 0.1
