"""The edge cases of MegaFace, TinyFace, fairness, error against discard, and of their files."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, get_args

import numpy as np

from eval.protocols import megaface as megaface_protocol
from eval.protocols import tinyface as tinyface_protocol
from eval.protocols.fairness import Fairness
from eval.protocols.fairness import fairness as group_rates
from eval.protocols.megaface_files import read_noise_list, read_photo_list, read_probe_list
from eval.protocols.pair_lists import (
    CfpProtocol,
    PairList,
    read_calfw,
    read_cfp,
    read_csv,
    read_lfw,
)
from eval.protocols.quality import AREAS, DISCARDS, error_discard
from scripts.protocols.compare import Json, plain

WEIGHED: Final = ("garbe", "fdr", "inequity")


def megaface(given: Json, value: Json) -> object:
    """Return the figures of probes, people and distractors."""
    _known(given, {"probe", "people", "distractors"})
    distractors = np.array(given["distractors"], dtype=np.float64)
    return megaface_protocol.identify(
        np.array(given["probe"], dtype=np.float64),
        given["people"],
        [distractors] if len(distractors) else [],
        len(distractors),
        ranks=_ranks(value, megaface_protocol.RANKS),
        fars=[point["far"] for point in (value or {}).get("tar_at_far", ())],
    )


def tinyface(given: Json, value: Json) -> object:
    """Return the figures of probes, matches and distractors."""
    _known(given, {"probe", "probe_ids", "match", "match_ids", "distractors"})
    gallery = [*given["match"], *given.get("distractors", ())]
    return tinyface_protocol.identify(
        np.array(given["probe"], dtype=np.float64),
        np.array(given["probe_ids"], dtype=np.int64),
        np.array(gallery, dtype=np.float64),
        np.array(given["match_ids"], dtype=np.int64),
        ranks=_ranks(value, tinyface_protocol.RANKS),
    )


def fairness(given: Json, value: Json) -> object:
    """Return the figures of rows of score, label and two groups."""
    _known(given, {"rows", "far", "alpha"})
    scores, same, first, second = zip(*given["rows"], strict=True)
    alpha = given.get("alpha", 0.5)
    found = group_rates(
        np.array(scores, dtype=np.float64),
        np.array(same) == 1,
        ["" if name is None else name for name in first],
        ["" if name is None else name for name in second],
        given["far"],
        alpha=alpha,
    )
    return with_weight(found, alpha)


def with_weight(found: Fairness, alpha: float) -> Json:
    """Return the figures with alpha in the names of those that it weighs."""
    figures = plain(found)
    if figures["summary"] is not None:
        for name in WEIGHED:
            figures["summary"][f"{name}_alpha_{alpha}"] = figures["summary"].pop(name)
    return figures


def edc(given: Json, value: Json) -> object:
    """Return the curve of scores and qualities at a threshold."""
    _known(given, {"scores", "qualities", "threshold"})
    return error_discard(
        np.array(given["scores"], dtype=np.float64),
        np.array(given["qualities"], dtype=np.float64),
        given["threshold"],
        discards=_fractions(value, "error_at_discard", DISCARDS),
        areas=_fractions(value, "partial_area", AREAS),
    )


def _known(given: Json, keys: set[str]) -> None:
    """Raise `LookupError` for what a case gives and no figure would come from."""
    if unknown := sorted(set(given) - keys):
        raise LookupError(f"unknown keys {unknown}; known are {sorted(keys)}")


def _ranks(value: Json, default: tuple[int, ...]) -> list[int]:
    return [int(rank) for rank in (value or {}).get("rank", default)]


def _fractions(value: Json, name: str, default: tuple[float, ...]) -> list[float]:
    return [float(fraction) for fraction in (value or {}).get(name, default)]


def _listed(pairs: PairList) -> Json:
    return [[pair.first, pair.second, int(pair.same)] for pair in pairs]


def _cfp(folder: Path) -> Json:
    """Return the pairs of each protocol that the folder `Protocol` of CFP has."""
    protocols = [one for one in get_args(CfpProtocol) if (folder / "Split" / one).is_dir()]
    return {f"cfp_{one.lower()}": _listed(read_cfp(folder, one)) for one in protocols}


FILES: Final[dict[str, Callable[[Path], object]]] = {
    "pairs.txt": lambda path: _listed(read_lfw(path)),
    "pairs.csv": lambda path: _listed(read_csv(path)),
    "pairs_CALFW.txt": lambda path: _listed(read_calfw(path)),
    "pairs_CPLFW.txt": lambda path: _listed(read_calfw(path)),
    "Pair_list_F.txt": lambda path: _cfp(path.parent),
    "facescrub_features_list.json": read_probe_list,
    "_1": read_photo_list,  # megaface_features_list.json_<size>_1
    "_noises.txt": lambda path: sorted(read_noise_list(path)),
}
