"""The sampling rules by name, as a config writes them."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from recognition.head.choices import choose
from recognition.head.sampling import by_labels
from recognition.head.sampling.hard_negative import HardNegative
from recognition.head.sampling.hash_forest import HashForest
from recognition.head.sampling.importance import Importance
from recognition.head.sampling.rule import LabelRule, Sampler

SAMPLINGS: dict[str, Callable[..., Sampler]] = {
    "all": partial(LabelRule, by_labels.sample_all, counts=False),
    "random_negative": partial(LabelRule, by_labels.sample_random_negative),
    "random_all": partial(LabelRule, by_labels.sample_random_all),
    "positives_only": partial(LabelRule, by_labels.sample_positives_only),
    "hash_forest": HashForest,
    "hard_negative": HardNegative,
    "importance": Importance,
}


def build_sampler(name: str, replicated: bool, **options: Any) -> Sampler:
    """Return the rule `name` of `SAMPLINGS`, with those of the `options` that it has.

    Raises what `check_sampling` raises, and `ValueError` for an option out of its range and where
    a rule's library is not installed.
    """
    check_sampling(name, replicated=replicated)
    known = inspect.signature(SAMPLINGS[name]).parameters
    return SAMPLINGS[name](**{option: options[option] for option in options if option in known})


def check_sampling(name: str, *, replicated: bool) -> None:
    """Raise `ValueError` for an unknown rule, and for one that cannot work with replicated classes.

    That is one that uses embeddings: a rank has only its own, so the ranks' copies would diverge.
    """
    rule = choose(SAMPLINGS, name, "sampling")
    if replicated and getattr(rule, "uses_embeddings", False):
        raise ValueError(
            f"sampling {name!r} chooses by the batch's embeddings; with placement 'replicated' a "
            "rank has only its own, so the ranks' copies would diverge; expected "
            "placement 'sharded' or 'host', or another sampling"
        )
