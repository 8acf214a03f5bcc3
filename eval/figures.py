"""The headline figures of a set, by name, as a run logs them and a best checkpoint is chosen by."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eval.faces import FaceSample
from eval.protocols.ijb_search import TpirAtFpir
from eval.protocols.rates import TarAtFar
from eval.results import Identified, SetResult, TenFold, Verification
from eval.suites.scored import Scored, Searched

# The figures of which more is better: a checkpoint can be the best by them.
BEST_FIGURES: Final = (
    "accuracy", "accuracy_no_flip", "tar_at_far", "auc", "rank", "tpir_at_fpir", "map"
)  # fmt: skip

MISSING: Final = "_missing"  # ends the name of the reasons beside figures that have no value


@dataclass(frozen=True, eq=False)
class PairScores:
    """The pairs of a set, for pictures of them."""

    cosine: NDArray[np.float64]  # [p]
    same: NDArray[np.bool_]  # [p], whether it shows one person
    threshold: float  # the cosine above which a pair is taken for one person


@dataclass(frozen=True, eq=False)
class SetFigures:
    """The headline figures of one network on one set."""

    name: str
    values: dict[str, Any]  # by name, in mappings of mappings
    warnings: tuple[str, ...] = ()
    scores: PairScores | None = field(default=None, repr=False)  # of a set with ten folds
    faces: FaceSample | None = field(default=None, repr=False)  # of a set of pairs

    @property
    def accuracy(self) -> float | None:
        """The published accuracy, 0 … 1; None for a set that has none."""
        found: float | None = self.values.get("accuracy")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain values, the set's name under `set`."""
        return {"set": self.name, **self.values, "warnings": list(self.warnings)}

    def summary(self) -> str:
        """Return the main figures and all warnings as one line."""
        parts = [*_parts(self.values), *(f"WARNING: {warning}" for warning in self.warnings)]
        return f"{self.name}: {' | '.join(parts)}"

    def candidates(self) -> dict[str, float | None]:
        """Return the figures of which more is better as `set/figure`; None has no value."""
        return {
            self._named(path): value
            for path, value in _leaves(self.values, ())
            if set(path) & set(BEST_FIGURES) and (value is None or isinstance(value, float))
        }

    def reasons(self) -> dict[str, str]:
        """Return why a figure has no value, as `set/figure`."""
        return {
            self._named([part.removesuffix(MISSING) for part in path]): str(value)
            for path, value in _leaves(self.values, ())
            if any(part.endswith(MISSING) for part in path)
        }

    def _named(self, path: Sequence[str]) -> str:
        return "/".join([self.name, *path])


def headline(entries: Sequence[tuple[SetResult, Scored | Searched]]) -> SetFigures:
    """Return the headline figures of one set from all that its protocols gave for one network.

    Rates are named as people write them, 1e-4. Of an IJB set the first mode's figures have no
    further name, those of another mode have its own; rank-k and TPIR are those of both galleries,
    and of each gallery below its name.
    """
    values: dict[str, Any] = {}
    scores = None
    for result, scored in entries:
        if result.verification is not None:
            found = _rates(result.verification)
            if "mode" in result.settings and values:
                values[result.settings["mode"]] = found
            else:
                values |= _pairs(result) | found
        if result.ten_fold is not None and isinstance(scored, Scored):
            scores = _scores(scored, result.ten_fold)
        if result.search is not None:
            values |= _search(result.search)
        for one in result.megaface:
            rank, points = one.figures.rank, one.figures.tar_at_far
            block = {"rank": _by_text(rank), "tar_at_far": {_rate(p.far): p.tar for p in points}}
            by_size: dict[str, Any] = values.setdefault(one.noise, {})
            size = str(one.figures.distractors)
            by_size[size if size not in by_size else f"{size}_{len(by_size) + 1}"] = block
        if (tiny := result.tinyface) is not None:
            values |= {"rank": _by_text(tiny.rank), "map": tiny.map, "mated": tiny.mated_probes}
    warnings = dict.fromkeys(warning for result, _ in entries for warning in result.warnings)
    return SetFigures(entries[0][0].set, values, tuple(warnings), scores)


