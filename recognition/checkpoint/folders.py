"""The folder `checkpoints` of a run: which checkpoints it holds, and which of them a path means.

step_00000400/              a checkpoint; a save gives this name to a folder that is whole
step_00000800.partial/      a save that is under way or was interrupted, or a removal
step_00000800.set_aside/    of an attempt that was left behind by resuming from an earlier step
latest, best                files that hold the name of one of the checkpoints
"""

import logging
import os
import re
import secrets
import shutil
from pathlib import Path

from recognition.checkpoint.manifest import (
    WEIGHTS,
    CheckpointError,
    damage,
    digests,
    read_metadata,
)

log = logging.getLogger(__name__)

_FOLDER = re.compile(r"step_(\d{8,12})")
_PARTIAL = ".partial"
_SET_ASIDE = ".set_aside"


def folder_name(step: int) -> str:
    """Return the name of the checkpoint after `step` steps."""
    return f"step_{step:08d}"


def partial_folder(checkpoints: Path, step: int) -> Path:
    """Return a new, empty folder for a save, after removing what interrupted ones have left."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    for leftover in checkpoints.glob(f"step_*{_PARTIAL}"):
        shutil.rmtree(leftover)
    partial = checkpoints / (folder_name(step) + _PARTIAL)
    partial.mkdir()
    return partial


def publish(partial: Path) -> Path:
    """Give a folder that is whole and on disk its final name, which is returned."""
    sync_folder(partial)
    final = partial.with_name(partial.name.removesuffix(_PARTIAL))
    # A run saves each step once; who calls `save` twice keeps the first until the second is there.
    replaced = _set_aside(final) if final.exists() else None
    partial.rename(final)
    sync_folder(final.parent)
    if replaced is not None:
        shutil.rmtree(replaced)
    return final


def complete_interrupted_saves(checkpoints: Path) -> None:
    """Publish the folders of saves that were interrupted when everything was on disk already."""
    for partial in sorted(checkpoints.glob(f"step_*{_PARTIAL}")):
        final = partial.with_name(partial.name.removesuffix(_PARTIAL))
        if not final.exists() and why_not_whole(partial) is None:
            partial.rename(final)
            log.info("%s was whole: completed the save that was interrupted", final)


def candidates(checkpoints: Path) -> list[Path]:
    """Return the folders that have the name of a checkpoint, by step, whole or not."""
    if not checkpoints.is_dir():
        return []
    found = [item for item in checkpoints.iterdir() if _FOLDER.fullmatch(item.name)]
    return sorted((item for item in found if item.is_dir() and not item.is_symlink()), key=_step)


def why_not_whole(folder: Path) -> str | None:
    """Return what is missing from a checkpoint, or None. Reads `run.json` and sizes, no content."""
    try:
        listed = digests(folder, read_metadata(folder))
    except CheckpointError as error:
        return str(error)
    found = (damage(folder, name, digest, read=False) for name, digest in listed.items())
    return next((f"{folder}: {problem}" for problem in found if problem), None)


def latest(checkpoints: Path) -> Path | None:
    """Return the whole checkpoint with the highest step in a `checkpoints` folder, if any."""
    newest_first = reversed(candidates(checkpoints))
    return next((folder for folder in newest_first if why_not_whole(folder) is None), None)


def in_run(path: Path) -> Path | None:
    """Return the `checkpoints` folder that `path` is or has; None if it is one checkpoint."""
    if (path / "run.json").exists() or _FOLDER.fullmatch(path.name):
        return None
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def resolve(path: Path, which: str = "latest") -> Path:
    """Return the checkpoint that `path` means: itself, or the `latest` or `best` of a run folder.

    Raises `CheckpointError` when there is none.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: expected a run folder or a checkpoint")
    checkpoints = in_run(path)
    if checkpoints is None:
        return path
    if which == "latest":
        found = latest(checkpoints)
    else:
        found = pointed(checkpoints, which)
        if found is None and candidates(checkpoints):
            raise CheckpointError(
                f"{path}: no {which} checkpoint is marked; a run marks one when it verifies and "
                "saves at the same step; use the latest one"
            )
    if found is None:
        damaged = [why_not_whole(folder) or "" for folder in candidates(checkpoints)]
        raise CheckpointError(
            f"{path}: found no checkpoint; expected a run folder, or one of its "
            f"checkpoints/step_XXXXXXXX folders{''.join(f'. {reason}' for reason in damaged)}"
        )
    return found


