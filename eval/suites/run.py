"""Runs a suite: every set is read once, every model embeds it once, rank 0 computes the figures."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from eval.faces import FaceSample
from eval.results import (
    Calibration,
    Comparison,
    Cost,
    HardPair,
    HashedFile,
    ModelEntry,
    Results,
    Run,
    SetResult,
)
from eval.suites.compare import calibrate, compare
from eval.suites.identification import (
    judge_megaface,
    judge_tinyface,
    open_megaface,
    open_tinyface,
)
from eval.suites.ijb import judge_ijb, open_ijb
from eval.suites.images import Embedded, Embedder, ImageSet
from eval.suites.models import LoadedModel
from eval.suites.pairs import judge_pairs, open_pairs
from eval.suites.scored import Scored, Searched
from eval.suites.settings import Suite
from recognition.failure import on_main

Entry = tuple[SetResult, Scored | Searched]
Judge = Callable[[str, Embedded, Suite], list[Entry]]

PROTOCOL: Final = {
    "embedding": "f(image) + f(mirrored image), L2-normalised",
    "embedding_no_flip": "f(image), L2-normalised",
    "score": "cosine; a pair is accepted above the threshold",
    "distance": "squared Euclidean, 2 - 2 · cosine",
    "tar_at_far": "largest threshold at which at most that rate of impostor pairs is accepted",
    "published_tpr": "the point of scikit-learn's roc_curve whose FPR is nearest to the rate",
    "interval": "bootstrap, percentiles 2.5 and 97.5; by subject where people are known",
    "ten_fold_thresholds": "0, 0.01 ... 3.99; same if distance < threshold",
    "ten_fold": "unshuffled; per fold the first threshold that is best on the other nine",
    "population_std": "over the ten folds, divided by their number (not by one less)",
    "embedding_norm": "mean over all images of all pairs, plain and mirrored",
}


@dataclass(frozen=True, eq=False)
class OpenSet:
    """A set that was read, and the function that judges a model on it."""

    name: str
    images: ImageSet
    judge: Judge
    faces: Callable[[Embedded], FaceSample] | None = None  # some to look at; of pairs


@dataclass(eq=False)
class _Spent:
    """What a model has cost so far."""

    passes: int = 0
    embedding: float = 0.0  # seconds in which there were forward passes
    figures: float = 0.0
    cached: list[str] = field(default_factory=list)
    size: int = 0  # of an embedding


def open_suite(suite: Suite) -> list[OpenSet]:
    """Read every set of a suite; raises `ValueError` for the first that cannot be used."""
    return list(_open(suite, suite.folder))


def _open(suite: Suite, folder: Path) -> Iterator[OpenSet]:
    # One function for each kind: what it opens is what its judge takes.
    for name, pairs in suite.pairs.items():
        pair_set = open_pairs(name, pairs, folder)
        judge = partial(_one, judge_pairs, pair_set)
        yield OpenSet(name, pair_set.images, judge, pair_set.faces)
    for name, ijb in suite.ijb.items():
        ijb_set = open_ijb(name, ijb, folder)
        yield OpenSet(name, ijb_set.images, partial(judge_ijb, ijb_set))
    for name, megaface in suite.megaface.items():
        mega_set = open_megaface(name, megaface, folder)
        yield OpenSet(name, mega_set.images, partial(_one, judge_megaface, mega_set))
    for name, tinyface in suite.tinyface.items():
        tiny_set = open_tinyface(name, tinyface, folder)
        yield OpenSet(name, tiny_set.images, partial(_one, judge_tinyface, tiny_set))


def _one(judge: Callable[..., Entry], item: Any, *rest: Any) -> list[Entry]:
    return [judge(item, *rest)]


def run_suite(
    suite: Suite, sets: Sequence[OpenSet], models: Sequence[LoadedModel], embed: Embedder, run: Run
) -> Results | None:
    """Return all figures on rank 0, None on the others; all ranks must call.

    The first model is what the others are compared with. Raises `ValueError` on all ranks as
    embedding and the protocols do.
    """
    entries: list[Entry] = []
    spent = {model.name: _Spent() for model in models}
    for item in sets:
        for model in models:
            embedded = embed(model, item.images)
            judge = partial(_judge, item, model.name, embedded, suite, spent[model.name], entries)
            on_main(judge, suite.folder, ValueError)
            del embedded, judge  # up to 2 GB, and the next one is as large
    if not embed.world.is_main:
        return None
    return Results(
        run=run,
        models=tuple(_entry(model, spent[model.name], embed.device) for model in models),
        sets=tuple(result for result, _ in entries),
        calibration=tuple(_calibration(suite, entries, models)),
        comparisons=tuple(_comparisons(entries, models[0].name)),
    )


def _judge(
    item: OpenSet, model: str, embedded: Embedded, suite: Suite, spent: _Spent, entries: list[Entry]
) -> None:
    _count(spent, item, embedded)
    started = time.perf_counter()
    entries += item.judge(model, embedded, suite)
    spent.figures += time.perf_counter() - started


def _count(spent: _Spent, item: OpenSet, embedded: Embedded) -> None:
    images, views, spent.size = embedded.embeddings.shape
    if embedded.cached:
        spent.cached.append(item.name)
    else:
        spent.passes += images * views
        spent.embedding += embedded.seconds


def _entry(model: LoadedModel, spent: _Spent, device: torch.device) -> ModelEntry:
    return ModelEntry(
        name=model.name,
        file=HashedFile(str(model.file), model.sha256),
        kind=model.kind,
        embedding_size=spent.size,
        image_size=model.image_size,
        mean=model.pixels.mean,
        std=model.pixels.std,
        channels=model.pixels.channels,
        details=model.details,
        cost=Cost(
            forward_passes=spent.passes,
            cached_sets=tuple(spent.cached),
            images_per_second=spent.passes / spent.embedding if spent.passes else None,
            seconds={"embedding": spent.embedding, "figures": spent.figures},
            peak_memory=peak_memory(device),
        ),
    )


def peak_memory(device: torch.device) -> dict[str, int]:
    """Return the most memory that this process has had, in bytes: of the CPU, and of the GPU."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"cpu": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.max_memory_allocated(device)
    return found


