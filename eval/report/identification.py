"""The 1:N figures: ranks and alarms of IJB, ranks among distractors, TinyFace."""

from collections.abc import Iterator

from eval.report.chart import Axis, Series, columns, line_chart, log_axis, rate_axis
from eval.report.figures import Node, bootstrap, fixed, limits, number, short, text
from eval.report.judged import Judged, Row
from eval.report.markup import Html, join


def identification(item: Judged) -> Html:
    """Return the 1:N parts of a section."""
    return join(_searches(item), _distractors(item), _tinyface(item))


def _searches(item: Judged) -> Html | None:
    if not item.having("search"):
        return None
    ranks = item.table(
        "Ranks: ties lose",
        ["Gallery", "Subjects (N)", "Mated searches", "Non-mated searches", "Rank", "Rate",
         "95% interval (Wilson)"],
        _ranks,
        "search",
    )  # fmt: skip
    alarms = item.table(
        "Open set: TPIR at FPIR; FNIR = 1 − TPIR",
        ["Gallery", "FPIR at most", "TPIR", "95% interval", "T (cosine)", "False alarms",
         "Achieved FPIR"],
        _alarms,
        "search",
    )  # fmt: skip
    both = item.table(
        "All galleries: ranks over all mated searches, the mean of the TPIR",
        ["Figure", "Value"],
        _combined,
        "search",
    )
    published = item.table(
        "By the published rule (ijb_evals.py)",
        ["Gallery", "FPIR", "TPIR", "T (cosine)"],
        _published,
        "search",
    )
    return join(ranks, alarms, both, published, columns(*_search_charts(item)))


def _ranks(one: Node) -> Iterator[Row]:
    for gallery in one["search"]["galleries"]:
        found = gallery["search"]
        for rank in found["rank"].value:
            yield [
                text(gallery["name"]),
                *(
                    number(found[key], "count")
                    for key in ("gallery_subjects", "mated", "non_mated")
                ),
                rank,
                number(found["rank"][rank]),
                limits(found["rank_wilson95"][rank]),
            ]


def _alarms(one: Node) -> Iterator[Row]:
    for gallery in one["search"]["galleries"]:
        for index, point in enumerate(gallery["search"]["tpir_at_fpir"]):
            interval = bootstrap(gallery["tpir_intervals"][index])
            yield [
                text(gallery["name"]),
                number(point["fpir"], "short"),
                number(point["tpir"]),
                text(point["reason"]) if point["reason"].known else interval,
                number(point["threshold"]),
                number(point["false_alarms"], "count"),
                number(point["fpir_achieved"], "short"),
            ]


def _combined(one: Node) -> Iterator[Row]:
    found = one["search"]["combined"]
    for rank in found["rank"].value:
        yield [f"Rank-{rank}", number(found["rank"][rank])]
    for point in found["tpir_at_fpir"]:
        value = text(point["reason"]) if point["reason"].known else number(point["tpir"])
        yield [f"TPIR at FPIR {short(point['fpir'].value)}", value]


def _published(one: Node) -> Iterator[Row]:
    for gallery in one["search"]["galleries"]:
        for point in gallery["published"]["table"]:
            far, tpir, threshold = (point[key] for key in ("far", "tpir", "threshold"))
            yield [text(gallery["name"]), number(far, "short"), number(tpir), number(threshold)]


