"""Sets of pairs: opened once, judged for each model.

Shape legend: p pairs, n images, u different ones, d embedding size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from data.pairs.bin_file import read_pair_file
from eval.faces import FaceSample, sample_faces
from eval.protocol import squared_distances, unit
from eval.protocols.bootstrap import PairSubjects
from eval.protocols.fairness import Fairness
from eval.protocols.pair_lists import (
    PairList,
    pair_folder,
    read_agedb,
    read_calfw,
    read_cfp,
    read_csv,
    read_lfw,
)
from eval.protocols.rates import Floats
from eval.results import Counts, GroupCurve, HardestPairs, HardPair, HashedFile, SetResult, TenFold
from eval.suites.images import Embedded, ImageList, ImageSet, image_set
from eval.suites.models import sha256
from eval.suites.people import People, people_of_names, read_people
from eval.suites.quality import quality_of
from eval.suites.scored import Draws, Scored, groups_of, noted, verification
from eval.suites.settings import PairSet, Suite
from eval.verification import check_pairs, verify_embeddings

PAIR_CHUNK: Final = 1 << 14  # pairs whose embeddings are in memory at once
HARDEST: Final = 10

READERS: Final[Mapping[str, Callable[[Path], PairList]]] = {
    "lfw": read_lfw,
    "calfw": read_calfw,
    "cplfw": read_calfw,
    "cfp_ff": partial(read_cfp, protocol="FF"),
    "cfp_fp": partial(read_cfp, protocol="FP"),
    "agedb": read_agedb,
    "csv": read_csv,
}


@dataclass(frozen=True, eq=False)
class OpenPairs:
    """A set of pairs whose images were read once."""

    name: str
    settings: PairSet
    images: ImageSet
    numbers: NDArray[np.int64]  # [2p]; images 2k and 2k + 1 are pair k
    same_p: NDArray[np.bool_]
    people: People | None
    files: tuple[HashedFile, ...]
    warnings: tuple[str, ...]
    no_folds: str | None  # why there are no ten folds

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows of the embeddings for each image of each pair, [2p]."""
        return self.images.rows[self.numbers]

    @property
    def subjects(self) -> PairSubjects | None:
        """The people of each pair, if they are known."""
        if self.people is None:
            return None
        subject_2p = self.people.subject_n[self.numbers]
        return PairSubjects(subject_2p[0::2], subject_2p[1::2], self.people.count)

    def faces(self, embedded: Embedded) -> FaceSample:
        """Return some of the faces, with their plain embeddings."""
        plain_ud, unique = embedded.embeddings[:, 0], self.images.unique
        return sample_faces(self.images.source, plain_ud, self.same_p, self.rows, unique)


def open_pairs(name: str, settings: PairSet, folder: Path) -> OpenPairs:
    """Read the list and all images of a set, whose paths are relative to `folder`.

    Raises `ValueError` for a file that is missing or is no such list, for images that are missing,
    and for a list of people that contradicts the labels.
    """
    file, warnings = folder / settings.file, []
    if settings.format == "bin":
        pairs = read_pair_file(file)
        names = [str(number) for number in range(len(pairs))]
        check_pairs(name, pairs.same)
        images = image_set(pairs, len(pairs))
        numbers, same_p = np.arange(len(pairs), dtype=np.int64), pairs.same
        people, no_folds = None, None
        files = [HashedFile(str(file), sha256(file))]
    else:
        listed, root = _listed(settings, file, folder)
        listed.check_images(root)
        names, numbers, same_p = list(listed.images), listed.rows, listed.same_p
        images = image_set(ImageList(root, names), len(names))
        people, no_folds = people_of_names(names, settings.format), _no_folds(name, listed)
        files = [HashedFile(str(root), images.sha256)]
        if file.is_file():
            files.insert(0, HashedFile(str(file), sha256(file)))
    if settings.people is not None:
        people = read_people(folder / settings.people, names)
        files.append(HashedFile(str(folder / settings.people), sha256(folder / settings.people)))
    found = OpenPairs(name, settings, images, numbers, same_p, people, tuple(files), (), no_folds)
    if contradicted := _contradicted(found):
        text = f"{contradicted} of {len(same_p)} pairs have a label that contradicts their people"
        if settings.people is not None:
            raise ValueError(f"{name}: {text}, {settings.people}: correct one of the two lists")
        warnings.append(f"{text}, by the names of the images: people count as unknown")
        people = None
    return OpenPairs(
        name, settings, images, numbers, same_p, people, tuple(files), tuple(warnings), no_folds
    )


def _listed(settings: PairSet, file: Path, folder: Path) -> tuple[PairList, Path]:
    if settings.format == "folder":
        return pair_folder(file, same=settings.same, different=settings.different), file
    assert settings.images is not None, "the settings were checked"
    return READERS[settings.format](file), folder / settings.images


