"""The sampling rules by name, as a config writes them."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from recognition.head.choices import choose
from recognition.head.sampling import by_labels
from recognition.head.sampling.hard_negative import HardNegative
from recognition.head.sampling.hash_forest import HashForest
from recognition.head.sampling.rule import LabelRule, Sampler

SAMPLINGS: dict[str, Callable[..., Sampler]] = {
    "all": partial(LabelRule, by_labels.sample_all),
    "random_negative": partial(LabelRule, by_labels.sample_random_negative),
    "random_all": partial(LabelRule, by_labels.sample_random_all),
    "positives_only": partial(LabelRule, by_labels.sample_positives_only),
    "hash_forest": HashForest,
    "hard_negative": HardNegative,
}


def build_sampler(name: str, replicated: bool, **options: Any) -> Sampler:
    """Return the rule `name` of `SAMPLINGS`, with those of the `options` that it has.

    Raises `ValueError` for an unknown name, for an option out of its range, for a rule that uses
    embeddings where classes are replicated, and where a rule's library is not installed.
    """
    rule = choose(SAMPLINGS, name, "sampling")
    known = inspect.signature(rule).parameters
    sampler = rule(**{option: value for option, value in options.items() if option in known})
    if replicated and sampler.uses_embeddings:
        raise ValueError(
            f"sampling {name!r} chooses by the batch's embeddings; with placement 'replicated' a "
            "rank has only its own, so the ranks' copies would diverge; expected "
            "placement 'sharded' or 'host', or another sampling"
        )
    return sampler
