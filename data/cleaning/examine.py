"""Everything that is wrong with a dataset's labels, by the embeddings of its images.

Labels that are two people are divided first, then labels that are one person are joined, and only
then is each image compared with its own identity and with the nearest other one: else the halves
of a person would draw each other's images.

Shape legend: n images, C labels or identities, d embedding size, k images of an identity.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from data.cleaning.calibrate import Cut, choose_cut
from data.cleaning.duplicates import find_duplicates
from data.cleaning.embeddings import Floats, ImageEmbeddings, Int64s, Vectors, chunks
from data.cleaning.findings import Findings, Leaks, SamePerson, TwoPeople, WrongLabels
from data.cleaning.groups import Groups, centres_of, whiten
from data.cleaning.identity import halves, robust_centre
from data.cleaning.leaks import KnownPeople, LeakedIdentities, find_leaks
from data.cleaning.search import nearest_centres, nearest_other

LEAST_HALF: Final = 3  # images of each of two people in one label
LEAST_OTHERS: Final = 2  # images of an identity by which another one of it can be judged
PLANTED: Final = 20_000  # images, and a tenth as many identities, for `choose_cut`


@dataclass(frozen=True)
class Settings:
    """How the thresholds are chosen."""

    precision: float = 0.95  # of the findings of each kind, as estimated
    thresholds: Mapping[str, float] = field(default_factory=dict)  # instead of chosen ones
    seed: int = 0  # of what is planted


Stage = Callable[[str], object]


class Examination:
    """Takes the images' embeddings and labels, int64 [n] from 0 to C - 1, and finds the faults."""

    def __init__(
        self,
        vectors: ImageEmbeddings,
        labels: NDArray[np.signedinteger[Any]],
        num_labels: int,
        device: torch.device,
        settings: Settings,
        stage: Stage = lambda name: None,
    ) -> None:
        self._files, self._device, self._settings, self._stage = vectors, device, settings, stage
        self._vectors: Vectors = vectors
        self.labels = np.where(vectors.good, labels, -1).astype(np.int64)
        self._num_labels = num_labels
        self._random = np.random.default_rng(settings.seed)
        self._cuts: dict[str, Cut | None] = {}
        self._figures: dict[str, Any] = {}

    def run(self, people: Sequence[KnownPeople] = ()) -> Findings:
        """Find everything; `people` are those of the verification sets."""
        self._stage("centres")
        groups = Groups(self.labels, self._num_labels)
        whitened = whiten(groups, self._files, self._files.size, self._strangers(groups))
        self._vectors = whitened
        self._least = self._strangers(groups)
        people = [replace(one, centres=whitened.apply(one.centres)) for one in people]
        self._stage("two people in one label")
        merged = self._two_people(groups)
        self._stage("one person under two labels")
        same, merged = self._same_person(merged)
        self._stage("images far from their identity")
        wrong = self._wrong_labels()
        self._stage("people of verification sets")
        found = find_leaks(
            people, self._groups, self._centres, self._vectors, self._device, self._random,
            self._least, self._choose,
        )  # fmt: skip
        leaks = [self._leaks(s) for s in found]
        self._stage("copies")
        near = np.where(self._is_near, self._nearest, -1)
        copies = find_duplicates(self._groups, self._files, self._files.hashes, near)
        return Findings(wrong, same, merged, copies, leaks, self._cuts, self._figures)

    def _leaks(self, found: LeakedIdentities) -> Leaks:
        """Return a row for each label of the identities: joined labels leak together."""
        parts = [self._parts.members(number) for number in found.labels.tolist()]
        parts = [p[np.unique(self._place_of_part[p], return_index=True)[1]] for p in parts]
        rows = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        every = np.concatenate([np.empty(0, np.int64), *parts])
        return Leaks(
            found.name, self._label_of_part[every], found.images[rows], found.cosines[rows],
            found.scores[rows], self._place_of_part[every],
        )  # fmt: skip

    def _choose(
        self, kind: str, scores: NDArray[np.floating[Any]], planted: NDArray[np.floating[Any]]
    ) -> float:
        """Return the threshold of a kind: infinite where there is nothing to go by."""
        chosen = choose_cut(
            scores, planted, self._settings.precision, self._settings.thresholds.get(kind)
        )
        self._cuts[kind] = chosen
        return np.inf if chosen is None else chosen.threshold

    def _strangers(self, groups: Groups) -> float:
        """Return the cosine below which an image takes no part in its identity's centre.

        95 of 100 images have less with the centre of another label, drawn at random.
        """
        centres, own, _ = centres_of(groups, self._vectors, self._files.size, None)
        with_others = self._with_random(self.labels, centres)[1]
        self._figures["own"] = quantiles(own)
        self._figures["random_other"] = quantiles(with_others)
        return float(np.quantile(with_others, 0.95)) if len(with_others) else -1.0

    def _with_random(self, identity: Int64s, centres: Floats) -> tuple[Int64s, Floats]:
        """Return some images, and the cosine of each with a random centre that is not its own."""
        rows = np.flatnonzero(identity >= 0)
        if len(centres) < 2 or not len(rows):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if len(rows) > PLANTED:
            rows = np.sort(self._random.choice(rows, PLANTED, replace=False))
        steps = self._random.integers(1, len(centres), len(rows))
        other = (identity[rows] + steps) % len(centres)
        found = [(x * centres[to]).sum(axis=1) for x, to in chunks(self._vectors, rows, other)]
        return rows, np.concatenate(found)

    def _two_people(self, groups: Groups) -> TwoPeople:
        """Find labels of two people: near within each half, and far between the two."""
        scores = np.full(groups.count, np.nan)
        for number, members, found in groups.embeddings(self._vectors):
            if len(members) >= 2 * LEAST_HALF:
                scores[number] = _division(found)
        large = np.flatnonzero(groups.sizes >= LEAST_HALF)
        count = min(PLANTED // 10, len(large) // 2)
        pairs = self._random.permutation(large)[: 2 * count].reshape(2, count)
        rows = [np.concatenate([groups.members(a), groups.members(b)]) for a, b in pairs.T.tolist()]
        planted = np.array([_division(self._vectors.take(r)) for r in rows])
        least = self._choose("merged", scores, planted)
        labels, between, within, second = [], [], [], []
        order = np.flatnonzero(scores >= least)
        for number, members, found in groups.embeddings(self._vectors, order):
            parts = halves(found)
            smaller = parts.second if 2 * parts.second.sum() <= len(members) else ~parts.second
            labels.append(number)
            between.append(parts.between)
            within.append(parts.within)
            second.append(members[smaller])
        best = np.argsort(-scores[order], kind="stable")
        return TwoPeople(
            order[best],
            np.array(between, np.float32)[best],
            np.array(within, np.float32)[best],
            [second[row] for row in best.tolist()],
        )

    def _same_person(self, merged: TwoPeople) -> tuple[SamePerson, TwoPeople]:
        """Join what is one person: returns pairs of labels, and the divisions that remain."""
        identity, label_of = self.labels.copy(), list(range(self._num_labels))
        for label, images in zip(merged.labels.tolist(), merged.second, strict=True):
            identity[images] = len(label_of)
            label_of.append(label)
        groups = Groups(identity, len(label_of))
        centres, _, _ = centres_of(groups, self._vectors, self._files.size, self._least)
        near = nearest_centres(centres, self._device)
        scores = np.where(near.mutual, near.scores(), np.nan)
        scores[groups.sizes == 0] = np.nan
        planted = self._planted_pairs(groups, centres)
        # A label with a twin is nearer to it than its halves are to each other: none is planted in.
        planted[scores >= self._choose("same", scores, planted)] = np.nan
        threshold = self._choose("same", scores, planted)
        found = np.flatnonzero((scores >= threshold) & (np.arange(len(scores)) < near.numbers))
        found = found[np.argsort(-scores[found], kind="stable")]
        self._label_of = np.array(label_of, np.int64)
        pairs = np.stack([found, near.numbers[found]], axis=1)
        names = self._label_of[pairs]
        whole = names[names[:, 0] == names[:, 1], 0]  # divided, and yet one person
        joined = np.arange(len(label_of))
        for one, other in pairs.tolist():
            joined[joined == joined[other]] = joined[one]
        numbers, identity_of = np.unique(joined, return_inverse=True)
        self._label_of_part, self._parts = self._label_of, Groups(identity_of, len(numbers))
        self._label_of = self._label_of[numbers]
        stay = np.flatnonzero(~np.isin(merged.labels, whole))
        self._place_of_part = self._label_of_part.copy()
        self._place_of_part[self._num_labels + stay] = self._num_labels + np.arange(len(stay))
        self._place_of = self._place_of_part[numbers]
        self._groups = Groups(np.where(identity < 0, -1, identity_of[identity]), len(numbers))
        real = names[:, 0] != names[:, 1]
        order = np.argsort(-groups.sizes[pairs[real]], axis=1, kind="stable")
        same = SamePerson(
            np.take_along_axis(names[real], order, axis=1),
            near.cosines[found][real],
            scores[found][real].astype(np.float32),
            np.take_along_axis(self._place_of_part[pairs[real]], order, axis=1),
        )
        divided = TwoPeople(
            merged.labels[stay], merged.between[stay], merged.within[stay],
            [merged.second[row] for row in stay.tolist()],
        )  # fmt: skip
        return same, divided

    def _planted_pairs(self, groups: Groups, centres: Floats) -> Floats:
        """Return the scores of identities if their images were divided at random into two, [C].

        NaN where that was not tried. A half is less near to others than the whole is, as the centre
        of few images is less sure.
        """
        large = np.flatnonzero(groups.sizes >= 2 * LEAST_OTHERS)
        if len(large) > PLANTED // 10:
            large = np.sort(self._random.choice(large, PLANTED // 10, replace=False))
        both = np.zeros((2 * len(large), centres.shape[1]), np.float32)
        for row, (_, members, unit) in enumerate(groups.embeddings(self._vectors, large)):
            half = self._random.permutation(len(members)) < len(members) // 2
            both[2 * row] = robust_centre(unit[half], self._least)
            both[2 * row + 1] = robust_centre(unit[~half], self._least)
        near = nearest_centres(both, self._device, centres, np.repeat(large, 2))
        cosine = (both[::2] * both[1::2]).sum(axis=1)
        mutual = cosine > np.maximum(near.cosines[::2], near.cosines[1::2])
        level = (near.level_if_nearer[::2] + near.level_if_nearer[1::2]) / 2
        found = np.full(groups.count, np.nan, np.float32)
        found[large] = np.where(mutual, cosine - level, -np.inf)
        return found

    def _wrong_labels(self) -> WrongLabels:
        """Find images that are nearer to another identity than to their own."""
        groups, vectors = self._groups, self._vectors
        self._centres, own, kept = centres_of(groups, vectors, self._files.size, self._least)
        rows = np.flatnonzero(groups.identity >= 0)
        of_rows = groups.identity[rows]
        best, number = nearest_other(chunks(vectors, rows, of_rows), self._centres, self._device)
        other = np.full(len(vectors), np.nan, np.float32)
        self._nearest = np.full(len(vectors), -1, np.int64)
        other[rows], self._nearest[rows] = best[:, 0], number[:, 0]
        support = np.bincount(of_rows, weights=kept[rows], minlength=groups.count)
        judged = np.zeros(len(vectors), np.bool_)
        judged[rows] = support[of_rows] - kept[rows] >= LEAST_OTHERS
        alone = int((~judged[rows]).sum())
        # Between the halves of a label that is two people, only a division of the label decides.
        named = self._label_of[self._nearest]
        judged &= (self._nearest >= 0) & (named != self._label_of[groups.identity])
        scores = np.where(judged, other - own, np.nan)
        some, with_random = self._with_random(groups.identity, self._centres)
        planted = np.fmax(own, other)[some] - with_random
        threshold = self._choose("swapped", scores, planted)
        found = np.flatnonzero(scores >= threshold)
        found = found[np.argsort(-scores[found], kind="stable")]
        rest = other[judged & ~(scores >= threshold)]
        # Of images that are in no identity, one in twenty is as near to the nearest one.
        near = float(np.quantile(rest, 0.95)) if len(rest) else np.inf
        near = self._settings.thresholds.get("relabel", near)
        self._figures |= {
            "own": quantiles(own),
            "nearest_other": quantiles(other),
            "relabel_from": near,
            "not_judged": alone,
        }
        self._is_near = (other >= near) | (scores >= threshold)
        return WrongLabels(
            found, own[found], other[found], named[found], other[found] >= near,
            self._place_of[self._nearest[found]],
        )  # fmt: skip


def _division(unit_kd: Floats) -> float:
    """Return how much nearer the images are within two halves than these are to each other."""
    parts = halves(unit_kd)
    smaller = min(int(parts.second.sum()), int((~parts.second).sum()))
    return parts.within - parts.between if smaller >= LEAST_HALF else -np.inf


def quantiles(values: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Return quantiles of the numbers among the values, for people who look at a report."""
    known = values[np.isfinite(values)]
    if not len(known):
        return {}
    wanted = (0.001, 0.01, 0.05, 0.5, 0.95, 0.99, 0.999)
    return {
        f"{q:g}": round(float(x), 4)
        for q, x in zip(wanted, np.quantile(known, wanted), strict=True)
    }
