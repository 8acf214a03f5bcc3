"""What comes first and last on the page: main figures, how they came about, models and cost."""

from collections.abc import Iterator, Sequence

from eval.report.figures import Node, bootstrap, limits, number, text
from eval.report.judged import Judged, Row
from eval.report.markup import Content, Html, facts, join, table, tag


def summary(judged: Sequence[Judged]) -> Html:
    """Return one or two figures of every result."""
    rows = [
        [
            tag("a", item.results[0]["set"].value, href=f"#{item.anchor}"),
            item.title.removeprefix(f"{item.results[0]['set'].value}, "),
            text(one["model"]),
            *figure,
        ]
        for item in judged
        for one in item.results
        for figure in _main_figures(one)
    ]
    header = ["Set", "Protocol", "Model", "Figure", "Value", "95% interval, or deviation"]
    return table("One line per figure; TAR at the finest FAR that the set supports", header, rows)


def _main_figures(one: Node) -> Iterator[Row]:
    if one["ten_fold"].known:
        fold = one["ten_fold"]
        deviation = join("± ", number(fold["population_std"]), " over the folds")
        yield ["accuracy, ten folds", number(fold["accuracy"]), deviation]
    if one["verification"].known:
        rows = list(one["verification"]["rows"])
        known = [row for row in rows if row["point"]["tar"].known]
        for row in known[-1:]:  # the finest rate that the set supports
            far = join("TAR at FAR ", number(row["point"]["far"], "short"))
            yield [far, number(row["point"]["tar"]), bootstrap(row["interval"])]
    if one["search"].known:
        for gallery in one["search"]["galleries"]:
            found = gallery["search"]
            yield [join("rank-1 in ", text(gallery["name"])), number(found["rank"]["1"]),
                   limits(found["rank_wilson95"]["1"])]  # fmt: skip
    # The lists go from small to large: the last one of each rule for noise is the hardest.
    hardest = {run["noise"].value: run for run in one["megaface"]}
    for noise, run in hardest.items():
        count = number(run["figures"]["distractors"], "count")
        name = join("rank-1 among ", count, f" distractors, noise {noise.replace('_', ' ')}")
        yield [name, number(run["figures"]["rank"]["1"]), None]
    if one["tinyface"].known:
        yield ["rank-1", number(one["tinyface"]["rank"]["1"]), None]


def how(results: Node) -> Html:
    """Return the command, the machine and the versions, and every model."""
    run = results["run"]
    suite: list[tuple[str, Content]] = []
    if run["suite"].known:
        suite = [
            ("Suite", text(run["suite"]["path"], code=True)),
            ("SHA-256 of the suite", text(run["suite"]["sha256"], code=True)),
        ]
    found = facts(
        [
            ("Command", text(run["command"], code=True)),
            ("Date", text(run["date"])),
            ("Device", text(run["device"])),
            ("Ranks", number(run["ranks"], "count")),
            *((name, text(run["versions"][name])) for name in run["versions"].value),
            *suite,
            ("Bootstrap replicates", number(run["replicates"], "count")),
            ("Seed", text(run["seed"])),
        ]
    )
    return join(found, *map(_model, results["models"]))


def _model(model: Node) -> Html:
    return join(
        tag("h3", "Model ", text(model["name"])),
        facts(
            [
                ("File", text(model["file"]["path"], code=True)),
                ("SHA-256", text(model["file"]["sha256"], code=True)),
                ("Kind", text(model["kind"])),
                ("Embedding", join(number(model["embedding_size"], "count"), " numbers")),
                ("Input", join(number(model["image_size"], "count"), " pixels per side, ",
                               text(model["channels"]), ", minus ", number(model["mean"], "exact"),
                               ", divided by ", number(model["std"], "exact"))),
                *map(_detail, model["details"].value, model["details"]),
            ]
        ),
    )  # fmt: skip


def _detail(key: str, value: Node) -> tuple[str, Content]:
    """Return what is known of a model; files that it consists of have a hash each."""
    name = key.replace("_", " ").capitalize()
    if not isinstance(value.value, dict):
        return name, text(value)
    files = (join(file, " ", text(value[file], code=True)) for file in value.value)
    return name, join(*_listed(list(files)))


def definitions(results: Node) -> Html:
    """Return what the words of the figures mean."""
    protocol = results["run"]["protocol"]
    return facts(
        (key.replace("_", " ").capitalize(), text(protocol[key])) for key in protocol.value
    )


def cost(results: Node) -> Html:
    """Return time and memory of every model."""

    def row(model: Node) -> Row:
        found = model["cost"]
        seconds = [join(name, " ", number(found["seconds"][name], "short"))
                   for name in found["seconds"].value]  # fmt: skip
        memory = [join(name, " ", number(found["peak_memory"][name], "fixed", unit=1e9))
                  for name in found["peak_memory"].value]  # fmt: skip
        cached = [text(name) for name in found["cached_sets"]]
        return [
            text(model["name"]),
            number(found["forward_passes"], "count"),
            number(found["images_per_second"], "short"),
            join(*_listed(seconds)),
            join(*_listed(memory)),
            join(*_listed(cached)) if cached else "none",
        ]

    header = ["Model", "Forward passes", "Passes per second", "Seconds", "Peak memory (GB)",
              "Sets whose embeddings were kept"]  # fmt: skip
    return table("Time and memory", header, map(row, results["models"]))


def _listed(items: Sequence[Html]) -> Sequence[Content]:
    return [part for item in items for part in (Html(", "), item)][1:]
