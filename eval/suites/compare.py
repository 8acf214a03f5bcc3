"""What one model has over another, and what a threshold of one set does on another."""

from collections.abc import Sequence

from eval.protocols.bootstrap import BootstrapInterval, percentile_interval
from eval.results import Calibration, Comparison, SetResult
from eval.suites.scored import Scored

Entry = tuple[SetResult, Scored]


def compare(entry: Entry, baseline: Entry) -> list[Comparison]:
    """Return the differences in TAR at each rate, with paired bootstrap intervals.

    Replicate k draws the same subjects, or pairs, for both models, so what is hard for both cancels
    out of the difference of that replicate.
    """
    (result, scored), (base, base_scored) = entry, baseline
    found = []
    rows = zip(scored.figures.rows, base_scored.figures.rows, strict=True)
    for index, (row, base_row) in enumerate(rows):
        tar, base_tar, interval = row.point.tar, base_row.point.tar, None
        if tar is not None and base_tar is not None:
            values = [
                None if a is None or b is None else a - b
                for a, b in zip(
                    scored.replicates[index], base_scored.replicates[index], strict=True
                )
            ]
            left_out = sum(value is None for value in values)
            limits = percentile_interval(values)
            reason = f"{left_out} of {len(values)} replicates have no value"
            interval = BootstrapInterval(
                scored.figures.interval_method,
                len(values),
                left_out,
                limits,
                reason if limits is None else None,
            )
        found.append(
            Comparison(
                model=result.model,
                baseline=base.model,
                set=result.set,
                protocol=result.protocol,
                mode=result.settings.get("mode"),
                far=row.point.far,
                difference=None if tar is None or base_tar is None else tar - base_tar,
                reason=row.point.reason or base_row.point.reason,
                interval=interval,
            )
        )
    return found


def calibrate(entries: Sequence[Entry], chosen_on: str, far: float) -> list[Calibration]:
    """Return the error rates, on every other set, at the threshold of one set; of one model."""
    chosen = next(scored for result, scored in entries if result.set == chosen_on)
    point = chosen.pairs.tar_at_far(far)
    reason = point.reason
    if reason is None and point.threshold is None:
        reason = "every pair is accepted at this rate, so there is no threshold"
    return [
        Calibration(
            model=result.model,
            chosen_on=chosen_on,
            applied_to=result.set,
            far=far,
            promised_tar=point.tar,
            reason=reason,
            found=None if point.threshold is None else scored.pairs.at_threshold(point.threshold),
        )
        for result, scored in entries
        if result.set != chosen_on and result.protocol == "pairs"
    ]
