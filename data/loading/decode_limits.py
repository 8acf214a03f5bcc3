"""Limits to what an encoded image may claim, checked on its header before it is decoded.

With them decoding takes at most about 250 MB and a few seconds, whatever the bytes; for ordinary
images the checks take a microsecond or two. Measured without them: 130 kB of progressive JPEG kept
a decoder busy for twelve seconds, 2 MB of PNG chunks for seven.
"""

import struct

from data.records.format import Bytes

# A larger side is taken for a mistake or an attack: 12 bytes of header can claim 65,535 pixels per
# side, which is 12 GB.
MAX_SIDE = 4096
# The largest image without compression, 4 bytes per pixel, plus a megabyte.
MAX_BYTES = 4 * MAX_SIDE**2 + (1 << 20)
# Each scan of a JPEG visits every pixel and may be as short as 25 bytes. Encoders write about ten.
MAX_SCANS = 100
# Below this product of pixels and bytes even a file full of scans takes less than 0.1 s: the scans
# of a 112x112 image are counted only above 300 kB.
_UNCOUNTED = 1 << 32
# A PNG's pixels come in chunks of a few kilobytes; a chunk of any size costs microseconds.
MAX_CHUNKS = 20_000

_START_OF_SCAN = b"\xff\xda"
_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")  # length, kind; a checksum of 4 bytes follows the contents


def check_size(width: int, height: int) -> None:
    """Raise `ValueError` for a side of more than `MAX_SIDE` pixels."""
    if width > MAX_SIDE or height > MAX_SIDE:
        raise ValueError(f"{width}x{height} pixels: expected at most {MAX_SIDE} per side")


def check_jpeg(encoded: Bytes, width: int, height: int) -> None:
    """Raise `ValueError` for a JPEG beyond the limits; `width` and `height` are its header's."""
    check_size(width, height)
    if width * height * len(encoded) <= _UNCOUNTED:
        return
    _check_bytes(encoded)
    # Only the start of a scan has these two bytes, apart from a thumbnail in the metadata.
    scans = bytes(encoded).count(_START_OF_SCAN)
    if scans > MAX_SCANS:
        raise ValueError(f"a JPEG of {scans} scans: expected at most {MAX_SCANS}")


def check_other(encoded: Bytes) -> None:
    """Raise `ValueError` for a PNG or WebP beyond the limits.

    For other formats Pillow reports the size before it decodes anything.
    """
    _check_bytes(encoded)
    if encoded[:8] == _PNG:
        _check_chunks(encoded)
    elif encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        _check_webp(encoded)


def _check_bytes(encoded: Bytes) -> None:
    if len(encoded) > MAX_BYTES:
        raise ValueError(f"{len(encoded)} bytes: expected at most {MAX_BYTES}")


def _check_chunks(encoded: Bytes) -> None:
    """Limit what Pillow reads at once: all chunks, and each colour profile, 1 MB out of 1 kB."""
    at, chunks, profiles = len(_PNG), 0, 0
    while at + _CHUNK.size <= len(encoded):
        length, kind = _CHUNK.unpack_from(encoded, at)
        at += _CHUNK.size + length + 4
        chunks += 1
        profiles += kind == b"iCCP"
        if chunks > MAX_CHUNKS or profiles > 1:
            raise ValueError(
                f"a PNG of {chunks} chunks or more, {profiles} of them colour profiles: expected "
                f"at most {MAX_CHUNKS} and 1"
            )


def _check_webp(encoded: Bytes) -> None:
    """Check the size, which Pillow reports only after it has allocated the canvas."""
    kind = encoded[12:16]
    if kind == b"VP8X" and len(encoded) >= 30:
        width, height = (int.from_bytes(encoded[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L" and len(encoded) >= 25:
        (bits,) = struct.unpack_from("<I", encoded, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and len(encoded) >= 30:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", encoded, 26))
    else:
        return
    check_size(width, height)
