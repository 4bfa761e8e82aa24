"""Pictures without what is written beside their pixels, for files of which that is broken and the pixels are whole.

Pillow refuses a PNG whose comment has a wrong checksum or unpacks to a megabyte, a JPEG with a cut-off colour profile,
and more. What follows keeps what the pixels need, and EXIF, which has the orientation; it neither mends nor skips a
byte of the pixels themselves, so that a truncated file is refused as before.
"""

import struct
import zlib

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_PNG_KEPT = {b"tRNS", b"eXIf"}  # besides those that a decoder must understand, which begin with a capital
_WEBP_KEPT = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}
_SCAN = 0xDA  # the marker after which a JPEG's pixels come
# Of the segments that are an application's: which ones the decoder reads, and how long they have to be for that.
_JPEG_KEPT = {0xE0: (b"JFIF\0", 14), 0xE1: (b"Exif\0\0", 6), 0xEE: (b"Adobe", 12)}


def without_metadata(content: bytes) -> bytes | None:
    """The bytes of the same picture without its metadata; None where there is nothing that could go."""
    if content.startswith(_PNG):
        stripped = _stripped_png(content)
    elif content.startswith(_JPEG):
        stripped = _stripped_jpeg(content)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        stripped = _stripped_webp(content)
    else:
        return None
    return None if stripped == content else stripped


def _stripped_png(content: bytes) -> bytes:
    """Chunks: length, name, data, checksum of name and data."""
    kept, place = [_PNG], len(_PNG)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        name, whole = content[place + 4 : place + 8], content[place:end]
        sound = zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big")
        if not name[0] & 0x20 or (name in _PNG_KEPT and sound):
            kept.append(whole)
        place = end
    return b"".join([*kept, content[place:]])


def _stripped_jpeg(content: bytes) -> bytes:
    """Segments up to the pixels: 0xFF, marker, length from here on, data."""
    kept, place = [_JPEG], len(_JPEG)
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != _SCAN:
        if content[place + 1] == 0xFF:  # which may fill up the space before a marker
            place += 1
            continue
        marker, end = content[place + 1], place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if not _is_dispensable(marker, content[place + 4 : end]):
            kept.append(content[place:end])
        place = end
    return b"".join([*kept, content[place:]])


def _is_dispensable(marker: int, data: bytes) -> bool:
    """Whether a segment is a comment or an application's, and not one that the decoder reads."""
    begins, least = _JPEG_KEPT.get(marker, (b"", 0))
    read = begins and data.startswith(begins) and len(data) >= least
    return (0xE0 <= marker <= 0xEF or marker == 0xFE) and not read


def _stripped_webp(content: bytes) -> bytes:
    """Chunks of a RIFF file: name, length, data, and a byte to an even place."""
    kept, place = [], 12
    while place + 8 <= len(content):
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        end = place + 8 + length + length % 2
        if content[place : place + 4] in _WEBP_KEPT:
            kept.append(content[place:end])
        place = end
    body = b"".join([b"WEBP", *kept])
    return b"RIFF" + struct.pack("<I", len(body)) + body