def backbone_file(path: Path, which: str = "latest", weights: str = "raw") -> Path:
    """Return the backbone weight file that `path` means, compared with its hash.

    `path` is such a file, a checkpoint, or a run folder. `weights` says which file of a checkpoint:
    those that were trained, `raw`, or their moving average, `ema`. Raises `CheckpointError` when
    there is none, or when it is not what was saved.
    """
    name = WEIGHTS[weights]
    if path.is_file():
        if weights != "raw" and path.name != name:
            raise CheckpointError(
                f"{path} is one file of weights, expected a run folder or a checkpoint, of which "
                f"{weights} chooses {name}: name one, or leave the choice of weights out"
            )
        if path.name not in WEIGHTS.values() or not (path.parent / "run.json").exists():
            return path  # of no checkpoint: its reader checks what it can
        name = path.name
    folder = path.parent if path.is_file() else resolve(path, which)
    files = digests(folder, read_metadata(folder))
    if name not in files:
        raise CheckpointError(
            f"{folder} has no averaged weights ({name}): its run had no train.ema; take the raw "
            "weights, or a checkpoint of a run with train.ema"
        )
    problem = damage(folder, name, files[name], read=True)
    if problem is not None:
        raise CheckpointError(
            f"{folder}: {problem}; take another checkpoint, or a copy of this one"
        )
    return folder / name


def point(checkpoints: Path, name: str, target: Path) -> None:
    """Make the file `name` hold the name of `target`."""
    temporary = checkpoints / f".{name}.{secrets.token_hex(8)}"
    with temporary.open("x") as stream:
        stream.write(f"{target.name}\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(checkpoints / name)


def pointed(checkpoints: Path, name: str) -> Path | None:
    """Return the checkpoint that the file `name` points to; None if there is none."""
    try:
        target = (checkpoints / name).read_text(encoding="utf-8")[:100].strip()
    except (OSError, ValueError):
        return None
    # A name with a separator or a `..` would lead out of the folder.
    return checkpoints / target if (checkpoints / target) in candidates(checkpoints) else None


def leave_behind(checkpoints: Path, resumed: Path) -> None:
    """Set aside what is not of the attempt that continues from `resumed`.

    That is every later checkpoint of the same folder, or all of them if `resumed` is of another.
    Otherwise they would count as the newest, and the ones to be saved would be pruned first.
    """
    found = candidates(checkpoints)
    own = resumed.parent.resolve() == checkpoints.resolve()
    later = [item for item in found if not own or _step(item) > _step(resumed)]
    for folder in reversed(later):  # the newest first: what remains is always in order
        log.info("set aside as %s, from an earlier attempt", _set_aside(folder).name)
    for name in ("latest", "best"):
        if later and pointed(checkpoints, name) is None:
            (checkpoints / name).unlink(missing_ok=True)
    if own:
        point(checkpoints, "latest", resumed)


def prune(checkpoints: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints that are whole, and the best one."""
    best = pointed(checkpoints, "best")
    found = candidates(checkpoints)
    whole = [folder for folder in found if why_not_whole(folder) is None]
    for folder in found[: found.index(whole[-keep:][0])] if whole else ():
        if folder != best:
            # Renamed first, so that an interrupted removal leaves no checkpoint without its files.
            gone = folder.with_name(folder.name + _PARTIAL)
            folder.rename(gone)
            shutil.rmtree(gone)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on disk; only then is a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _set_aside(folder: Path) -> Path:
    """Rename a checkpoint so that it no longer counts; nothing is removed."""
    target, count = folder.with_name(folder.name + _SET_ASIDE), 1
    while target.exists():
        count += 1
        target = folder.with_name(f"{folder.name}{_SET_ASIDE}_{count}")
    return folder.rename(target)


def _step(folder: Path) -> int:
    match = _FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else -1
