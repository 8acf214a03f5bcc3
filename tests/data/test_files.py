import os
import pickle
import stat
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from data.files import Array, ArrayFile, ArrayFileError, array_file_writer, write_atomically

ARRAYS: dict[str, Array] = {
    "offsets": np.arange(0, 700, 7),
    "none": np.empty(0, np.int32),
    "labels": np.arange(100, dtype=np.int32) % 13,
    "bytes": np.frombuffer(b"abc", np.uint8),
}
FACTS = {"text": "ß", "numbers": [1, 2**53, None]}


def write_array_file(path: Path, arrays: dict[str, Array], facts: dict[str, Any]) -> None:
    write_atomically(path, array_file_writer(arrays, facts))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_array_file(tmp_path / "x.cache", ARRAYS, FACTS)
    return tmp_path / "x.cache"


def test_arrays_and_facts_come_back(path: Path) -> None:
    file = ArrayFile(path)
    assert file.facts == FACTS
    assert list(file.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert file.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(file.arrays[name], array)


def test_arrays_are_mapped_aligned_and_read_only(path: Path) -> None:
    for array in ArrayFile(path).arrays.values():
        assert not array.flags.writeable
        assert array.ctypes.data % 64 == 0 or not array.size
    with pytest.raises(ValueError, match="read-only"):
        ArrayFile(path).arrays["labels"][0] = 1


def test_a_pickle_holds_the_path_and_maps_the_same_file(path: Path) -> None:
    pickled = pickle.dumps(ArrayFile(path))
    assert len(pickled) < 300
    copy = pickle.loads(pickled)
    np.testing.assert_array_equal(copy.arrays["offsets"], ARRAYS["offsets"])


def test_a_file_with_other_arrays_by_then_is_refused(path: Path) -> None:
    pickled = pickle.dumps(ArrayFile(path))
    write_array_file(path, ARRAYS, {"other": "facts"})
    assert pickle.loads(pickled).facts == {"other": "facts"}
    write_array_file(path, {"offsets": np.arange(3)}, {})
    with pytest.raises(ArrayFileError, match=r"x\.cache was written again while in use"):
        pickle.loads(pickled)


def test_a_flipped_byte_anywhere_and_a_cut_anywhere_are_found(path: Path) -> None:
    whole = path.read_bytes()
    for place in [*range(24), *range(24, len(whole), 41)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        for content in (damaged, whole[:place]):
            path.write_bytes(content)
            with pytest.raises(ArrayFileError, match=r"x\.cache (is damaged|starts with)"):
                ArrayFile(path)


def test_what_fails_to_be_written_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        write_atomically(path, fail)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_name_appears_when_the_content_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.cache"
    waited: list[tuple[int, bool]] = []

    def sync(handle: int) -> None:
        waited.append((os.fstat(handle).st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    write_array_file(path, ARRAYS, FACTS)
    assert waited == [(path.stat().st_size, False)]


def test_a_file_beside_shared_data_is_readable_by_all_that_the_umask_lets(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_array_file(tmp_path / "x.cache", ARRAYS, {})
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "x.cache").stat().st_mode) == 0o640


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.cache"
    large: dict[str, Array] = {"numbers": np.arange(100_000)}
    threads = [
        threading.Thread(target=write_array_file, args=(path, large, FACTS)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ArrayFile(path).arrays["numbers"].tolist() == large["numbers"].tolist()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.cache"]
