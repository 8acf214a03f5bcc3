"""How a pack can be resumed: its folder, and the file that says how far it came.

The records are made in `<output>.partial`. `pack.json` in it holds the options, and during the work
`progress`; when everything is there, `files` instead, and the folder is renamed.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.files import atomic_write, file_lock, is_free, publish, writing
from data.tools.record_set import RecordSetWriter, SetPosition

MANIFEST = "pack.json"
_LOCK = ".lock"
_RECORDS = re.compile(r"train(?:-(\d+))?\.(?:rec|idx)")


class JobError(ValueError):
    """A folder in which this pack can neither start nor continue; says why and how to fix it."""


@dataclass
class PackState:
    """How far a run has come."""

    consumed: int = 0  # number of images dealt with, in their order
    digest: str = ""  # of those images' names, labels, sizes and times
    # Position in the order, and fault, of each image left out.
    skipped: list[tuple[int, str]] = field(default_factory=list)
    written: SetPosition | None = None  # how far the records are; None before the first


class PackJob:
    """The folder of one pack, from its first start to its end.

    `options` are plain values that decide its bytes; another run continues only with the same.
    """

    def __init__(self, output: Path, options: dict[str, Any]) -> None:
        self.output = output
        self.partial = output.with_name(output.name + ".partial")
        self._options: dict[str, Any] = json.loads(json.dumps(options))  # as it will be read back

    def finished(self) -> dict[str, Any] | None:
        """Return what an earlier run wrote into `pack.json` at its end, None if there was none.

        Raises `JobError` if the output holds anything else, or files were changed since.
        """
        if is_free(self.output):
            last = self.partial / MANIFEST
            if not last.is_file() or "files" not in self._parse(last):
                return None
            self._refuse_other_options(last)
            self._publish()  # the earlier run ended just before that
        path = self.output / MANIFEST
        if not path.is_file():
            raise JobError(
                f"{self.output} holds something other than packed records (it has no {MANIFEST}); "
                "choose another folder"
            )
        (self.output / _LOCK).unlink(missing_ok=True)  # the earlier run may have ended before that
        manifest = self._parse(path)
        self._refuse_other_options(path)
        with _parsing(path):
            files, _, _ = dict(manifest["files"]), manifest["digest"], dict(manifest["report"])
        for name, size in files.items():
            file = self.output / name
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes"
                raise JobError(
                    f"{file} {state}, expected {size} bytes; delete {self.output} and pack again"
                )
        return manifest

    @contextmanager
    def begun(self) -> Iterator[PackState]:
        """Hold the folder for this process, and yield how far an earlier run came in it.

        Raises `JobError` if another process holds it, or it belongs to another pack.
        """
        with writing(self.partial):
            self.partial.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(self.partial / _LOCK, wait=False))
            except BlockingIOError as error:
                raise JobError(
                    f"{self.partial} is in use: another process is packing into it; wait for it, "
                    "or choose another output"
                ) from error
            state = self._state()
            self._remove_later_files(state)
            try:
                yield state
            except BaseException:
                if state.written is None:  # nothing to continue from
                    shutil.rmtree(self.partial, ignore_errors=True)
                raise

    def _state(self) -> PackState:
        path = self.partial / MANIFEST
        if not path.is_file() and any(file.name != _LOCK for file in self.partial.iterdir()):
            raise JobError(
                f"{self.partial}, where records are made, is not an interrupted pack (it has no "
                f"{MANIFEST}); move it away or choose another output"
            )
        values = self._parse(path).get("progress") if path.is_file() else None
        if values is None:  # nothing was written, with these options or others
            self._write({"progress": None})
            return PackState()
        self._refuse_other_options(path)
        with _parsing(path):
            return PackState(
                int(values["consumed"]),
                str(values["digest"]),
                [(int(position), str(fault)) for position, fault in values["skipped"]],
                SetPosition.from_json(values["written"]),
            )

    def save(self, state: PackState, writer: RecordSetWriter) -> None:
        """Put everything that was written on the disk, and then how far that is."""
        state.written = writer.checkpoint()
        self._write({"progress": asdict(state)})

    def finish(self, metadata: dict[str, Any]) -> None:
        """Write `metadata` and the files' sizes, and rename the folder."""
        files = {
            path.name: path.stat().st_size
            for path in sorted(self.partial.iterdir())
            if path.name not in (MANIFEST, _LOCK)
        }
        self._write({**metadata, "files": files})
        self._publish()
        # Only now: who held a new one would start again in there.
        (self.output / _LOCK).unlink(missing_ok=True)

    def _publish(self) -> None:
        with writing(self.output):
            publish(self.partial, self.output)

    def _remove_later_files(self, state: PackState) -> None:
        """Remove what was made after the saved state: if fewer files come, it would stay."""
        last = -1 if state.written is None else state.written.shard
        for path in self.partial.iterdir():
            made = _RECORDS.match(path.name)
            if path.name not in (MANIFEST, _LOCK) and not (made and int(made[1] or 0) <= last):
                path.unlink()

    def _parse(self, path: Path) -> dict[str, Any]:
        with _parsing(path):
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            dict(found["options"])
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
        path = self.partial / MANIFEST
        with writing(path), atomic_write(path) as file:
            file.write(json.dumps({"options": self._options, **values}).encode("ascii"))


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Raise `JobError` where the content of `path` is not what was written there."""
    try:
        yield
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise JobError(
            f"{path} is not what a pack writes ({error!r}); delete {path.parent} and pack again"
        ) from error