def _scored(entries: Sequence[Entry]) -> list[tuple[SetResult, Scored]]:
    return [(result, scored) for result, scored in entries if isinstance(scored, Scored)]


def _comparisons(entries: Sequence[Entry], baseline: str) -> Iterator[Comparison]:
    def key(result: SetResult) -> tuple[str, str, str | None]:
        return result.set, result.protocol, result.settings.get("mode")

    base = {key(result): (result, one) for result, one in entries if result.model == baseline}
    for result, one in entries:
        if result.model != baseline:
            yield from compare((result, one), base[key(result)])


def _calibration(
    suite: Suite, entries: Sequence[Entry], models: Sequence[LoadedModel]
) -> Iterator[Calibration]:
    if suite.calibration is None:
        return
    for model in models:
        own = [(result, one) for result, one in _scored(entries) if result.model == model.name]
        yield from calibrate(own, suite.calibration.chosen_on, suite.calibration.far)


def faces_to_show(results: Results, sets: Sequence[OpenSet]) -> dict[tuple[str, int], bytes]:
    """Return the encoded images that `results` names, by set and number: those for a report.

    They are the images of the hardest pairs and the faces of the worst quality, of every model.
    """
    sources = {item.name: item.images.source for item in sets}
    wanted = {
        (result.set, number)
        for result in results.sets
        for pair in _hard_pairs(result)
        for number in (pair.first_image, pair.second_image)
    }
    wanted |= {
        (result.set, face.image_number)
        for result in results.sets
        for face in (() if result.quality is None else result.quality.worst)
    }
    return {(name, number): bytes(sources[name].encoded(number)) for name, number in sorted(wanted)}


def _hard_pairs(result: SetResult) -> tuple[HardPair, ...]:
    hardest = result.hardest
    return () if hardest is None else (*hardest.impostor, *hardest.genuine)


def with_folder(suite: Suite, folder: Path | None) -> Suite:
    """Return the suite with its paths relative to another folder, if one is given."""
    return suite if folder is None else suite.model_copy(update={"folder": folder})
