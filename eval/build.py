"""From the config's section `verification` to the verification sets of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from data.records.locations import folder_of, is_url
from eval.figures import SetFigures
from eval.suites.settings import Suite, pair_sets, read_suite
from eval.verifier import Verifier
from recognition.config import Config
from recognition.distributed import World

# The false accept rates of a `.bin` file; a suite states its own.
FARS: Final = [1e-2, 1e-3, 1e-4]
SUITES: Final = (".yaml", ".yml")  # how the name of a suite ends


def build_verifier(config: Config, world: World) -> Verifier:
    """Return the verification sets, opened; all ranks must call.

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
        [_suite(wanted, folder) for wanted in settings.sets],
        image_size=config.data.image_size,
        batch_size=settings.batch_size,
        world=world,
    )
    if config.checkpoint.best is not None:
        _check_best(config.checkpoint.best, verifier.possible())
    return verifier


def _suite(wanted: str, folder: Path | None) -> Suite:
    if Path(wanted).suffix in SUITES:
        return read_suite(Path(wanted))
    return Suite(pairs=pair_sets([wanted], folder), fars=FARS)


def _check_best(best: str, sets: Sequence[SetFigures]) -> None:
    """Raise `ValueError` unless `best` is a figure that verification will have a value for."""
    figures = {name: value for one in sets for name, value in one.candidates().items()}
    wanted = best.removeprefix("ema/")
    if figures.get(wanted) is not None:
        return
    known = ", ".join(name for name, value in figures.items() if value is not None)
    reasons = {name: reason for one in sets for name, reason in one.reasons().items()}
    because = f", and {wanted} {reasons[wanted]}" if wanted in reasons else ""
    raise ValueError(
        f"checkpoint.best is {best!r}{because}; expected one of these figures, or ema/ and one of "
        f"them for averaged weights: {known or 'none, as verification.sets is empty'}"
    )