def _pairs(result: SetResult) -> dict[str, Any]:
    """Return what a set says of its pairs, and the published accuracy if there are folds."""
    pairs = (result.counts.genuine or 0) + (result.counts.impostor or 0)
    values: dict[str, Any] = {"pairs": pairs, "flip": result.settings["flip"] == "yes"}
    if "mode" in result.settings:
        values["mode"] = result.settings["mode"]
    if (fold := result.ten_fold) is None:
        return values
    return values | {
        "accuracy": fold.accuracy,
        "accuracy_std": fold.population_std,
        "accuracy_no_flip": fold.accuracy_no_flip,
        "accuracy_no_flip_std": fold.population_std_no_flip,
        "threshold_distance": fold.threshold_distance,
        "threshold_cosine": fold.threshold_cosine,
        "threshold_cosine_no_flip": fold.threshold_cosine_no_flip,
        "embedding_norm": fold.embedding_norm,
        "fold_accuracy": list(fold.fold_accuracy),
        "fold_threshold_distance": list(fold.fold_threshold_distance),
    }


def _rates(figures: Verification) -> dict[str, Any]:
    points = [row.point for row in figures.rows]
    return {
        "tar_at_far": {_rate(point.far): point.tar for point in points},
        f"tar_at_far{MISSING}": _missing(points),
        "eer": figures.eer.eer,
        "auc": figures.auc,
    }


def _search(found: Identified) -> dict[str, Any]:
    def block(rank: Mapping[int, float | None], points: Sequence[TpirAtFpir]) -> dict[str, Any]:
        return {
            "rank": _by_text(rank),
            "tpir_at_fpir": {_rate(point.fpir): point.tpir for point in points},
            f"tpir_at_fpir{MISSING}": _missing(points),
        }

    each = {one.name: block(one.search.rank, one.search.tpir_at_fpir) for one in found.galleries}
    return {**block(found.combined.rank, found.combined.tpir_at_fpir), **each}


def _missing(points: Sequence[TarAtFar | TpirAtFpir]) -> dict[str, str]:
    """Return the reason of each rate that has no figure."""
    rates = [one.far if isinstance(one, TarAtFar) else one.fpir for one in points]
    return {
        _rate(rate): one.reason
        for rate, one in zip(rates, points, strict=True)
        if one.reason is not None
    }


def _scores(scored: Scored, fold: TenFold) -> PairScores:
    genuine_g, impostor_n = scored.pairs.genuine_g, scored.pairs.impostor_n
    same_p = np.arange(len(genuine_g) + len(impostor_n)) < len(genuine_g)
    return PairScores(np.concatenate([genuine_g, impostor_n]), same_p, fold.threshold_cosine)


def _rate(rate: float) -> str:
    """Return a rate in few characters: 1e-4, 2.5e-3; from 1 on as it is."""
    if rate >= 1:
        return f"{rate:g}"
    exponent = math.floor(math.log10(rate) + 1e-9)
    return f"{rate / 10.0**exponent:g}e{exponent}"


def _by_text(rank: Mapping[int, float | None]) -> dict[str, float | None]:
    return {str(k): value for k, value in rank.items()}


def _leaves(
    values: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _parts(values: Mapping[str, Any], of: str = "") -> Iterator[str]:
    """Yield the main figures in words; `of` is the mode, gallery or noise that they belong to."""
    if "accuracy" in values:
        yield f"accuracy {values['accuracy']:.4f} ± {values['accuracy_std']:.4f}"
        yield f"no flip {values['accuracy_no_flip']:.4f}"
        yield f"cosine threshold {values['threshold_cosine']:.3f}"
    for name, words in (("tar_at_far", "TAR@FAR"), ("tpir_at_fpir", "TPIR@FPIR"), ("rank", "rank")):
        known = {key: one for key, one in values.get(name, {}).items() if one is not None}
        if known:
            yield of + ", ".join(f"{words} {key} {one:.4f}" for key, one in known.items())
    if "map" in values:
        yield f"mAP {values['map']:.4f}"
    if "embedding_norm" in values:
        yield f"norm {values['embedding_norm']:.2f}"
    for name, block in values.items():
        if isinstance(block, Mapping) and name not in BEST_FIGURES and not name.endswith(MISSING):
            yield from _parts(block, f"{of}{name} ")