def _no_folds(name: str, listed: PairList) -> str | None:
    if listed.fold_p is None:
        return "the list has no folds"
    try:
        listed.check_folds()
        check_pairs(name, listed.same_p)
    except ValueError as error:
        return str(error)
    return None


def _contradicted(item: OpenPairs) -> int:
    subjects = item.subjects
    if subjects is None:
        return 0
    assert subjects.second_p is not None, "a pair has two people"
    return int(np.count_nonzero((subjects.first_p == subjects.second_p) != item.same_p))


def judge_pairs(
    item: OpenPairs, model: str, embedded: Embedded, suite: Suite
) -> tuple[SetResult, Scored]:
    """Return every figure of one model. Raises `ValueError` for embeddings that are not finite."""
    missing: dict[str, str] = {}
    ten_fold, fold_warnings = _ten_fold(item, embedded, missing)
    score_p = cosines(embedded.features(), item.rows)
    with noted() as found:
        scored = verification(
            score_p, item.same_p, item.subjects, suite.fars, Draws(suite.replicates, suite.seed)
        )
    people = item.people
    quality = quality_of(
        scored.pairs,
        score_p[item.same_p],
        item.images,
        item.numbers.reshape(-1, 2)[item.same_p],
        embedded.plain,
        None if people is None else people.quality_n,
    )
    if quality is None:
        missing["quality"] = "the impostor pairs are too few for a threshold at FAR 0.1"
    groups, group_curves = _groups(item, score_p, missing)
    pairs_u2 = np.sort(item.rows.reshape(-1, 2), axis=1)
    genuine = int(np.count_nonzero(item.same_p))
    result = SetResult(
        model=model,
        set=item.name,
        protocol="pairs",
        settings={
            "format": item.settings.format,
            "flip": "yes" if suite.flip else "no",
            "alignment": "as in the files",
        },
        files=item.files,
        counts=Counts(
            images=len(item.images.unique),
            subjects=None if people is None else people.count,
            templates=None,
            media=None,
            genuine=genuine,
            impostor=len(item.same_p) - genuine,
            failed_images=0,  # a set with an image that cannot be read is refused
            repeated_rows=len(pairs_u2) - len(np.unique(pairs_u2, axis=0)),
        ),
        # `verify_embeddings` and the protocols may warn of one thing in two ways.
        warnings=(*item.warnings, *fold_warnings, *found),
        missing=missing,
        verification=scored.figures,
        ten_fold=ten_fold,
        hardest=hardest(item, score_p),
        groups=groups,
        group_curves=group_curves,
        quality=quality,
    )
    return result, scored


def cosines(embeddings_ud: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> Floats:
    """Return the cosine of each pair of rows, float64 [p].

    By the distance, as the ten folds have it, so that one order of pairs underlies all figures.
    """
    unit_ud = unit(embeddings_ud.astype(np.float64))
    first_p, second_p = rows[0::2], rows[1::2]
    score_p = np.empty(len(first_p))
    for start in range(0, len(first_p), PAIR_CHUNK):
        part = slice(start, start + PAIR_CHUNK)
        distances = squared_distances(unit_ud[first_p[part]], unit_ud[second_p[part]])
        score_p[part] = 1 - distances / 2
    return score_p


def _ten_fold(
    item: OpenPairs, embedded: Embedded, missing: dict[str, str]
) -> tuple[TenFold | None, tuple[str, ...]]:
    if item.no_folds is not None:
        missing["ten_fold"] = item.no_folds
        return None, ()
    return verify_embeddings(item.name, embedded.plain, embedded.flipped, item.same_p, item.rows)


def hardest(item: OpenPairs, score_p: Floats, count: int = HARDEST) -> HardestPairs:
    """Return the impostor pairs with the highest scores, the genuine ones with the lowest."""

    def named(pairs: NDArray[np.int64]) -> tuple[HardPair, ...]:
        found = []
        for pair in pairs.tolist():
            first, second = item.numbers[2 * pair : 2 * pair + 2].tolist()
            a, b = (item.images.source.describe(number) for number in (first, second))
            found.append(HardPair(pair, a, b, first, second, float(score_p[pair])))
        return tuple(found)

    genuine, impostor = np.flatnonzero(item.same_p), np.flatnonzero(~item.same_p)
    # A stable sort keeps ties in file order.
    lowest = genuine[np.argsort(score_p[genuine], kind="stable")[:count]]
    highest = impostor[np.argsort(-score_p[impostor], kind="stable")[:count]]
    return HardestPairs(named(highest), named(lowest))


def _groups(
    item: OpenPairs, score_p: Floats, missing: dict[str, str]
) -> tuple[tuple[Fairness, ...], tuple[GroupCurve, ...]]:
    if item.people is None or item.people.group_n is None:
        missing["groups"] = "no list of people with a column group"
        return (), ()
    group_2p = np.array(item.people.group_n)[item.numbers]
    found, curves = groups_of(score_p, item.same_p, group_2p, item.settings.group_far)
    return (found,), curves
