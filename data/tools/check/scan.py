"""Looks for records in the bytes of a file, stretch by stretch, and goes on past damage.

No part of a well-written file holds the magic on a 4-byte boundary, so the magics of a stretch are
the starts of its parts, whatever comes before it: stretches can be read in any order and by any
process, and after damage the next magic is where it goes on. A record belongs to the stretch in
which it starts. Whatever no whole record covers is damage.
"""

import os
from dataclasses import dataclass, replace
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from data.loading.decode import BadImage, decode_into
from data.records.format import (
    FIRST,
    HEADER,
    LAST,
    MAGIC_BYTES,
    MIDDLE,
    PART,
    SIZE_BITS,
    SIZE_MASK,
    WHOLE,
    Bytes,
    Headers,
    RecordError,
    unpack_record,
)
from data.tools.check.window import Offsets, Span, Window, Words

_SAMPLES: Final = 16  # words of an image in its fingerprint
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio
_SIDE: Final = 112  # to which images are decoded that are not square, or large


@dataclass(frozen=True)
class StretchRecords:
    """The n whole records that start in a stretch of a file, column by column.

    Attributes:
        offsets: int64 [n], rising.
        ends: where the next record should start; int64 [n].
        flags, labels, ids, image_sizes: see `Headers`.
        fingerprints: of the images' bytes, the same for the same bytes; uint64 [n].
        sizes: width and height of each image in pixels; uint16 [n, 2]. 0 where there is no image,
            where it cannot be decoded, or none was to be decoded.
        undecodable: offset of each record with a damaged image, and what is wrong.
        unreadable: the spans of bytes that the disk refused to give.
    """

    offsets: Offsets
    ends: Offsets
    flags: npt.NDArray[np.uint32]
    labels: npt.NDArray[np.float32]
    ids: npt.NDArray[np.uint64]
    image_sizes: Offsets
    fingerprints: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.uint16]
    undecodable: list[tuple[int, str]]
    unreadable: list[Span]

    def since(self, position: int) -> "StretchRecords":
        """Return the records that start at `position` or later."""
        first = int(np.searchsorted(self.offsets, position))
        if first == 0:
            return self
        columns: dict[str, Any] = {
            n: c[first:] for n, c in vars(self).items() if isinstance(c, np.ndarray)
        }
        undecodable = [item for item in self.undecodable if item[0] >= position]
        return replace(self, undecodable=undecodable, **columns)


