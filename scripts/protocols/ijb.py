"""The part `ijb/`: counts, the modes of 1:1, searches, and intervals by subject."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from eval.protocols.bootstrap import Bootstrap, pair_subjects, percentile_interval
from eval.protocols.ijb_files import IjbLists, Subjects, find_files, read_lists, read_subjects
from eval.protocols.ijb_search import (
    Search,
    Searches,
    combine,
    published_closed_search,
    published_search,
    run_searches,
    search,
)
from eval.protocols.ijb_verification import (
    Mode,
    Templates,
    check_pairs,
    pair_scores,
    pool_templates,
)
from eval.protocols.rates import ScoredPairs
from scripts.protocols.compare import Json, differences, read_json
from scripts.protocols.scored_pairs import rates_as


@dataclass(frozen=True)
class Ijb:
    """The inputs of the part, each read once."""

    folder: Path

    @cached_property
    def lists(self) -> IjbLists:
        """What the files of the set hold."""
        return read_lists(find_files(self.folder / "meta"))

    @property
    def probes(self) -> Subjects:
        """The probes of the open set."""
        if self.lists.probes is None:
            raise ValueError(f"{self.folder}: no probes; expected *_1N_probe_mixed.csv")
        return self.lists.probes

    def templates(self, mode: str) -> Templates:
        """The templates of all faces in one mode."""
        embeddings = np.load(self.folder / "embeddings.npz")
        return pool_templates(
            self.lists.faces,
            embeddings["plain"],
            embeddings["flipped"],
            self.lists.landmarks.detector_n,
            Mode.parse(mode),
        )


def check(folder: Path) -> list[str]:
    """Return a line for each figure of `expected.json`, and each score, that differs."""
    ijb, expected = Ijb(folder), read_json(folder / "expected.json")
    lines = []
    for name, value in expected.items():
        where = f"{folder.name}/{name}"
        # The name ends with the mode where the figures are those of one mode.
        compute = next((FIGURES[key] for key in FIGURES if name.startswith(key)), None)
        if compute is None:
            lines.append(f"{where}: no function computes it; known are {', '.join(FIGURES)}")
        else:
            lines += differences(value, compute(ijb, name, value), where)
    for path in sorted(folder.glob("scores_*.npy")):
        found = _scores(ijb, ijb.templates(path.stem.rpartition("_")[2]))
        lines += differences(
            {"scores": np.load(path).astype(np.float64).tolist()},
            {"scores": found},
            f"{folder.name}/{path.name}",
        )
    return lines


def _counts(ijb: Ijb, name: str, expected: Json) -> Json:
    pairs, galleries = ijb.lists.pairs, ijb.lists.galleries
    enrolled = np.concatenate([gallery.subject_t for gallery in galleries.values()])
    templates = np.unique(ijb.lists.faces.template_n)
    media = set(
        zip(ijb.lists.faces.template_n.tolist(), ijb.lists.faces.medium_n.tolist(), strict=True)
    )
    return {
        "faces": len(ijb.lists.faces.images),
        "templates": len(templates),
        "media_in_templates": len(media),
        "pairs": len(pairs.same_p),
        "genuine": int(np.count_nonzero(pairs.same_p)),
        "impostor": int(np.count_nonzero(~pairs.same_p)),
        "probes": len(ijb.probes.template_t),
        "probe_subjects_in_no_gallery": len(np.setdiff1d(ijb.probes.subject_t, enrolled)),
        **{f"gallery_{key}": len(gallery.template_t) for key, gallery in galleries.items()},
    }


def _scores(ijb: Ijb, templates: Templates) -> np.ndarray:
    first_p, second_p, _, _ = check_pairs(templates, ijb.lists.pairs)
    return pair_scores(templates, first_p, second_p)


def _modes(ijb: Ijb, name: str, expected: Json) -> Json:
    return {mode: _mode(ijb, mode, value) for mode, value in expected.items()}


def _mode(ijb: Ijb, mode: str, expected: Json) -> Json:
    templates = ijb.templates(mode)
    score_p = _scores(ijb, templates)
    pairs = ScoredPairs(score_p[ijb.lists.pairs.same_p], score_p[~ijb.lists.pairs.same_p])
    return {
        **rates_as(expected, pairs),
        "first_scores": score_p[: len(expected.get("first_scores", []))],
        "score_sum": float(score_p.sum()),
        "first_template": [int(templates.id_t[0]), templates.vector_td[0]],
    }


def _search(ijb: Ijb, name: str, expected: Json) -> Json:
    templates = ijb.templates(name.rpartition("_")[2])
    found: Json = _open_set(templates, ijb.lists.galleries, ijb.probes, expected)
    meta = ijb.folder / "meta"
    if "overlapping_galleries" in expected:
        overlapping = {
            path.stem.rpartition("_")[2]: read_subjects(path)
            for path in sorted(meta.glob("overlap_gallery_*.csv"))
        }
        found["overlapping_galleries"] = _open_set(
            templates, overlapping, ijb.probes, expected["overlapping_galleries"]
        )
    if "published_ijb_evals" in expected:
        found["published_ijb_evals"] = {
            key: published_search(
                run_searches(templates, ijb.lists.galleries[key], ijb.probes),
                [int(k) for k in value["hits"]],
                [point["far"] for point in value["table"]],
            )
            for key, value in expected["published_ijb_evals"].items()
        }
    if "published_closed_ijb_1n" in expected:
        closed = expected["published_closed_ijb_1n"]
        found["published_closed_ijb_1n"] = published_closed_search(
            templates,
            ijb.lists.galleries.values(),
            read_subjects(meta / "closed_probe.csv"),
            [int(k) for k in closed["rank"]],
            [point["far"] for point in closed["table"]],
        )
    return found


def _open_set(
    templates: Templates, galleries: dict[str, Subjects], probes: Subjects, expected: Json
) -> Json:
    found: dict[str, Search] = {
        name: search_as(expected[name], run_searches(templates, gallery, probes))
        for name, gallery in galleries.items()
    }
    return {**found, "both": combine(found)}


def _bootstrap(ijb: Ijb, name: str, expected: Json) -> Json:
    score_p = _scores(ijb, ijb.templates(name.rpartition("_")[2]))
    draws = np.load(ijb.folder / "bootstrap_subjects.npz")
    subject = {int(key): of for key, of in read_json(ijb.folder / "subjects.json").items()}
    first_p, second_p = (
        np.array([subject[template] for template in ijb.lists.pairs.id_u.tolist()])[places]
        for places in (ijb.lists.pairs.first_p, ijb.lists.pairs.second_p)
    )
    subjects = pair_subjects(draws["subject_ids"], first_p, second_p)
    same_p = ijb.lists.pairs.same_p
    bootstrap = Bootstrap(score_p, same_p, subjects)
    found: Json = {}
    for key in expected:
        far = float(key.rpartition("_")[2])
        if key.startswith("tar_at_"):
            (values,) = bootstrap.tar_at_far(draws["multiplicities"], [far])
            found[key] = {"replicates": values, "interval95": percentile_interval(values)}
        elif key.startswith("at_threshold_of_far_"):
            threshold = ScoredPairs(score_p[same_p], score_p[~same_p]).tar_at_far(far).threshold
            fmr, fnmr = bootstrap.error_rates(
                draws["multiplicities"], -np.inf if threshold is None else threshold
            )
            found[key] = {
                "threshold": threshold,
                "fmr_interval95": percentile_interval(fmr),
                "fnmr_interval95": percentile_interval(fnmr),
            }
    return found


def search_as(expected: Json, searches: Searches) -> Search:
    """Return the figures of a search at the ranks and rates that are expected."""
    return search(
        searches,
        [int(k) for k in expected.get("rank", {})],
        [point["fpir"] for point in expected.get("tpir_at_fpir", [])],
    )


FIGURES: dict[str, Callable[[Ijb, str, Json], Json]] = {
    "counts": _counts,
    "first_landmarks": lambda ijb, name, expected: ijb.lists.landmarks.points_n52[0],
    "first_detector_score": lambda ijb, name, expected: ijb.lists.landmarks.detector_n[0],
    "modes": _modes,
    "search_": _search,
    "bootstrap_by_subject_": _bootstrap,
}
