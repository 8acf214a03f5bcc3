"""How a pack survives being cut short: its folder, and the file that says how far it came.

The records are made in `<output>.partial`. `pack.json` in it holds the options, and while the
work goes on `progress`; when all is there, `files` instead, and the folder gets its name.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.files import sync_folder, writing
from data.tools.record_set import RecordSetWriter, SetCheckpoint

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MANIFEST = "pack.json"
_LOCK = ".lock"
_RECORDS = re.compile(r"train(?:-(\d+))?\.(?:rec|idx)")


class JobError(ValueError):
    """A folder that this work can neither begin in nor go on in; says why, and the mend."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        consumed: number of images dealt with, in their order.
        digest: of those images' names, labels, sizes and times.
        skipped: number in the order, and fault, of each image left out.
        written: how far the records are; None before the first.
    """

    consumed: int = 0
    digest: str = ""
    skipped: list[tuple[int, str]] = field(default_factory=list)
    written: SetCheckpoint | None = None


class PackJob:
    """The folder of one pack, from its first start to its end.

    Args:
        output: where the pack is to be.
        options: plain values that decide its bytes; another run goes on only with the same.
    """

    def __init__(self, output: Path, options: dict[str, Any]) -> None:
        self.output = output
        self.partial = output.with_name(output.name + ".partial")
        self._options: dict[str, Any] = json.loads(json.dumps(options))  # as it will be read back

    def finished(self) -> dict[str, Any] | None:
        """Return what an earlier run wrote down at its end, None if there was none.

        Raises `JobError` where the output holds anything else, or files were changed since.
        """
        if is_free(self.output):
            last = self.partial / MANIFEST
            if not last.is_file() or "files" not in self._parse(last):
                return None
            self._refuse_other_options(last)
            self._publish()  # the earlier run ended just before that
        if not (self.output / MANIFEST).is_file():
            raise JobError(
                f"{self.output} holds something other than packed records (it has no {MANIFEST}); "
                "choose another folder"
            )
        if (self.output / _LOCK).exists():  # the earlier run ended just before it was removed
            (self.output / _LOCK).unlink(missing_ok=True)
        manifest = self._parse(self.output / MANIFEST)
        self._refuse_other_options(self.output / MANIFEST)
        for name, size in manifest["files"].items():
            path = self.output / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes"
                raise JobError(
                    f"{path} {state}, expected {size} bytes; delete {self.output} and pack again"
                )
        return manifest

    @contextmanager
    def begun(self) -> Iterator[Progress]:
        """Hold the folder for this process, and yield how far an earlier run came in it.

        Raises `JobError` if another process holds it, or it is another pack's.
        """
        with writing(self.partial):
            self.partial.mkdir(parents=True, exist_ok=True)
        with self._locked():
            progress = self._progress()
            self._remove_later_files(progress)
            try:
                yield progress
            except BaseException:
                if progress.written is None:  # nothing to go on from
                    shutil.rmtree(self.partial, ignore_errors=True)
                raise

    def _progress(self) -> Progress:
        path = self.partial / MANIFEST
        if not path.is_file():
            if any(file.name != _LOCK for file in self.partial.iterdir()):
                raise JobError(
                    f"{self.partial} is no pack that was cut short (it has no {MANIFEST}): it is "
                    "where the records are made; move it away or choose another output"
                )
            self._write({"progress": None})
            return Progress()
        values = self._parse(path).get("progress")
        if values is None:  # nothing was made of what was asked for then
            self._write({"progress": None})
            return Progress()
        self._refuse_other_options(path)
        return Progress(
            values["consumed"],
            values["digest"],
            [(position, fault) for position, fault in values["skipped"]],
            SetCheckpoint.from_json(values["written"]),
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.partial / _LOCK).open("w") as lock:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise JobError(
                        f"{self.partial} is in use: another process is packing into it; wait for "
                        "it, or choose another output"
                    ) from error
            yield

    def save(self, progress: Progress, writer: RecordSetWriter) -> None:
        """Put on the disk all that was written, and then how far that is."""
        progress.written = writer.checkpoint()
        values = {
            "consumed": progress.consumed,
            "digest": progress.digest,
            "skipped": progress.skipped,
            "written": progress.written.to_json(),
        }
        self._write({"progress": values})

    def finish(self, facts: dict[str, Any]) -> None:
        """Write down `facts` and the files' sizes, and give the folder its name."""
        files = [
            path for path in sorted(self.partial.iterdir()) if path.name not in (MANIFEST, _LOCK)
        ]
        self._write({**facts, "files": {path.name: path.stat().st_size for path in files}})
        self._publish()
        # Only now: who held a new one would begin anew in there.
        (self.output / _LOCK).unlink(missing_ok=True)

    def _publish(self) -> None:
        publish(self.partial, self.output)

    def _remove_later_files(self, progress: Progress) -> None:
        """Remove what was made after the checkpoint: should fewer files come, it would stay."""
        last = -1 if progress.written is None else progress.written.shard
        for path in self.partial.iterdir():
            made = _RECORDS.match(path.name)
            if path.name not in (MANIFEST, _LOCK) and not (made and int(made[1] or 0) <= last):
                path.unlink()

    def _parse(self, path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            dict(found["options"])
        except (ValueError, KeyError, TypeError) as error:
            raise JobError(
                f"{path} is not what a pack writes down ({error!r}); delete {path.parent} and pack "
                "again"
            ) from error
        return found

    def _refuse_other_options(self, path: Path) -> None:
        options = self._parse(path)["options"]
        changed = [
            f"{name} {options.get(name)!r} then, {value!r} now"
            for name, value in self._options.items()
            if options.get(name) != value
        ]
        if changed:
            raise JobError(
                f"{path.parent} was packed with other options: {'; '.join(changed)}; use the same, "
                "choose another output, or delete it"
            )

    def _write(self, values: dict[str, Any]) -> None:
        """Replace `pack.json` so that at any time one whole version of it is on the disk."""
        path = self.partial / MANIFEST
        draft = path.with_name(MANIFEST + ".draft")
        with writing(path):
            with draft.open("w", encoding="ascii") as file:
                json.dump({"options": self._options, **values}, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            sync_folder(self.partial)


def is_free(output: Path) -> bool:
    """Return whether a folder can be made at `output`: nothing is there, or an empty folder."""
    return not output.exists() or (output.is_dir() and not any(output.iterdir()))


def publish(partial: Path, output: Path) -> None:
    """Give the whole folder `partial` the name `output`, which `is_free`."""
    with writing(output):
        if output.exists():
            output.rmdir()  # empty, as was checked; fails if it no longer is
        partial.replace(output)
        sync_folder(output.parent)


@contextmanager
def made_at_once(output: Path) -> Iterator[Path]:
    """Yield a folder to write in, which becomes `output` when the block ends, or is deleted.

    Raises `JobError` where something is there already, as what a killed process left.
    """
    partial = output.with_name(output.name + ".partial")
    if not is_free(output):
        raise JobError(f"{output} is there already: choose another folder, or delete it")
    if partial.exists():
        raise JobError(
            f"{partial} is there already, left by a run that was killed or still at work: delete "
            "it, or choose another output"
        )
    with writing(partial):
        partial.mkdir(parents=True)
    try:
        yield partial
        publish(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_space(folder: Path, needed: int) -> None:
    """Raise `JobError` if the disk of `folder`, which may not exist yet, lacks `needed` bytes."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise JobError(
            f"{folder}: {needed:,} bytes are needed and {free:,} are free on its disk; make room "
            "or choose another"
        )
