"""`config.json` of an exported network: what its files are, and what their users need to know."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from recognition.inference.pixels import PixelFormat

CONFIG: Final = "config.json"
FORMAT: Final = "partialfc-1"  # the number rises when a field changes its name or its meaning
_MAX_BYTES: Final = 1 << 20


class DescriptionError(ValueError):
    """A `config.json` that no export wrote, or that describes another file than the one there."""


@dataclass(frozen=True)
class Threshold:
    """The cosine above which two faces are one person, at a rate of false accepts."""

    far: float
    cosine: float | None  # None with a reason
    reason: str | None = None
    set: str | None = None  # what it was measured on
    impostor_pairs: int | None = None  # of that set


@dataclass(frozen=True)
class ExportedFile:
    """One form of the network."""

    sha256: str
    thresholds: tuple[Threshold, ...] = ()


@dataclass(frozen=True)
class Description:
    """An exported network; its files differ in form and rounding alone."""

    backbone: str
    embedding_size: int
    image_size: int  # pixels per side
    pixels: PixelFormat = field(default_factory=PixelFormat)
    flip: bool = False  # whether thresholds are for embeddings that add the mirror image's
    files: Mapping[str, ExportedFile] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the content of `config.json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "Description | None":
        """Return what an export wrote into a folder; None where there is no such file.

        A `config.json` of other software counts as none. Raises `DescriptionError` for one of an
        export that was damaged.
        """
        path = folder / CONFIG
        try:
            with path.open("rb") as file:
                content = json.loads(file.read(_MAX_BYTES))
        except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
            return None
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            return None
        try:
            content["pixels"] = PixelFormat(**content["pixels"])
            content["files"] = {
                name: ExportedFile(
                    entry["sha256"], tuple(Threshold(**one) for one in entry["thresholds"])
                )
                for name, entry in content["files"].items()
            }
            return cls(**content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DescriptionError(f"{path} is no description of an export: {error!r}") from None


def described(file: Path) -> tuple[Description, ExportedFile] | None:
    """Return what the folder of a file says of it; None if it says nothing.

    Raises `DescriptionError` if the file is not the one that was described.
    """
    description = Description.read(file.parent)
    entry = None if description is None else description.files.get(file.name)
    if description is None or entry is None or not file.is_file():
        return None
    if entry.sha256 != (found := sha256(file)):
        raise DescriptionError(
            f"{file} is not the file that {CONFIG} next to it describes: its SHA-256 begins with "
            f"{found[:12]}, expected {entry.sha256[:12]}; export it again, or copy both anew"
        )
    return description, entry


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pixels_of_metadata(path: Path, metadata: Mapping[str, str]) -> PixelFormat | None:
    """Return the pixel format that an ONNX file's own metadata states, None if it has none.

    Raises `DescriptionError` for values that are no such format.
    """
    try:
        values: dict[str, Any] = {name: float(metadata[name]) for name in ("mean", "std")}
        return PixelFormat(**values, channels=metadata["channels"])  # type: ignore[arg-type]
    except KeyError:
        return None
    except ValueError as error:
        raise DescriptionError(
            f"{path}: its metadata states no way to use pixels: {error}"
        ) from None
