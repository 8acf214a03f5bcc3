"""MegaFace and TinyFace: opened once, judged for each model.

Shape legend: n images, d embedding size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from data.datasets.folders import IMAGE_SUFFIXES
from eval.protocols.bootstrap import BY_SUBJECT, draw_counts, mean_replicates
from eval.protocols.megaface import apply_noise
from eval.protocols.megaface import search as search_among
from eval.protocols.megaface_files import (
    noisy_distractors,
    noisy_probes,
    read_noise_list,
    read_photo_list,
    read_probe_list,
)
from eval.protocols.tinyface import read_image_ids, search
from eval.results import Counts, Distractors, HashedFile, SetResult
from eval.suites.images import Embedded, ImageList, ImageSet, image_set
from eval.suites.scored import Drawn, Searched, noted
from eval.suites.settings import MegaFaceSet, Suite, TinyFaceSet
from recognition.inference.description import sha256

Bools = NDArray[np.bool_]
Features = NDArray[np.floating[Any]]

BLOCK: Final = 4096  # distractors at once


@dataclass(frozen=True, eq=False)
class OpenMegaFace:
    """The lists of a set, and its images: the probe photos, then all distractors."""

    name: str
    settings: MegaFaceSet
    images: ImageSet
    people: list[str]  # of the probe photos
    noisy_probes: Bools
    lists: tuple[NDArray[np.int64], ...]  # numbers of the images of each list of distractors
    noisy: Bools  # of all images, as distractors
    files: tuple[HashedFile, ...]
    warnings: tuple[str, ...]


def open_megaface(name: str, settings: MegaFaceSet, folder: Path) -> OpenMegaFace:
    """Read the lists and all images of a set; raises `ValueError` for what is missing or wrong."""
    photos, people = read_probe_list(folder / settings.probes)
    listed = [read_photo_list(folder / path) for path in settings.distractors]
    paths = list(dict.fromkeys(path for one in listed for path in one))
    files = [folder / path for path in (settings.probes, *settings.distractors)]
    with noted() as warnings:
        noise_p, noise_d = np.zeros(len(photos), np.bool_), np.zeros(len(paths), np.bool_)
        if settings.probe_noise is not None:
            files.append(folder / settings.probe_noise)
            noise_p = noisy_probes(photos, read_noise_list(files[-1]))
        if settings.distractor_noise is not None:
            files.append(folder / settings.distractor_noise)
            noise_d = noisy_distractors(paths, read_noise_list(files[-1]))
    source = ImageList(
        folder,
        [str(settings.probe_images / path) for path in photos]
        + [str(settings.distractor_images / path) for path in paths],
    )
    images = image_set(source, len(source.paths))
    number_of = {path: number for number, path in enumerate(paths, len(photos))}
    return OpenMegaFace(
        name,
        settings,
        images,
        people,
        noise_p,
        tuple(np.array([number_of[path] for path in one], dtype=np.int64) for one in listed),
        np.concatenate([np.zeros(len(photos), np.bool_), noise_d]),
        (*(HashedFile(str(file), sha256(file)) for file in files), _root(folder, images)),
        tuple(warnings),
    )


def judge_megaface(
    item: OpenMegaFace, model: str, embedded: Embedded, suite: Suite
) -> tuple[SetResult, Searched]:
    """Return the figures of every list of distractors under every rule for noise."""
    features_ud = embedded.features()
    probes_nd = features_ud[item.images.rows[: len(item.people)]]
    found, drawn = [], []
    with noted() as warnings:
        for numbers in item.lists:
            for noise in item.settings.noise:
                kept_nd, people = apply_noise(probes_nd, item.people, item.noisy_probes, noise)
                kept = numbers if noise == "as_listed" else numbers[~item.noisy[numbers]]
                blocks = _blocks(features_ud, item.images.rows[kept])
                outcomes = search_among(kept_nd, people, blocks, len(kept))
                found.append(Distractors(noise, outcomes.figures))
                name = f"rank-1, {len(kept):,} distractors, {noise}"
                drawn.append(_drawn(name, outcomes.first_t, outcomes.person_t, suite))
    result = SetResult(
        model=model,
        set=item.name,
        protocol="megaface",
        settings=_settings(suite),
        files=item.files,
        counts=_counts(item.images, len(set(item.people))),
        # Each size and rule warns of the same people.
        warnings=tuple(dict.fromkeys([*item.warnings, *warnings])),
        megaface=tuple(found),
    )
    return result, Searched(drawn)


def _drawn(
    figure: str, value_t: Bools | NDArray[np.float64], person_t: NDArray[Any], suite: Suite
) -> Drawn:
    """Return the mean over trials, and its replicates, which draw the people of the probes."""
    person_s, number_t = np.unique(person_t, return_inverse=True)
    draws = draw_counts(len(person_s), suite.replicates, suite.seed)
    replicates = mean_replicates(value_t, number_t, draws)
    return Drawn(figure, None, float(value_t.mean()), None, BY_SUBJECT, replicates)


def _blocks(features_ud: Features, rows: NDArray[np.int64]) -> Iterator[Features]:
    for start in range(0, len(rows), BLOCK):
        yield features_ud[rows[start : start + BLOCK]]


@dataclass(frozen=True, eq=False)
class OpenTinyFace:
    """The lists of a set, and its images: probes, the gallery's matches, its distractors."""

    name: str
    images: ImageSet
    probe_ids: NDArray[np.int64]
    gallery_ids: NDArray[np.int64]
    files: tuple[HashedFile, ...]


