"""The sampling rules by name, as a config writes them."""

from collections.abc import Callable

from recognition.head.choices import choose
from recognition.head.hard_negative import HardNegative
from recognition.head.hash_forest import HashForest
from recognition.head.sampling import LABEL_RULES, Sampler

_LOOKING: dict[str, Callable[[int], Sampler]] = {
    "hash_forest": lambda rebuild_every: HashForest(rebuild_every),
    "hard_negative": lambda _: HardNegative(),
}
SAMPLINGS = (*LABEL_RULES, *_LOOKING)


def build_sampler(name: str, *, rebuild_every: int) -> Sampler:
    """Return the rule `name` of `SAMPLINGS`.

    Args:
        name: of the rule.
        rebuild_every: steps between two indexes of `hash_forest`.

    Raises `ValueError` for an unknown name, or where a rule's library is not installed.
    """
    if name in LABEL_RULES:
        return LABEL_RULES[name]
    choose(dict.fromkeys(SAMPLINGS), name, "sampling")
    return _LOOKING[name](rebuild_every)
