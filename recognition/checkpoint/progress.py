"""How far a run is, and which run it is: what `run.json` says of the training itself."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recognition.checkpoint.manifest import CheckpointError


@dataclass
class Progress:
    """The training loop's own mutable state: saved and restored with every checkpoint."""

    step: int = 0  # optimizer steps done; the position in the data follows from it
    best_accuracy: float = 0.0  # highest of a saved checkpoint; or its figure `checkpoint.best`
    seconds: float = 0.0  # wall-clock, of training, over all resumed runs

    @classmethod
    def from_json(cls, folder: Path, saved: Mapping[str, Any]) -> "Progress":
        """Return the progress in the metadata of a checkpoint; no value is assumed.

        Raises `CheckpointError` when it is not exactly what a save writes.
        """
        found, expected = saved.get("progress"), asdict(cls())
        if (
            not isinstance(found, dict)
            or found.keys() != expected.keys()
            or not all(_is_count(found[name], type(value)) for name, value in expected.items())
            or found["step"] != saved.get("step")
        ):
            raise CheckpointError(
                f"{folder / 'run.json'}: progress is {found!s:.200} at step {saved.get('step')}"
                f", expected numbers for {', '.join(expected)}; resume from another checkpoint"
            )
        return cls(**found)


_BEFORE = {"head.storage": "fp32"}  # of settings that older checkpoints do not name


def check_identity(folder: Path, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` when a checkpoint is of another run than one with identity `own`."""
    identity = saved.get("identity")
    if not isinstance(identity, dict):
        raise CheckpointError(
            f"{folder / 'run.json'}: identity is {identity!s:.200}, expected the settings of a "
            "run by name; resume from another checkpoint"
        )
    changed = [
        f"{name} was {was} and is {value}"
        for name, value in own.items()
        if (was := identity.get(name, _BEFORE.get(name))) != value
    ]
    if changed:
        raise CheckpointError(
            f"{folder} belongs to another run: {'; '.join(changed)}. Restore these settings, "
            "or start a new run from its backbone with init_from"
        )


def _is_count(value: object, kind: type) -> bool:
    """Return whether `value` is a finite number from 0; for Python `True` is an integer too."""
    kinds = int if kind is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value < float("inf")