def open_tinyface(name: str, settings: TinyFaceSet, folder: Path) -> OpenTinyFace:
    """Read the lists and all images of a set; raises `ValueError` for what is missing or wrong."""
    lists = (folder / settings.probes, folder / settings.gallery)
    probes, probe_ids = read_image_ids(lists[0], "probe")
    gallery, gallery_ids = read_image_ids(lists[1], "gallery")
    distractors = folder / settings.distractor_images
    if not distractors.is_dir():
        raise ValueError(f"{distractors} is no folder: expected that of the distractors")
    found = sorted(p.name for p in distractors.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    source = ImageList(
        folder,
        [
            str(root / name)
            for root, names in (
                (settings.probe_images, probes),
                (settings.gallery_images, gallery),
                (settings.distractor_images, found),
            )
            for name in names
        ],
    )
    images = image_set(source, len(source.paths))
    files = (*(HashedFile(str(path), sha256(path)) for path in lists), _root(folder, images))
    return OpenTinyFace(name, images, probe_ids, gallery_ids, files)


def judge_tinyface(
    item: OpenTinyFace, model: str, embedded: Embedded, suite: Suite
) -> tuple[SetResult, Searched]:
    """Return rank-k and mAP; raises `ValueError` as the protocol does."""
    features_nd = embedded.features()[item.images.rows]
    probes = len(item.probe_ids)
    with noted() as warnings:
        found = search(features_nd[:probes], item.probe_ids, features_nd[probes:], item.gallery_ids)
    figures = found.figures()
    result = SetResult(
        model=model,
        set=item.name,
        protocol="tinyface",
        settings=_settings(suite),
        files=item.files,
        counts=_counts(item.images, len(np.union1d(item.probe_ids, item.gallery_ids))),
        warnings=tuple(warnings),
        tinyface=figures,
    )
    return result, Searched(
        [
            _drawn("rank-1", found.rank_p == 1, found.person_p, suite),
            _drawn("mAP", found.precision_p, found.person_p, suite),
        ]
    )


def _root(folder: Path, images: ImageSet) -> HashedFile:
    return HashedFile(str(folder), images.sha256)


def _settings(suite: Suite) -> dict[str, str]:
    return {"flip": "yes" if suite.flip else "no", "alignment": "as in the files"}


def _counts(images: ImageSet, subjects: int) -> Counts:
    # A set with an image that cannot be read is refused.
    return Counts(len(images.unique), subjects, None, None, None, None, 0, 0)
