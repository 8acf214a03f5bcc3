"""A stretch of a file and what follows it, read as far as is asked for, with its magics."""

import os
from typing import Final

import numpy as np
import numpy.typing as npt

from data.records.format import MAGIC, PART, SIZE_BITS, SIZE_MASK

Offsets = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]
Span = tuple[int, int]  # of bytes in the file: start, stop

_AHEAD: Final = 1 << 18  # bytes read beyond a stretch at once, for its last record
_MORE: Final = 1 << 20  # bytes read at a time where that is not enough
_SEARCHED: Final = 1 << 18  # words at a time, which stay in the core's cache
_KEPT: Final = 1 << 25  # bytes: larger memory, of a huge record, goes back to the system
_PAGE: Final = 4096


class Window:
    """The bytes of a file from `start`, a multiple of 4, on, read as far as they are asked for.

    Reads into memory of its own, not through a mapping: a bad sector is then an error that can be
    reported, not a signal that ends the process.

    Args:
        file: descriptor, which stays the caller's; nothing is done to its position.
        start, end: the stretch. It is read at once, and some more for its last record.
        spare: arrays that nobody uses: one of them is read into, and `release` puts it back. Fresh
            memory comes from the system page by page, each cleared first.

    Attributes:
        start, end: of the stretch in the file.
        size: of the file in bytes.
        unreadable: spans of the file that the disk refused to give, and that are zeros here.
    """

    def __init__(self, file: int, start: int, end: int, spare: list[Words]) -> None:
        self._file = file
        self.size = os.fstat(file).st_size
        self.start, self.end = start, end
        self.unreadable: list[Span] = []
        self._spare = spare  # shared by threads: a list's append and pop are atomic
        try:
            self._buffer = spare.pop()
        except IndexError:
            self._buffer = np.empty(0, "<u4")
        self._filled = 0  # bytes of the buffer
        self._magics = [np.empty(0, np.int64)]
        self._searched = 0  # words
        self.reach(end + _AHEAD)

    def release(self) -> None:
        """Give the memory back: nothing of the window may be used any more."""
        if self._buffer.nbytes <= _KEPT:
            self._spare.append(self._buffer)

    @property
    def stop(self) -> int:
        """Where in the file ends what was read."""
        return self.start + self._filled

    @property
    def words(self) -> Words:
        """What was read so far, as whole words."""
        return self._buffer[: self._filled // 4]

    @property
    def data(self) -> memoryview:
        """What was read so far, as bytes."""
        return self._buffer.data.cast("B")[: self._filled]

    def reach(self, stop: int) -> None:
        """Read on to `stop`, or to the end of the file."""
        needed = min(stop, self.size) - self.start
        if needed > self._buffer.nbytes:
            larger = np.empty((max(needed, 2 * self._filled) + 3) // 4, "<u4")
            read = -(-self._filled // 4)
            larger[:read] = self._buffer[:read]
            self._buffer = larger
        if needed > self._filled:
            view = self._buffer.data.cast("B")[self._filled : needed]
            self._read(view, self.start + self._filled)
            self._filled = needed

    def magics(self) -> Offsets:
        """Return all multiples of 4 at which the magic was read, rising."""
        words = self.words
        while self._searched < len(words):
            piece = words[self._searched : self._searched + _SEARCHED]
            found = np.flatnonzero(piece == MAGIC)
            self._magics.append(self.start + (found + self._searched) * 4)
            self._searched += len(piece)
        if len(self._magics) > 1:
            self._magics = [np.concatenate(self._magics)]
        return self._magics[0]

    def next_magic(self, offset: int, limit: int) -> int:
        """Return the first magic from `offset` on, or `limit` if none is before that."""
        while True:
            magics = self.magics()
            place = int(np.searchsorted(magics, offset))
            if place < len(magics):
                return min(int(magics[place]), limit)
            if self.stop >= min(limit, self.size):
                return limit
            self.reach(self.stop + _MORE)

    def part(self, offset: int) -> tuple[int, int] | None:
        """Return flag and size of the part that starts at `offset`; None if none does."""
        if not self.start <= offset <= self.size - PART.size:
            return None
        content = bytearray(PART.size)
        if offset + PART.size <= self.stop:
            content[:] = self.data[offset - self.start :][: PART.size]
        else:
            self._read(memoryview(content), offset)
        magic, word = PART.unpack(content)
        return (word >> SIZE_BITS, word & SIZE_MASK) if magic == MAGIC else None

    def _read(self, into: memoryview, start: int) -> None:
        """Fill `into` with the bytes from `start` on, with zeros where they cannot be read."""
        done = 0
        try:
            done = os.preadv(self._file, [into], start)
        except OSError:
            if len(into) > _PAGE:
                for at in range(0, len(into), _PAGE):
                    self._read(into[at : at + _PAGE], start + at)
                return
            self.unreadable.append((start, start + len(into)))
        into[done:] = bytes(len(into) - done)  # the file may have shrunk meanwhile, too
