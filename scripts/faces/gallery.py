"""Embeddings in a file: made a part at a time, so that an interrupted job goes on.

Shape legend: n faces, d embedding size.
"""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.datasets.dataset import ImageDataset, open_dataset
from data.datasets.folders import IMAGE_SUFFIXES
from data.datasets.sources import ImageSource, RecordImages
from data.files import atomic_write, writing
from data.loading.decode import encoded_size
from data.pairs.bin_file import PairFile
from data.records.locations import LocationKind, is_url, location_kind, shown
from data.tools.class_names import label_names
from eval.embedding import embed_images
from eval.suites.images import ImageList
from recognition import FaceEmbedder
from recognition.distributed import World
from recognition.inference.description import sha256
from recognition.inference.embedder import EXPECTED_FACE, NOT_FINITE
from scripts.faces.parts import begin_parts, make_parts, part_files, part_rows

Embeddings = NDArray[np.float32]


class GalleryError(ValueError):
    """Embeddings that are of another network or job than the one that they are to be used for."""


@dataclass(frozen=True)
class Faces:
    """Encoded faces, each with a name and the label of its identity, empty if it has none."""

    source: ImageSource
    names: Sequence[str]
    labels: Sequence[str]


def open_faces(location: str) -> Faces:
    """Open a dataset, as `data.train` names one, or a folder of images at any depth.

    The name of an image is its path in the folder, or its number in a dataset; its label is the
    folder that it lies in, or the name of its class, or its label if classes have no names. Raises
    `ValueError` for a location without images, or with names for some classes only.
    """
    if location_kind(location) is not LocationKind.FOLDER:
        dataset = open_dataset(location, remap_labels=True)
        names = [str(number) for number in range(len(dataset))]
        classes = [str(name) for _, name in label_names(dataset)]
        return Faces(dataset, names, [classes[label] for label in dataset.labels.tolist()])
    root = Path(location)
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not names:
        raise GalleryError(f"{root} has no images ({', '.join(IMAGE_SUFFIXES)})")
    labels = [name.rpartition("/")[0] for name in names]
    return Faces(ImageList(root, names), names, labels)


@dataclass(frozen=True)
class Gallery:
    """What `embed_faces` writes."""

    embeddings: Embeddings  # [n, d], of length 1
    names: NDArray[np.str_]  # [n]
    labels: NDArray[np.str_]  # [n]
    about: dict[str, Any]  # location, model and so on

    @classmethod
    def read(cls, path: Path) -> "Gallery":
        """Return the content of a file; raises `GalleryError` for any other file."""
        try:
            with np.load(path) as found:
                embeddings, names, labels, text = (
                    found[name] for name in ("embeddings", "names", "labels", "about")
                )
            return cls(embeddings, names, labels, json.loads(str(text)))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise GalleryError(f"{path} is no file of embed_faces: {error}") from None

    def check(self, path: Path, embedder: FaceEmbedder) -> None:
        """Raise `GalleryError` unless an embedder makes what can be compared with this."""
        own = about(embedder)
        if other := [name for name in own if own[name] != self.about.get(name)]:
            raise GalleryError(
                f"{path} was made by another network or otherwise ({', '.join(other)}; its file "
                f"was {self.about.get('file')}): embed the gallery anew with this one"
            )


def about(embedder: FaceEmbedder) -> dict[str, Any]:
    """Return what embeddings depend on, besides the faces."""
    network = embedder.network
    return {
        "model": sha256(network.file),
        "image_size": network.image_size,
        "pixels": dict(vars(network.pixels)),
        "flip": embedder.flip,
    }


