"""Folders to write into."""

from pathlib import Path


class OutputFolderError(ValueError):
    """A folder that nothing can be written into without mixing it with what is there."""


def make_empty(folder: Path) -> None:
    """Make `folder`; raise `OutputFolderError` if it is there and is no empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputFolderError(
            f"{folder} exists and is no empty folder: choose another, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