def scan_stretch(window: Window, *, decode: bool) -> StretchRecords:
    """Find the whole records that start in a window's stretch; `release` the window.

    With `decode` every image is decoded, as training does it. Memory beyond the window is small,
    but for a record that reaches far beyond it.
    """
    offsets, ends, parts = _whole_records(window)
    words, first = window.words, (offsets - window.start) // 4
    headers = _headers(words, first)
    images = (first + (8 + HEADER.size) // 4 + headers.flags.astype(np.int64)) * 4
    fingerprints = _fingerprints(words, images // 4, headers.image_sizes)
    joined: dict[int, Bytes] = {}  # images of records in several parts, by row
    for row, spans in parts.items():
        joined[row] = _read_joined(window, spans, headers, row)
        of_one = np.frombuffer(joined[row], "<u4", len(joined[row]) // 4)
        size = headers.image_sizes[row : row + 1]
        fingerprints[row] = _fingerprints(of_one, np.zeros(1, np.int64), size)[0]
    sizes, undecodable = np.zeros((len(offsets), 2), np.uint16), []
    data = window.data
    for row in np.flatnonzero(headers.image_sizes > 0).tolist() if decode else ():
        at = int(images[row])
        image = joined.get(row, data[at : at + int(headers.image_sizes[row])])
        try:
            sizes[row] = _decoded_size(image)
        except BadImage as error:
            undecodable.append((int(offsets[row]), str(error)))
    window.release()
    return StretchRecords(
        offsets, ends, **vars(headers), fingerprints=fingerprints, sizes=sizes,
        undecodable=undecodable, unreadable=window.unreadable,
    )  # fmt: skip


def _whole_records(window: Window) -> tuple[Offsets, Offsets, dict[int, list[Span]]]:
    """Return offsets and ends of the stretch's records, and the parts of some, by row.

    All of them have been read when it returns.
    """
    magics = window.magics()
    count = int(np.searchsorted(magics, window.end))
    following = np.append(magics, window.stop)[1 : count + 1]
    offsets = magics[:count]
    word = _taken(window.words, (offsets - window.start) // 4 + 1)
    ends = (offsets + 8 + (word & SIZE_MASK).astype(np.int64) + 3) & ~3
    whole = (word >> SIZE_BITS == WHOLE) & (ends <= following)
    parts: dict[int, list[Span]] = {}
    for row in np.flatnonzero(~whole & (word >> SIZE_BITS <= FIRST)).tolist():
        spans = _parts(window, int(offsets[row]))
        if spans:
            whole[row], ends[row] = True, (spans[-1][1] + 3) & ~3
            if len(spans) > 1:
                parts[int(offsets[row])] = spans
    offsets, ends = offsets[whole], ends[whole]
    # A record that goes on over a magic, as writers that do not cut there leave them, may seem to
    # hold another.
    outside = np.append(True, offsets[1:] >= np.maximum.accumulate(ends)[:-1])[: len(offsets)]
    offsets, ends = offsets[outside], ends[outside]
    window.reach(int(ends[-1]) if len(ends) else 0)
    rows = {offset: row for row, offset in enumerate(offsets.tolist())} if parts else {}
    return offsets, ends, {rows[at]: spans for at, spans in parts.items() if at in rows}


def _parts(window: Window, offset: int) -> list[Span]:
    """Return the payload's spans of the record at `offset`, none if it is not whole."""
    spans: list[Span] = []
    first = offset
    # The second condition ends a chain of parts that would fill the memory.
    while (part := window.part(offset)) is not None and offset - first <= SIZE_MASK:
        flag, size = part
        start, stop = offset + PART.size, offset + PART.size + size
        if flag not in ((MIDDLE, LAST) if spans else (WHOLE, FIRST)) or stop > window.size:
            break
        offset = (stop + 3) & ~3
        runs_into_another = window.next_magic(start, offset) < offset
        if runs_into_another and offset < window.size and window.part(offset) is None:
            break
        spans.append((start, stop))
        if flag in (WHOLE, LAST):
            return spans
    return []


def _headers(words: Words, first: Offsets) -> Headers:
    """Return the headers of the records, in one part each, that start at `words[first]`."""
    word = _taken(words, first + np.arange(10)[:, None])
    flags = word[2]
    labels = np.stack([np.where(flags > 0, word[8], word[3]), word[9]], 1).view(np.float32)
    labels[flags < 2, 1] = np.nan
    ids = word[4].astype(np.uint64) | word[5].astype(np.uint64) << np.uint64(32)
    sizes = (word[1] & SIZE_MASK).astype(np.int64)
    return Headers(flags, labels, ids, sizes - HEADER.size - 4 * flags.astype(np.int64))


def _read_joined(window: Window, spans: list[Span], headers: Headers, row: int) -> bytes:
    """Return the image of a record in parts, its header read into `headers` at `row`."""
    payload = MAGIC_BYTES.join(
        bytes(window.data[start - window.start : stop - window.start]) for start, stop in spans
    )
    try:
        record = unpack_record(payload)
    except RecordError:
        headers.image_sizes[row] = -1
        return b""
    headers.flags[row] = len(record.labels) if record.is_list else 0
    headers.labels[row] = [*record.labels[:2], np.nan][:2]
    headers.ids[row], headers.image_sizes[row] = record.id, len(record.image)
    return bytes(record.image)


def _fingerprints(words: Words, first: Offsets, sizes: Offsets) -> npt.NDArray[np.uint64]:
    """Return a number of 64 bits for each image, of `sizes` bytes from `words[first]` on.

    It is made of the size and of words spread over the image: what differs is surely another
    image, what does not is worth reading again.
    """
    result = sizes.astype(np.uint64)
    count = np.maximum(sizes // 4, 0)
    seen = _taken(words, first + (count * np.arange(_SAMPLES)[:, None] // _SAMPLES))
    for sample in np.where(count > 0, seen, 0):
        result = (result ^ sample) * _MULTIPLIER
        result ^= result >> np.uint64(32)
    return result


def _taken(words: Words, places: Offsets) -> Words:
    """Return the words at `places`, and any others for places outside."""
    if len(words) == 0:
        return np.zeros(places.shape, np.uint32)
    return words.take(places, mode="clip")  # without the interpreter's lock, which `[]` holds


def image_digests(path: Path, offsets: list[int]) -> list[bytes]:
    """Return a digest of the image in each of the whole records at `offsets`, of 16 bytes."""
    digests = []
    with path.open("rb", buffering=1 << 14) as file:
        for offset in offsets:
            file.seek(offset)
            parts, flag = [], FIRST
            while flag not in (WHOLE, LAST):
                _, word = PART.unpack(file.read(PART.size))
                flag, size = word >> SIZE_BITS, word & SIZE_MASK
                parts.append(file.read(size))
                file.seek(-size % 4, os.SEEK_CUR)
            image = unpack_record(MAGIC_BYTES.join(parts)).image
            digests.append(blake2b(image, digest_size=16).digest())
    return digests


def _decoded_size(encoded: Bytes) -> Span:
    """Decode an image as training does, and return its width and height; raises `BadImage`."""
    if encoded[:2] != b"\xff\xd8":
        decode_into(np.empty((_SIDE, _SIDE, 3), np.uint8), encoded)
        return Image.open(BytesIO(encoded)).size
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        height = width = 0  # what is wrong is for the decoder to say
    side = height if 0 < height == width <= 4 * _SIDE else _SIDE  # to its own size: not resized
    decode_into(np.empty((side, side, 3), np.uint8), encoded)
    return width, height
