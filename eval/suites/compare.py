"""What one model has over another, and what a threshold of one set does on another."""

from collections.abc import Sequence

from eval.protocols.bootstrap import BootstrapInterval, percentile_interval
from eval.results import Calibration, Comparison, SetResult
from eval.suites.scored import Drawn, Scored, Searched

Entry = tuple[SetResult, Scored]


def compare(
    entry: tuple[SetResult, Scored | Searched], baseline: tuple[SetResult, Scored | Searched]
) -> list[Comparison]:
    """Return the difference in each figure, with its paired bootstrap interval.

    Replicate k draws the same subjects, or pairs, for both models, so what is hard for both cancels
    out of the difference of that replicate.
    """
    (result, found), (base_result, base_found) = entry, baseline
    compared = []
    for one, base in zip(found.drawn, base_found.drawn, strict=True):
        both = None if one.value is None or base.value is None else (one.value, base.value)
        compared.append(
            Comparison(
                model=result.model,
                baseline=base_result.model,
                set=result.set,
                protocol=result.protocol,
                mode=result.settings.get("mode"),
                figure=one.figure,
                far=one.rate,
                difference=None if both is None else both[0] - both[1],
                reason=one.reason or base.reason,
                interval=_interval(one, base) if both is not None and one.replicates else None,
            )
        )
    return compared


def _interval(one: Drawn, base: Drawn) -> BootstrapInterval:
    values = [
        None if a is None or b is None else a - b
        for a, b in zip(one.replicates, base.replicates, strict=True)
    ]
    left_out = sum(value is None for value in values)
    limits = percentile_interval(values)
    reason = f"{left_out} of {len(values)} replicates have no value"
    return BootstrapInterval(
        one.method, len(values), left_out, limits, reason if limits is None else None
    )


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