def write_gallery(
    embedder: FaceEmbedder,
    faces: Faces,
    location: str,
    path: Path,
    advance: Callable[[int], object],
) -> int:
    """Embed all faces into a new file; return how many had been embedded by an earlier try.

    What is done lies in the folder `PATH.parts` until the end. `advance` gets the number of faces
    of each part. Raises `PartsError` if that folder is of another job.
    """
    folder = path.with_name(path.name + ".parts")
    listed = json.dumps([list(faces.names), list(faces.labels)]).encode()
    job = {
        **about(embedder),
        "file": str(embedder.network.file),
        "location": shown(location) if is_url(location) else str(Path(location).resolve()),
        "faces": hashlib.sha256(listed).hexdigest(),
    }
    if isinstance(faces.source, ImageDataset):
        job["images"] = fingerprint(faces.source)
    begin_parts(folder, job)
    count = len(faces.names)
    if isinstance(faces.source, ImageList):
        _remove_changed(folder, faces.source)
    done = make_parts(
        folder, count, lambda rows: unit_embeddings(embedder, faces.source, rows), advance
    )
    parts = part_files(folder, count)
    with writing(path), atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        _write_rows(archive, "embeddings", parts)
        for name, values in (("names", faces.names), ("labels", faces.labels)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.array(values, dtype=np.str_))
        with archive.open("about.npy", "w") as stream:
            np.lib.format.write_array(stream, np.array(json.dumps(job)))
    shutil.rmtree(folder)
    return done


def _remove_changed(folder: Path, images: ImageList) -> None:
    """Remove the parts with images whose files have changed since: one was mended, others stay."""
    for part, rows in part_rows(folder, len(images.paths)).items():
        if part.exists():
            made = part.stat().st_mtime_ns
            files = (images.root / images.paths[row] for row in rows)
            # The time of the file's entry: a file of any age may be put in another one's place.
            if any(file.exists() and file.stat().st_ctime_ns > made for file in files):
                part.unlink()


def unit_embeddings(
    embedder: FaceEmbedder, source: ImageSource, indices: NDArray[np.int64]
) -> Embeddings:
    """Return the embeddings of the images at `indices`, of length 1; raises as `embed_images`.

    Raises `GalleryError` for files that are not square, and if an embedding is not finite.
    """
    if isinstance(source, ImageList):
        _check_square(source, indices)
    found = embed_views(embedder, embedder.network.embed, source, indices).sum(axis=1)
    if not np.isfinite(found).all():
        raise GalleryError(f"{embedder.network.file} {NOT_FINITE}")
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    unit: Embeddings = found / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit


def _check_square(images: ImageList, indices: NDArray[np.int64]) -> None:
    for index in indices.tolist():
        try:
            width, height = encoded_size(images.encoded(index))
        except (ValueError, OSError):
            continue  # decoding says what is wrong with it
        if width != height:
            raise GalleryError(f"{images.describe(index)} is {[height, width]}: {EXPECTED_FACE}")


def embed_views(
    embedder: FaceEmbedder,
    model: Callable[[Tensor], Tensor],
    source: ImageSource,
    indices: NDArray[np.int64],
) -> Embeddings:
    """Return `embed_images` with a model in place of the embedder's, as that one takes images."""
    return embed_images(
        model,
        source,
        indices,
        image_size=embedder.image_size,
        batch_size=embedder.batch_size,
        device=embedder.device,
        flip=embedder.flip,
        world=World(),
    )


def fingerprint(source: ImageDataset | PairFile) -> str:
    """Return a hash of what the images of a source are, by their files' sizes and times.

    Labels take no part: a dataset whose labels alone were changed is not embedded again.
    """
    digest = hashlib.sha256()
    if isinstance(source, PairFile):
        _add_file(digest, source.path)
        return digest.hexdigest()
    for part in source.sources:
        digest.update(os.fsencode(f"{shown(part.location)} {len(part)}\n"))
        if isinstance(part, RecordImages):
            digest.update(f"{part.file.fingerprint}\n".encode())  # of a URL too
            digest.update(part.offsets.tobytes())  # which images, in which order
            if Path(part.location).is_file():
                _add_file(digest, Path(part.location))
        else:
            for row in range(len(part)):
                _add_file(digest, Path(part.describe(row)))
    return digest.hexdigest()


def _add_file(digest: Any, path: Path) -> None:
    digest.update(os.fsencode(f"{path.resolve()} "))
    if path.is_file():  # of a missing one the row is not good
        found = os.stat(path)
        digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())


def _write_rows(archive: zipfile.ZipFile, name: str, parts: Sequence[Path]) -> None:
    """Write the rows of the parts one after another, with one part in memory at a time."""
    shapes = [np.load(part, mmap_mode="r").shape for part in parts]
    shape = (sum(rows for rows, _ in shapes), shapes[0][1])
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_2_0(stream, header)
        for part in parts:
            stream.write(np.load(part).astype("<f4", copy=False).tobytes())
