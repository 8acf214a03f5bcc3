"""Run folders that a stranger made: nothing may be executed, and nothing outside be touched."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from recognition.checkpoint import CheckpointError
from recognition.distributed import World
from tests.chaos.attack import Attack, HarmError
from tests.chaos.small_runs import load, save


class Touch:
    """A pickle that runs code: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (self.path, os.O_CREAT)


def metadata_that_runs_code(folder: Path) -> None:
    """Metadata that runs code."""
    path = folder / "checkpoints" / "step_00000002" / "state" / ".metadata"
    path.write_bytes(pickle.dumps(Touch(folder / "executed")))
    reseal(path.parent.parent)


def file_outside(folder: Path) -> None:
    """File outside."""
    path = folder / "checkpoints" / "step_00000002" / "state" / ".metadata"
    content = pickle.loads(path.read_bytes())
    for info in content.storage_data.values():
        info.relative_path = "../../../outside.distcp"
    path.write_bytes(pickle.dumps(content))
    target = folder / "outside.distcp"
    shutil.copy(path.parent / "__0_0.distcp", target)
    reseal(path.parent.parent)


def link_for_a_file(folder: Path) -> None:
    """Link for a file."""
    path = folder / "checkpoints" / "step_00000002" / "backbone.pt"
    path.rename(folder / "elsewhere.pt")
    path.symlink_to(folder / "elsewhere.pt")


def pipe_for_a_file(folder: Path) -> None:
    """Pipe for a file."""
    path = folder / "checkpoints" / "step_00000002" / "run.json"
    path.unlink()
    os.mkfifo(path)


def best_outside(folder: Path) -> None:
    """Best outside."""
    shutil.copytree(folder / "checkpoints" / "step_00000002", folder / "outside")
    (folder / "checkpoints" / "best").write_text("../outside\n")


def name_in_the_list(folder: Path) -> None:
    """Name in the list."""
    file = folder / "checkpoints" / "step_00000002" / "run.json"
    content = json.loads(file.read_text())
    content.setdefault("files", {})["../../../outside"] = {"bytes": 1, "xxh3": ""}
    file.write_text(json.dumps(content))
    (folder / "outside").write_text("x")
    reseal(file.parent)


MAKERS = (
    metadata_that_runs_code, file_outside, link_for_a_file, pipe_for_a_file, best_outside,
    name_in_the_list,
)  # fmt: skip


def hostile_folders(attack: Attack) -> None:
    """Resume from each of the folders."""
    for make in MAKERS:
        attack.attempt(make.__name__, partial(resume_from_hostile, attack, make))


def resume_from_hostile(attack: Attack, make: Callable[[Path], None], folder: Path) -> None:
    """Resume from one of the folders, and save."""

    def prepare(world: World) -> None:
        for step in (1, 2):
            save(folder, world, step)

    def check(world: World) -> None:
        expected = {(2, 0)} if make is best_outside else {(1, 0)}
        try:
            found = load(folder, world)
            if found not in expected:
                raise HarmError(f"loaded {found}")
        except CheckpointError:
            pass  # refused with a message: also right
        if (folder / "executed").exists():
            raise HarmError("code was executed")
        save(folder, world, 3)
        if make is best_outside and not (folder / "outside").exists():
            raise HarmError("removed a folder outside")

    attack.well(folder, 1, prepare)
    make(folder)
    attack.well(folder, 1, check)


def reseal(folder: Path) -> None:
    """Write sizes, hashes and checksum anew, as an attacker can."""
    try:
        from recognition.checkpoint.manifest import FileDigest, write_metadata
    except ImportError:  # a version before there were any
        return
    import xxhash

    metadata = json.loads((folder / "run.json").read_text())
    listed = metadata.pop("files")
    metadata.pop("checksum")
    digests = {}
    for name, entry in listed.items():
        path = folder / name
        data = path.read_bytes() if path.exists() else None
        digests[name] = (
            FileDigest(len(data), xxhash.xxh3_128_hexdigest(data)) if data is not None
            else FileDigest(entry["bytes"], entry["xxh3"])
        )  # fmt: skip
    (folder / "run.json").unlink()
    write_metadata(folder, metadata, digests)
