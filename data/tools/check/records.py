"""What a check keeps of each record: its header, a fingerprint of its image, and its size."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from data.loading.decode import BadImage, decode_into, encoded_size
from data.records.format import HEADER, SIZE_BITS, WHOLE, Bytes, Headers, Int64s
from data.tools.check.scan import DamagedFile, Offsets
from data.tools.encoded_image import pixel_size
from data.tools.findings import Findings, Place

NO_KEY: Final = -1
_LOG_SAMPLES: Final = 3  # of the number of words of an image that are in its fingerprint: 8
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio
_SIDE: Final = 112  # to which images are decoded that are not square, or large

RowIndices = Int64s


@dataclass(frozen=True)
class RecordTable:
    """n whole records of one file, or of several one after the other, column by column."""

    first_rows: dict[Path, int]  # the row of the first record of each file
    keys: Offsets  # `NO_KEY` where the index does not name the record
    offsets: Offsets  # rising within a file
    flags: npt.NDArray[np.uint32]  # this and the next three: see `data.records.format.Headers`
    labels: npt.NDArray[np.float32]
    ids: npt.NDArray[np.uint64]
    image_sizes: Offsets
    fingerprints: npt.NDArray[np.uint64]  # of the images' bytes, the same for the same bytes
    # Width and height of each image in pixels, [n, 2]. 0 where there is no image, where it cannot
    # be decoded, and where none was to be decoded.
    sizes: npt.NDArray[np.uint16]

    @classmethod
    def joined(cls, tables: list["RecordTable"]) -> "RecordTable":
        """Return the records of all tables, one after the other; frees memory of `tables`."""
        if len(tables) == 1:
            return tables[0]
        names = [field.name for field in fields(cls)][1:]
        columns = {name: [getattr(table, name) for table in tables] for name in names}
        first_rows: dict[Path, int] = {}
        starts = accumulate((len(table.keys) for table in tables), initial=0)
        for table, start in zip(tables, starts, strict=False):
            first_rows.setdefault(next(iter(table.first_rows)), start)
        tables.clear()
        return cls(first_rows, *(np.concatenate(columns.pop(name)) for name in names))

    @property
    def name(self) -> str:
        """All files in words."""
        count = len(self.first_rows)
        return str(self.file_of(0)) if count == 1 else f"all {count} files"

    def file_of(self, row: int) -> Path:
        """Return the file of the record at `row`."""
        return list(self.first_rows)[bisect_right(list(self.first_rows.values()), row) - 1]

    def report(
        self, kind: str, rows: RowIndices, detail: Callable[[int], str] | str, findings: Findings
    ) -> None:
        """Add a finding for each of `rows`, with `detail`, or what it returns for the row."""

        def places() -> Iterator[Place]:
            for row in rows.tolist():
                text = detail if isinstance(detail, str) else detail(row)
                key = None if self.keys[row] == NO_KEY else int(self.keys[row])
                yield Place(str(self.file_of(row)), text, key, int(self.offsets[row]))

        findings.add(kind, places(), len(rows))


def examine(
    offsets: Offsets, *, file: DamagedFile, decode: bool
) -> tuple[RecordTable, dict[int, str]]:
    """Return the records at `offsets`, and by offset what is wrong with undecodable images.

    With `decode` every image is decoded as training does. The keys are not known yet.
    """
    headers = file.headers(offsets)
    sizes, faults = np.zeros((len(offsets), 2), np.uint16), {}
    for row in np.flatnonzero(headers.image_sizes > 0).tolist() if decode else ():
        try:
            sizes[row] = _decoded_size(_image(file, int(offsets[row]), int(headers.flags[row])))
        except BadImage as error:
            faults[int(offsets[row])] = str(error)
    table = RecordTable(
        first_rows={Path(file.path): 0},
        keys=np.full(len(offsets), NO_KEY),
        offsets=offsets,
        **vars(headers),
        fingerprints=_fingerprints(file, offsets, headers),
        sizes=sizes,
    )
    return table, faults


def image_digests(
    rows: RowIndices, *, table: RecordTable, files: Sequence[DamagedFile]
) -> list[bytes]:
    """Return a digest of 16 bytes of the image of each of `rows`; `files` are those of `table`."""
    numbers = np.searchsorted(list(table.first_rows.values()), rows, side="right") - 1
    images = zip(
        numbers.tolist(), table.offsets[rows].tolist(), table.flags[rows].tolist(), strict=True
    )
    return [
        blake2b(_image(files[number], offset, flag), digest_size=16).digest()
        for number, offset, flag in images
    ]


def _image(file: DamagedFile, offset: int, flag: int) -> Bytes:
    return file.read(offset)[HEADER.size + 4 * flag :]


def _fingerprints(file: DamagedFile, offsets: Offsets, headers: Headers) -> npt.NDArray[np.uint64]:
    """Return a number of 64 bits for each image, made of its size and of words spread over it.

    Images with different numbers are different; those with the same number are to be compared. Of
    the few in several parts the size has to do.
    """
    words = offsets // 4  # where records start
    in_parts = file.words(words + 1) >> SIZE_BITS != WHOLE
    counts = np.where(in_parts, 0, np.maximum(headers.image_sizes // 4, 0))
    first = words + (8 + HEADER.size) // 4 + headers.flags.astype(np.int64)
    spread = counts * np.arange(1 << _LOG_SAMPLES)[:, None] >> _LOG_SAMPLES
    samples = file.words(np.where(counts > 0, first, words) + spread)
    samples[:, counts == 0] = 0
    result = headers.image_sizes.astype(np.uint64)
    for sample in samples:
        result = (result ^ sample) * _MULTIPLIER
        result ^= result >> np.uint64(32)
    return result


def _decoded_size(encoded: Bytes) -> tuple[int, int]:
    """Decode an image as training does and return its width and height; raises `BadImage`."""
    width = height = 0
    if is_jpeg := encoded[:2] == b"\xff\xd8":
        width, height = pixel_size(encoded) or (0, 0)
    side = height if 0 < height == width <= 4 * _SIDE else _SIDE  # to its own size: not resized
    decode_into(np.empty((side, side, 3), np.uint8), encoded)
    # Only what was decoded is known to be safe to open.
    return (width, height) if is_jpeg else encoded_size(encoded)
