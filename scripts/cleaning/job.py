"""One run of `scripts/clean_records.py`: embed, examine, report, act."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from data.cleaning.decide import Plan, decide
from data.cleaning.embeddings import EmbeddingFiles
from data.cleaning.examine import Examination, Settings
from data.cleaning.findings import Findings
from data.cleaning.leaks import KnownPeople
from data.datasets.dataset import ImageDataset, open_dataset
from data.pairs.bin_file import PairFile, read_pair_file
from data.tools.class_names import ClassName, label_names
from eval.faces import people_of
from recognition import FaceEmbedder
from recognition.distributed import current
from scripts.cleaning.embed import Embedded, embed_set

STAGES: Final = 6  # of an examination


@dataclass(frozen=True)
class Inputs:
    """What is to be examined."""

    dataset: ImageDataset  # all of DATA, one after the other
    names: list[ClassName]  # of its classes
    parts: list[ImageDataset]  # each of DATA by itself
    sets: list[tuple[str, PairFile]]  # verification sets by name


@dataclass(frozen=True)
class Outcome:
    """What was found, and what becomes of each image."""

    findings: Findings
    plan: Plan
    bad: int  # images that cannot be read
    earlier: int  # images that an earlier try had embedded


def open_inputs(options: argparse.Namespace) -> Inputs:
    """Open what the options name; raises `ValueError` for data without people to compare."""
    sets = []
    for name in options.verification:
        given = Path(name)
        folder = options.folder or Path(options.data[0])
        path = given if given.suffix == ".bin" else folder / f"{name}.bin"
        if path != given and not path.is_file():
            raise ValueError(
                f"--verification {name}: {path} does not exist; expected the set there: state the "
                "folder that has the sets with --folder, or the path of a .bin file as the set"
            )
        sets.append((given.stem if given.suffix == ".bin" else name, read_pair_file(path)))
    names = [name for name, _ in sets]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"--verification names {repeated[0]} twice: expected sets of different names, by which "
            "the report tells them apart"
        )
    dataset = open_dataset(options.data, remap_labels=True)
    if dataset.num_classes < 2:
        raise ValueError(
            f"{' '.join(options.data)} has {dataset.num_classes} identity: expected at least 2, to "
            "compare images with another one"
        )
    if len(dataset) == dataset.num_classes:
        raise ValueError(
            f"{' '.join(options.data)} has one image of each of its {len(dataset):,} identities: "
            "expected some with several, by which the others are judged"
        )
    parts = [open_dataset(location, remap_labels=True) for location in options.data]
    return Inputs(dataset, label_names(dataset), parts, sets)


def embed_all(
    inputs: Inputs, embedder: FaceEmbedder, folder: Path
) -> tuple[list[Embedded], list[Embedded]]:
    """Embed this rank's part of all images; returns those of the data, and those of the sets."""
    world = current()
    sources: list[ImageDataset | PairFile] = [*inputs.parts, *(pairs for _, pairs in inputs.sets)]
    total = -(-sum(len(source) for source in sources) // world.size)
    with tqdm(total=total, unit="image", disable=None, leave=False) as bar:
        found = [
            embed_set(embedder, source, folder, world, lambda count: bar.update(count))
            for source in sources
        ]
    return found[: len(inputs.parts)], found[len(inputs.parts) :]


def examine(
    inputs: Inputs,
    data: Sequence[Embedded],
    sets: Sequence[Embedded],
    embedder: FaceEmbedder,
    options: argparse.Namespace,
) -> Outcome:
    """Find the faults, and decide what becomes of each image."""
    vectors = EmbeddingFiles([file for one in data for file in one.files])
    known = [
        known_people(name, pairs, one.open())
        for (name, pairs), one in zip(inputs.sets, sets, strict=True)
    ]
    settings = Settings(options.precision, options.thresholds, options.seed)
    dataset = inputs.dataset
    with tqdm(total=STAGES, unit="stage", disable=None, leave=False) as bar:

        def stage(name: str) -> None:
            bar.set_description(name)
            bar.update(1)

        examination = Examination(
            vectors, dataset.labels, dataset.num_classes, embedder.device, settings, stage
        )
        found = examination.run(known)
    plan = decide(examination.labels, dataset.num_classes, found, options.fix)
    return Outcome(
        found, plan, int((~vectors.good).sum()), sum(one.earlier for one in [*data, *sets])
    )


def known_people(name: str, pairs: PairFile, vectors: EmbeddingFiles) -> KnownPeople:
    """Return the people of a set, by its genuine pairs; an image in none is a person of its own."""
    people = people_of(pairs, pairs.same)
    people = np.where(vectors.good, people, -1)
    rows = np.flatnonzero(people >= 0)
    _, first, of_rows = np.unique(people[rows], return_index=True, return_inverse=True)
    centres = np.zeros((len(first), vectors.size), np.float32)
    np.add.at(centres, of_rows, vectors.take(rows))
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    return KnownPeople(name, centres, rows[first])
