"""Millions of texts in two arrays: no object each, nothing that a forked process would copy."""

from array import array
from collections.abc import Iterable, Iterator


class Texts:
    """A sequence of texts that does not change.

    A list of 17 million file names takes 1.5 GB, and worker processes copy it page by page, since
    every look at an object changes its count of references.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        content, ends = bytearray(), array("q", [0])
        for text in texts:
            # File names need not be UTF-8; Python keeps their odd bytes as lone surrogates.
            content += text.encode("utf-8", "surrogateescape")
            ends.append(len(content))
        self._content, self._ends = bytes(content), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        text = self._content[self._ends[index] : self._ends[index + 1]]
        return text.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
