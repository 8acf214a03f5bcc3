"""What carries over: a threshold from set to set, and the advantage of one model over another."""

from eval.report.figures import Node, bootstrap, limits, number, text
from eval.report.judged import Row
from eval.report.markup import Content, Html, table


def calibration(results: Node) -> Html | None:
    """Return error rates at a threshold of another set; None if there is none."""

    def row(one: Node) -> Row:
        found = one["found"]
        rates: list[Content] = [text(one["reason"]), None, None, None, None]
        if found.known:
            rates = [
                number(found["threshold"]),
                number(found["fmr"], "short"),
                limits(found["fmr_wilson95"], "short"),
                number(found["fnmr"]),
                limits(found["fnmr_wilson95"]),
            ]
        promised = [number(one["far"], "short"), number(one["promised_tar"])]
        return [
            text(one["applied_to"]),
            text(one["model"]),
            text(one["chosen_on"]),
            *promised,
            *rates,
        ]

    if not results["calibration"].value:
        return None
    header = [
        "Applied to", "Model", "Chosen on", "FAR promised", "TAR promised", "T (cosine)",
        "FMR found", "95% interval (Wilson)", "FNMR found", "95% interval (Wilson)",
    ]  # fmt: skip
    return table("A threshold of one set on the others", header, map(row, results["calibration"]))


def comparisons(results: Node) -> Html | None:
    """Return the figures of every model minus those of the first; None if there is one model."""

    def row(one: Node) -> Row:
        name = " ".join(filter(None, (one["set"].value, one["mode"].value)))
        reason = text(one["reason"]) if one["reason"].known else None
        return [
            name,
            text(one["figure"]),
            number(one["far"], "short"),
            text(one["model"]),
            _tar(results, one, "model"),
            text(one["baseline"]),
            _tar(results, one, "baseline"),
            number(one["difference"], "signed"),
            reason or bootstrap(one["interval"]),
        ]

    if not results["comparisons"].value:
        return None
    header = ["Set", "Figure", "FAR, FPIR", "Model", "TAR", "Compared with", "TAR", "Difference",
              "95% interval (paired bootstrap)"]  # fmt: skip
    return table(
        "Figures of a model minus those of the first", header, map(row, results["comparisons"])
    )


def _tar(results: Node, one: Node, side: str) -> Content:
    """Return the TAR of one side, from where the set's section has it."""
    wanted = (one[side].value, one["set"].value, one["protocol"].value, one["mode"].value)
    for found in results["sets"]:
        key = [found[name].value for name in ("model", "set", "protocol")]
        if (*key, found["settings"].value.get("mode")) == wanted and found["verification"].known:
            for row in found["verification"]["rows"]:
                if row["point"]["far"].value == one["far"].value:
                    return number(row["point"]["tar"])
    return None
