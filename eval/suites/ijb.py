"""IJB-B and IJB-C: opened once, judged for each model, 1:1 in each mode and 1:N in the first.

Shape legend: n faces, u different ones, p pairs, d embedding size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from eval.protocols.bootstrap import PairSubjects, draw_counts
from eval.protocols.ijb_files import IjbLists, Subjects, find_files, read_lists
from eval.protocols.ijb_search import (
    FPIRS,
    Searches,
    bootstrap_searches,
    combine,
    published_search,
    rank_replicates,
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
from eval.protocols.rates import warn
from eval.results import Counts, Gallery, HashedFile, Identified, SetResult
from eval.suites.images import Embedded, FaceCrops, ImageList, ImageSet, image_set
from eval.suites.scored import Drawn, Draws, Scored, Searched, noted, verification
from eval.suites.settings import IjbSet, Suite
from recognition.inference.description import sha256

CMC: Final = 50  # ranks of the curve
OPEN_SET_POINTS: Final = 60
Entry = tuple[SetResult, Scored | Searched]


@dataclass(frozen=True, eq=False)
class OpenIjb:
    """The lists of a set, and its images, each read once."""

    name: str
    settings: IjbSet
    images: ImageSet
    lists: IjbLists
    files: tuple[HashedFile, ...]
    warnings: tuple[str, ...]


def open_ijb(name: str, settings: IjbSet, folder: Path) -> OpenIjb:
    """Read the lists and all images of a set; raises `ValueError` for what is missing or wrong."""
    found = find_files(folder / settings.meta)
    with noted() as warnings:
        lists = read_lists(found)
    root, names = folder / settings.images, lists.faces.images
    crops = FaceCrops(ImageList(root, names), lists.landmarks.points_n52, settings.crop)
    images = image_set(crops, len(names), crops.key)
    paths = [found.faces, found.landmarks, found.pairs, *found.galleries.values()]
    paths += [] if found.probes is None else [found.probes]
    files = (
        *(HashedFile(str(path), sha256(path)) for path in paths),
        HashedFile(str(root), images.sha256),
    )
    return OpenIjb(name, settings, images, lists, files, tuple(warnings))


def judge_ijb(item: OpenIjb, model: str, embedded: Embedded, suite: Suite) -> list[Entry]:
    """Return 1:1 in every mode, then 1:N; raises `ValueError` as the protocols do."""
    entries: list[Entry] = []
    searched: Entry | None = None
    for name in item.settings.modes:
        mode = Mode.parse(name)
        with noted() as pooled:
            templates = _pool(item, embedded, mode)
        entries.append(_verify(item, model, templates, mode, suite, pooled))
        if searched is None and item.lists.galleries and item.lists.probes is not None:
            searched = _search(item, model, templates, mode, suite, pooled)
    return [*entries, searched] if searched is not None else entries


def _pool(item: OpenIjb, embedded: Embedded, mode: Mode) -> Templates:
    rows = item.images.rows
    every = len(item.images.unique) == len(rows)  # then a copy of 1 GB for IJB-C is spared
    plain, flipped = (
        one if one is None or every else one[rows] for one in (embedded.plain, embedded.flipped)
    )
    assert plain is not None, "there are always plain ones"
    return pool_templates(item.lists.faces, plain, flipped, item.lists.landmarks.detector_n, mode)


def _verify(
    item: OpenIjb, model: str, templates: Templates, mode: Mode, suite: Suite, pooled: list[str]
) -> Entry:
    pairs = item.lists.pairs
    with noted() as found:
        first_p, second_p, repeated, _ = check_pairs(templates, pairs)
        score_p = pair_scores(templates, first_p, second_p)
        subjects = template_subjects(item.lists)
        scored = verification(
            score_p, pairs.same_p, subjects, suite.fars, Draws(suite.replicates, suite.seed)
        )
    genuine = int(np.count_nonzero(pairs.same_p))
    result = SetResult(
        model=model,
        set=item.name,
        protocol="ijb_1_1",
        settings=_settings(item, mode),
        files=item.files,
        counts=_counts(
            item,
            templates,
            subjects=None if subjects is None else subjects.count,
            genuine=genuine,
            impostor=len(pairs.same_p) - genuine,
            repeated_rows=repeated,
        ),
        warnings=(*item.warnings, *pooled, *found),
        verification=scored.figures,
    )
    return result, scored


def template_subjects(lists: IjbLists) -> PairSubjects | None:
    """Return the people of each pair; None, with a warning, where the lists do not say them all."""
    sides = [
        *lists.galleries.values(),
        *([] if lists.probes is None else [lists.probes]),
    ]
    if not sides:
        return None
    template_t = np.concatenate([side.template_t for side in sides])
    subject_t = np.concatenate([side.subject_t for side in sides])
    template_t, first_t = np.unique(template_t, return_index=True)
    subject_t = subject_t[first_t]
    unknown = len(np.setdiff1d(lists.pairs.id_u, template_t))
    if unknown:
        warn(
            f"{unknown} of {len(lists.pairs.id_u)} templates of the pairs are in no gallery and no "
            "probe: people count as unknown; intervals are by pair"
        )
        return None
    subject_u = subject_t[np.searchsorted(template_t, lists.pairs.id_u)]
    # Numbers of 32 bits, as there are 15.7 million pairs.
    subject_s, number_u = np.unique(subject_u, return_inverse=True)
    number_u = number_u.astype(np.int32)
    first_p, second_p = number_u[lists.pairs.first_p], number_u[lists.pairs.second_p]
    if wrong := int(np.count_nonzero((first_p == second_p) != lists.pairs.same_p)):
        warn(
            f"{wrong} of {len(first_p)} pairs have a label that contradicts the subjects of the "
            "galleries and probes: people count as unknown; intervals are by pair"
        )
        return None
    return PairSubjects(first_p, second_p, len(subject_s))


def _search(
    item: OpenIjb, model: str, templates: Templates, mode: Mode, suite: Suite, pooled: list[str]
) -> tuple[SetResult, Searched]:
    probes = item.lists.probes
    assert probes is not None, "the caller looks"
    with noted() as found:
        found_in = [
            _gallery(name, run_searches(templates, gallery, probes), probes, suite)
            for name, gallery in item.lists.galleries.items()
        ]
    galleries = [gallery for gallery, _ in found_in]
    result = SetResult(
        model=model,
        set=item.name,
        protocol="ijb_1_n",
        settings=_settings(item, mode),
        files=item.files,
        counts=_counts(item, templates, subjects=len(np.unique(probes.subject_t))),
        warnings=(*item.warnings, *pooled, *found),
        search=Identified(
            mode=str(mode),
            galleries=tuple(galleries),
            combined=combine({one.name: one.search for one in galleries}),
        ),
    )
    return result, Searched([one for _, drawn in found_in for one in drawn])


def _gallery(
    name: str, searches: Searches, probes: Subjects, suite: Suite
) -> tuple[Gallery, list[Drawn]]:
    figures = search(searches)
    bootstrap = bootstrap_searches(searches, probes)
    draws = list(draw_counts(bootstrap.units, suite.replicates, suite.seed))
    replicates = bootstrap.tar_at_far(draws, FPIRS)
    intervals = [bootstrap.interval(values) for values in replicates]
    at_rank_1 = rank_replicates(searches, probes, draws, 1)
    no_rank = None if figures.mated else "needs mated searches, there are 0"
    drawn = [
        Drawn(f"rank-1, {name}", None, figures.rank[1], no_rank, bootstrap.method, at_rank_1),
        *(
            Drawn(f"TPIR, {name}", one.fpir, one.tpir, one.reason, bootstrap.method, values)
            for one, values in zip(figures.tpir_at_fpir, replicates, strict=True)
        ),
    ]
    ranks = range(1, min(CMC, searches.gallery_subjects) + 1)
    gallery = Gallery(
        name=name,
        search=figures,
        tpir_intervals=tuple(
            interval if suite.replicates and point.tpir is not None else None
            for point, interval in zip(figures.tpir_at_fpir, intervals, strict=True)
        ),
        cmc=tuple(searches.hits(k) / figures.mated for k in ranks) if figures.mated else None,
        open_set=tuple(
            (point.fpir_achieved, point.tpir)
            for point in search(searches, fpirs=_fpirs(figures.non_mated)).tpir_at_fpir
            if point.tpir is not None and point.fpir_achieved is not None
        ),
        published=published_search(searches),
    )
    return gallery, drawn


def _fpirs(non_mated: int) -> list[float]:
    """Return rates of whole numbers of false alarms, evenly on a logarithmic scale."""
    if not non_mated:
        return []
    alarms = np.unique(np.rint(np.geomspace(1, non_mated, OPEN_SET_POINTS)))
    rates: list[float] = (alarms / non_mated).tolist()
    return rates


def _settings(item: OpenIjb, mode: Mode) -> dict[str, str]:
    return {
        "mode": str(mode),
        "flip": "yes" if mode.use_flip else "no",
        "alignment": f"{item.settings.crop} crop, five landmarks of the list",
    }


def _counts(
    item: OpenIjb,
    templates: Templates,
    *,
    subjects: int | None,
    genuine: int | None = None,
    impostor: int | None = None,
    repeated_rows: int = 0,
) -> Counts:
    return Counts(
        images=len(item.images.unique),
        subjects=subjects,
        templates=len(templates.id_t),
        media=templates.media,
        genuine=genuine,
        impostor=impostor,
        failed_images=0,  # a set with an image that cannot be read is refused
        repeated_rows=repeated_rows,
    )
