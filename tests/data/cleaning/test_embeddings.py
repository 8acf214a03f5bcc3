import resource
from pathlib import Path

import numpy as np

from data.cleaning.embeddings import MAPPED, EmbeddingFiles, row_type

SIZE = 4


def test_more_files_are_read_than_may_be_open(tmp_path: Path) -> None:
    count = MAPPED + 100
    files = [tmp_path / f"{number}.npy" for number in range(count)]
    for number, file in enumerate(files):
        rows = np.zeros(2, row_type(SIZE))
        rows["embedding"][:, number % SIZE] = 3
        rows["hash"], rows["good"] = number, number % 2 == 0
        np.save(file, rows)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + MAPPED + 50, hard))
    try:
        found = EmbeddingFiles(files)
        wanted = np.array([2 * count - 1, 0, 5, 5])
        unit = found.take(wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (len(found), found.size) == (2 * count, SIZE)
    assert np.array_equal(unit, np.eye(SIZE, dtype=np.float32)[wanted // 2 % SIZE])
    assert found.hashes.tolist() == np.repeat(np.arange(count), 2).tolist()
    assert found.good[:4].tolist() == [True, True, False, False]
