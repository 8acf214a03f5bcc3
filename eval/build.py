"""From the config's section `verification` to the verification sets of a run."""

from typing import Final

import numpy as np

from data.records.locations import folder_of, is_url
from eval.verification import RATES
from eval.verifier import Verifier
from recognition.config import Config
from recognition.distributed import World

# The figures of a set of which more is better: a checkpoint can be the best by them.
BEST_FIGURES: Final = ("accuracy", "accuracy_no_flip", *(f"tar_at_far/{rate}" for rate in RATES))


def build_verifier(config: Config, world: World) -> Verifier:
    """Return the verification sets.

    Raises `ValueError` for one that does not exist, and for a `checkpoint.best` that is no figure
    of them. Names are looked up in `verification.folder`, by default the folder of the training
    data.
    """
    settings, train = config.verification, config.data.train
    folder = settings.folder
    if folder is None and train is not None:
        first = train[0] if isinstance(train, list) else train
        folder = None if is_url(first) else folder_of(first)
    verifier = Verifier(
        settings.sets,
        folder=folder,
        image_size=config.data.image_size,
        batch_size=settings.batch_size,
        world=world,
    )
    if config.checkpoint.best is not None:
        _check_best(config.checkpoint.best, verifier)
    return verifier


def _check_best(best: str, verifier: Verifier) -> None:
    """Raise `ValueError` unless `best` is a figure that verification will have a value for."""
    wanted, _, figure = best.removeprefix("ema/").partition("/")
    item = next((item for item in verifier.sets if item.name == wanted), None)
    if item is None or figure not in BEST_FIGURES:
        sets = ", ".join(item.name for item in verifier.sets) or "none: verification.sets is empty"
        raise ValueError(
            f"checkpoint.best is {best!r}, expected SET/FIGURE, or ema/SET/FIGURE for averaged "
            f"weights. Sets: {sets}. Figures: {', '.join(BEST_FIGURES)}"
        )
    rate = RATES.get(figure.removeprefix("tar_at_far/"), 1.0)
    negatives = np.count_nonzero(~item.pairs.same)
    if negatives < round(1 / rate):
        raise ValueError(
            f"checkpoint.best is {best!r}, which needs {round(1 / rate):,} negative pairs; "
            f"{item.pairs.path} has {negatives:,}: name a higher rate, or another figure"
        )
