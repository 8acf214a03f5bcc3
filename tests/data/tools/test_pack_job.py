import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import data.files
import data.tools.pack_job
from data.tools.pack import BadFile, PackOptions, PackReport, pack_records
from data.tools.pack_job import MANIFEST, JobError, PackJob
from data.tools.record_set import Sharding
from tests.data.image_samples import contents, encode, people
from tests.launch import ROOT

COUNTS = {"Zoë": 3, "a b": 1, "c": 5}


def pack(source: Path, output: Path, *, skip_bad: bool = False, **options: Any) -> PackReport:
    return pack_records(source, output, PackOptions(**options), workers=1, skip_bad=skip_bad)


def test_a_pack_is_resumed_once_the_bad_file_is_replaced(tmp_path: Path) -> None:
    made = people(tmp_path / "in", {"a": 200, "b": 200})
    bad = tmp_path / "in" / "b" / "100.jpg"
    bad.write_bytes(b"bad")
    with pytest.raises(BadFile, match=r"b/100\.jpg .*b'bad'"):
        pack(tmp_path / "in", tmp_path / "out")
    bad.write_bytes(made["b/100.jpg"])
    report = pack(tmp_path / "in", tmp_path / "out")
    assert (report.images, report.resumed_at) == (400, 300)
    pack(tmp_path / "in", tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


def test_a_pack_is_resumed_without_what_stopped_it(tmp_path: Path) -> None:
    people(tmp_path / "in", {"a": 30})
    for number in (10, 20):
        (tmp_path / "in" / "a" / f"{number:03d}.jpg").write_bytes(b"bad")
    with pytest.raises(BadFile, match=r"010\.jpg"):
        pack(tmp_path / "in", tmp_path / "out")
    report = pack(tmp_path / "in", tmp_path / "out", skip_bad=True)
    assert (report.images, report.skipped, report.resumed_at) == (28, 2, 10)
    pack(tmp_path / "in", tmp_path / "whole", skip_bad=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


KILLED = """
import sys, time
from pathlib import Path
from data.tools.pack import PackOptions, pack_records
from data.tools.record_set import Sharding

def wait(done, total):
    if done >= {stop}:
        print("here", flush=True)
        time.sleep(600)

options = PackOptions({options})
pack_records(Path("in"), Path("out"), options, workers={workers}, checkpoint_seconds={seconds},
             skip_bad=True, progress=wait)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "stop", "seconds", "workers", "resumed"),
    [
        ("", 500, 0, 1, 512),
        ("", 500, 3600, 1, 0),  # before any checkpoint
        ("sharding=Sharding(shard_bytes=20_000)", 250, 0, 2, 256),
        ("layout='plain', shuffle=5, sharding=Sharding(shards=7)", 256, 0, 1, 256),
        ("size=8, encoding='png'", 600, 0, 1, 600),  # all is written
    ],
)
def test_a_killed_pack_is_resumed_to_the_same_bytes(
    options: str, stop: int, seconds: float, workers: int, resumed: int, tmp_path: Path
) -> None:
    people(tmp_path / "in", {"a": 250, "b": 50, "c": 300})
    for name in ("a/000.jpg", "b/010.jpg", "c/299.jpg"):
        (tmp_path / "in" / name).write_bytes(b"bad")
    code = KILLED.format(options=options, stop=stop, seconds=seconds, workers=workers)
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.kill()
    assert not (tmp_path / "out").exists()

    pack_options = eval(f"PackOptions({options})")
    report = pack_records(tmp_path / "in", tmp_path / "out", pack_options, workers=1, skip_bad=True)
    assert (report.images, report.skipped, report.resumed_at) == (597, 3, resumed)
    pack_records(tmp_path / "in", tmp_path / "whole", pack_options, workers=1, skip_bad=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def interrupt(source: Path, output: Path, stop: int, **options: Any) -> None:
    """Start a pack that ends when it has come to `stop` images."""

    def progress(done: int, total: int) -> None:
        if done >= stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_records(
            source,
            output,
            PackOptions(**options),
            workers=1,
            skip_bad=True,
            checkpoint_seconds=0,
            progress=progress,
        )


@pytest.mark.slow
@pytest.mark.parametrize("stop", [256, 512])
def test_shards_finished_after_the_checkpoint_are_made_again(stop: int, tmp_path: Path) -> None:
    people(tmp_path / "in", {"a": 300, "b": 300})
    options: dict[str, Any] = {"sharding": Sharding(shards=12)}
    interrupt(tmp_path / "in", tmp_path / "out", stop, **options)
    state = (tmp_path / "out.partial" / MANIFEST).read_bytes()
    interrupt(tmp_path / "in", tmp_path / "out", 600, **options)
    # As a kill leaves it just before a checkpoint: the files are ahead of what is written down.
    (tmp_path / "out.partial" / MANIFEST).write_bytes(state)
    report = pack(tmp_path / "in", tmp_path / "out", **options)
    assert report.resumed_at == stop
    pack(tmp_path / "in", tmp_path / "whole", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_files_made_after_the_saved_state_are_removed(tmp_path: Path) -> None:
    people(tmp_path / "in", {"a": 300, "b": 300})
    options: dict[str, Any] = {"sharding": Sharding(shard_bytes=20_000)}
    interrupt(tmp_path / "in", tmp_path / "out", 256, **options)
    state = (tmp_path / "out.partial" / MANIFEST).read_bytes()
    interrupt(tmp_path / "in", tmp_path / "out", 600, **options)
    (tmp_path / "out.partial" / MANIFEST).write_bytes(state)
    shutil.rmtree(tmp_path / "in" / "b")
    pack(tmp_path / "in", tmp_path / "out", **options)
    pack(tmp_path / "in", tmp_path / "whole", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_whole_pack_that_only_lacks_its_name_gets_it(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    pack(tmp_path / "in", tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.partial")
    assert not pack(tmp_path / "in", tmp_path / "out").made
    assert contents(tmp_path / "out") == before


def change_earlier(source: Path) -> None:
    (source / "a" / "001.jpg").write_bytes(encode(seed=99))


def remove_earlier(source: Path) -> None:
    (source / "a" / "001.jpg").unlink()


def remove_later(source: Path) -> None:
    (source / "b" / "299.jpg").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "options", "named"),
    [
        (change_earlier, {}, " 512 "),
        (remove_earlier, {}, " 512 "),
        (remove_later, {"sharding": Sharding(shards=4)}, "images 600 .*599 "),
        (None, {"size": 8}, r"size None .*8 "),
        (None, {"sharding": Sharding(shards=3)}, "'shards': None.*'shards': 3"),
    ],
)
def test_resuming_with_something_else_is_refused(
    change: Callable[[Path], None] | None,
    options: dict[str, Any],
    named: str,
    tmp_path: Path,
) -> None:
    people(tmp_path / "in", {"a": 300, "b": 300})
    first = {} if change is None else options
    interrupt(tmp_path / "in", tmp_path / "out", 300, **first)
    if change is not None:
        change(tmp_path / "in")
    with pytest.raises(JobError, match=rf"{tmp_path}/out\.partial.*{named}"):
        pack(tmp_path / "in", tmp_path / "out", **options)


def test_nothing_is_left_of_a_pack_that_never_started(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    with pytest.raises(ValueError, match=r"9 .* 10 "):
        pack(tmp_path / "in", tmp_path / "out", sharding=Sharding(shards=10))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_pack_killed_before_it_started_may_be_resumed_with_other_options(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    (tmp_path / "out.partial").mkdir()
    manifest = {"options": {"layout": "plain"}, "progress": None}
    (tmp_path / "out.partial" / MANIFEST).write_text(json.dumps(manifest))
    assert pack(tmp_path / "in", tmp_path / "out").resumed_at == 0


def test_resuming_without_leaving_out_bad_files_is_refused(tmp_path: Path) -> None:
    people(tmp_path / "in", {"a": 300})
    (tmp_path / "in" / "a" / "001.jpg").write_bytes(b"bad")
    interrupt(tmp_path / "in", tmp_path / "out", 256)
    with pytest.raises(JobError, match=r"out\.partial.* 1 .*--skip-bad"):
        pack(tmp_path / "in", tmp_path / "out")


def test_two_packs_into_one_folder_are_refused(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)

    def again(done: int, total: int) -> None:
        with pytest.raises(JobError, match=r"out\.partial "):
            pack(tmp_path / "in", tmp_path / "out")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_records(tmp_path / "in", tmp_path / "out", PackOptions(), workers=1, progress=again)
    pack(tmp_path / "in", tmp_path / "out")


def test_a_pack_is_locked_until_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(tmp_path / "in", COUNTS)
    publish = data.files.publish

    def late(partial: Path, output: Path) -> None:
        other = PackJob(output, {})  # was started before the pack was finished
        with pytest.raises(JobError, match=r"out\.partial "), other.begun():
            pass
        publish(partial, output)

    monkeypatch.setattr(data.tools.pack_job, "publish", late)
    assert pack(tmp_path / "in", tmp_path / "out").made
    before = contents(tmp_path / "out")
    assert ".lock" not in before
    (tmp_path / "out" / ".lock").touch()  # killed before it was removed
    assert not pack(tmp_path / "in", tmp_path / "out").made
    assert contents(tmp_path / "out") == before


def test_a_finished_pack_is_left_alone(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    pack(tmp_path / "in", tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert pack(tmp_path / "in", tmp_path / "out") == PackReport(9, 3, 0, 9, made=False)
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with pytest.raises(JobError, match=r"quality 95 .*90 "):
        pack(tmp_path / "in", tmp_path / "out", quality=90)
    change_of_source = tmp_path / "in" / "c" / "new.jpg"
    change_of_source.write_bytes(encode())
    with pytest.raises(JobError, match=rf"{tmp_path}/out .*{tmp_path}/in "):
        pack(tmp_path / "in", tmp_path / "out")
    change_of_source.unlink()
    (tmp_path / "out" / "train.idx").write_bytes(b"")
    with pytest.raises(JobError, match=r"train\.idx .* 0 bytes, .*\d+ bytes"):
        pack(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", ["out", "out.partial"])
def test_other_contents_are_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("precious")
    with pytest.raises(JobError, match=f"{tmp_path / name}.*{MANIFEST}"):
        pack(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / name / "mine.txt").read_text() == "precious"


def test_a_finished_manifest_without_a_part_is_named(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    pack(tmp_path / "in", tmp_path / "out")
    manifest = tmp_path / "out" / MANIFEST
    values = json.loads(manifest.read_text())
    for name in ("files", "digest", "report"):
        manifest.write_text(
            json.dumps({key: value for key, value in values.items() if key != name})
        )
        with pytest.raises(JobError, match=rf"{manifest} .*{name}"):
            pack(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"consumed": "some"},
        {"skipped": [[1]]},
        {"written": None},
        {"written": {"shard": 0, "stop": 3}},
        {"written": {"shard": 0, "stop": 3, "file": {"rec_bytes": None}}},
    ],
)
def test_a_broken_manifest_of_an_interrupted_pack_is_named(
    change: dict[str, Any], tmp_path: Path
) -> None:
    people(tmp_path / "in", {"a": 2, "b": 200})
    (tmp_path / "in" / "b" / "199.jpg").write_bytes(b"none")
    with pytest.raises(BadFile):
        pack_records(
            tmp_path / "in", tmp_path / "out", PackOptions(), workers=1, checkpoint_seconds=0
        )
    manifest = tmp_path / "out.partial" / MANIFEST
    values = json.loads(manifest.read_text())
    values["progress"] |= change
    manifest.write_text(json.dumps(values))
    with pytest.raises(JobError, match=str(manifest)):
        pack(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[1]", '{"files": {}}', "[" * 100_000])
def test_a_broken_manifest_is_named(text: str, tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text(text)
    with pytest.raises(JobError, match=str(tmp_path / "out" / MANIFEST)):
        pack(tmp_path / "in", tmp_path / "out")