def _search_charts(item: Judged) -> Iterator[Html]:
    ranks, alarms = [], []
    searched = [
        (one, gallery) for one in item.having("search") for gallery in one["search"]["galleries"]
    ]
    for style, (one, gallery) in enumerate(searched):
        name = f"{item.name(one)} {gallery['name'].value}".strip()
        if gallery["cmc"].known:
            points = list(enumerate(gallery["cmc"].value, 1))
            told = [f"{name}: rank {rank}, {fixed(rate)}" for rank, rate in points]
            ranks.append(Series(name, style, points, told))
        points = gallery["open_set"].value
        told = [f"{name}: FPIR {short(x)}, TPIR {fixed(y)}" for x, y in points]
        alarms.append(Series(name, style, points, told))
    if ranks:
        values = [y for one in ranks for _, y in one.points]
        longest = max(x for one in ranks for x, _ in one.points)
        yield line_chart(
            "CMC: searches with the mate up to a rank",
            Axis("Rank", 1, max(longest, 6)),
            rate_axis("Identification rate", values),
            ranks,
        )
    known = [point for one in alarms for point in one.points]
    if known:
        yield line_chart(
            "Open set",
            log_axis("False positive identification rate (FPIR)", [x for x, _ in known]),
            rate_axis("TPIR = 1 − FNIR", [0.0]),
            alarms,
        )


def _distractors(item: Judged) -> Html | None:
    known = item.having("megaface")
    if not known:
        return None
    figures = known[0]["megaface"][0]["figures"].value
    ranks = item.table(
        "Ranks among distractors: ties lose",
        ["Noise", "Distractors", "Photos of probes", "People", "Trials",
         *(f"Rank-{k}" for k in figures["rank"])],
        _distractor_ranks,
        "megaface",
    )  # fmt: skip
    rates = item.table(
        "TAR at FAR: pairs of a person's photos, and of a photo and a distractor",
        ["Noise", "Distractors", *(f"FAR {short(one['far'])}" for one in figures["tar_at_far"])],
        _distractor_rates,
        "megaface",
    )
    return join(ranks, rates, columns(_by_size(item)))


def _distractor_ranks(one: Node) -> Iterator[Row]:
    for run in one["megaface"]:
        found = run["figures"]
        counts = ("distractors", "probes", "people", "trials")
        yield [
            text(run["noise"]),
            *(number(found[key], "count") for key in counts),
            *(number(rate) for rate in found["rank"]),
        ]


def _distractor_rates(one: Node) -> Iterator[Row]:
    for run in one["megaface"]:
        points = run["figures"]["tar_at_far"]
        yield [
            text(run["noise"]),
            number(run["figures"]["distractors"], "count"),
            *(text(one["reason"]) if one["reason"].known else number(one["tar"]) for one in points),
        ]


def _by_size(item: Judged) -> Html:
    lines: dict[str, list[tuple[float, float]]] = {}
    for one in item.having("megaface"):
        for run in one["megaface"].value:
            name = f"{item.name(one)} {run['noise'].replace('_', ' ')}".strip()
            figures = run["figures"]
            lines.setdefault(name, []).append((figures["distractors"], figures["rank"]["1"]))
    series = [
        Series(name, style, sorted(points), dots=True,
               labels=[f"{name}: {x:,} distractors, rank-1 {fixed(y)}" for x, y in sorted(points)])
        for style, (name, points) in enumerate(lines.items())
    ]  # fmt: skip
    points = [point for one in series for point in one.points]
    return line_chart(
        "Rank-1 against the number of distractors",
        log_axis("Distractors", [x for x, _ in points]),
        rate_axis("Rank-1 rate", [y for _, y in points]),
        series,
    )


def _tinyface(item: Judged) -> Html | None:
    def rows(one: Node) -> Iterator[Row]:
        found = one["tinyface"]
        counts = ("probes", "mated_probes", "probes_without_mate", "gallery")
        yield [
            *(number(found[key], "count") for key in counts),
            *(number(rate) for rate in found["rank"]),
            number(found["map"]),
        ]

    known = item.having("tinyface")
    ranks = known[0]["tinyface"]["rank"].value if known else ()
    return item.table(
        "Ranks over the probes with a mate: ties lose",
        [
            "Probes",
            "With a mate",
            "Without",
            "Gallery images",
            *(f"Rank-{k}" for k in ranks),
            "mAP",
        ],
        rows,
        "tinyface",
    )
