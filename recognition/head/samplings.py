"""The sampling rules by name, as a config writes them."""

from recognition.head.choices import choose
from recognition.head.sampling import LABEL_RULES, Sampler

SAMPLINGS = tuple(LABEL_RULES)


def build_sampler(name: str, *, rebuild_every: int) -> Sampler:
    """Return the rule `name` of `SAMPLINGS`.

    Raises `ValueError` for an unknown name.
    """
    return choose(LABEL_RULES, name, "sampling")
