"""The sampling rules by name, as a config writes them."""

from collections.abc import Callable

from recognition.head.choices import choose
from recognition.head.sampling.by_labels import LABEL_RULES, Sampler
from recognition.head.sampling.hard_negative import HardNegative
from recognition.head.sampling.hash_forest import HashForest

_LOOKING: dict[str, Callable[[int, float], Sampler]] = {
    "hash_forest": lambda rebuild_every, _: HashForest(rebuild_every),
    "hard_negative": lambda _, hard_share: HardNegative(hard_share),
}
SAMPLINGS = (*LABEL_RULES, *_LOOKING)


def build_sampler(name: str, *, rebuild_every: int, hard_share: float) -> Sampler:
    """Return the rule `name` of `SAMPLINGS`.

    Args:
        name: of the rule.
        rebuild_every: steps between two indexes of `hash_forest`.
        hard_share: share of the quota that hardness decides, of `hard_negative`.

    Raises `ValueError` for an unknown name, a setting out of its range, or where a rule's library
    is not installed.
    """
    if name in LABEL_RULES:
        return LABEL_RULES[name]
    choose(dict.fromkeys(SAMPLINGS), name, "sampling")
    return _LOOKING[name](rebuild_every, hard_share)
