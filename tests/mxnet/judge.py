"""Compares RecordIO with MXNet itself, in both directions: `python -m tests.mxnet.judge`.

Needs an environment of its own on Python 3.11, made by `pip install -e '.[mxnet]'`. Both read and
write every dialect of `tests/fixtures/recordio` and some difficult records, and the results are
compared byte for byte; both decode the images. The exit status is 1 if anything differs.
"""

import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import mxnet
import numpy as np
from mxnet.recordio import IRHeader, MXIndexedRecordIO

from data.datasets.dataset import open_dataset
from data.loading.decode import decode_batch
from data.records.format import MAGIC_BYTES, pack_record, unpack_record
from data.records.reader import RecordFile
from data.records.writer import RecordWriter, write_face_records

DIALECTS = Path(__file__).parents[1] / "fixtures" / "recordio"
WITHOUT_HEADERS = ("multipart", "magic_everywhere")  # raw payloads

Records = Mapping[int, bytes]  # payloads by key, in the order of the file


class Difference(Exception):  # noqa: N818 - a result, not an error
    """Something that MXNet does differently."""


def main() -> int:
    """Run all checks; return the exit status."""
    checked, failed = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for name, records in all_records(Path(folder)).items():
            try:
                counts = judge(name, records, Path(folder) / name)
            except Difference as difference:
                failed += 1
                print(f"{name:<24} DIFFERS: {difference}")
            else:
                checked += 1
                print(f"{name:<24} {counts}")
    print(f"mxnet {mxnet.__version__}, numpy {np.__version__}: {checked} agree, {failed} differ")
    return 1 if failed or not checked else 0


def all_records(scratch: Path) -> dict[str, Records]:
    """Return the records of every dialect: those of MXNet's files, and some made here."""
    found: dict[str, Records] = {
        path.parent.name: read_ours(path) for path in sorted(DIALECTS.glob("*/train.rec"))
    }
    faces = found["insightface_header"]
    images = [unpack_record(faces[key]) for key in range(1, 25)]
    write_face_records(scratch / "faces", ((int(one.labels[0]), one.image) for one in images))
    found["written_face_layout"] = read_ours(scratch / "faces" / "train.rec")
    labels: list[float | list[float]] = [
        3.5,
        [1.0],
        [2.0, 1.0],
        [float(i) for i in range(9)],
        -1.0,
        2.0**24,
    ]
    image = bytes(images[0].image)
    found["written_labels_and_ids"] = {
        key: pack_record(label, 2**40 + key, image, id2=2**63 + key)
        for key, label in enumerate(labels, start=2**33)
    }
    rng = random.Random(0)
    pieces = [MAGIC_BYTES, b"\x0a\x23", b"\xd7\xce", b"a", b"bcd", b"efgh"]
    found["magic_everywhere"] = {
        key: b"".join(rng.choices(pieces, k=rng.randrange(1, 12)))
        for key in rng.sample(range(10**9), 500)
    }
    found["image_in_parts"] = {
        key: pack_record(key, key, image[: 100 + key] + MAGIC_BYTES * 3 + image[100 + key :])
        for key in range(8)
    }
    return found


def judge(name: str, records: Records, folder: Path) -> str:
    """Compare everything that can be done with some records; return in words what was compared.

    Raises `Difference`.
    """
    folder.mkdir()
    theirs, ours = folder / "theirs.rec", folder / "ours.rec"
    write_theirs(theirs, records)
    write_ours(ours, records)
    sources = {"written by mxnet": theirs, "written here": ours}
    fixture = DIALECTS / name / "train.rec"
    if fixture.exists():
        sources["the fixture"] = fixture
    for suffix in (".rec", ".idx"):
        same(
            f"{suffix} bytes", *(path.with_suffix(suffix).read_bytes() for path in sources.values())
        )
    for source, path in sources.items():
        same(f"{source}, read by mxnet", read_theirs(path), dict(records))
        same(f"{source}, read here", read_ours(path), dict(records))
    summary = f"{len(records)} records, {theirs.stat().st_size} bytes"
    if name in WITHOUT_HEADERS:
        return summary
    for key, payload in records.items():
        compare_headers(f"key {key}", payload)
    return f"{summary}, {compare_images(fixture)} images" if fixture.exists() else summary


def compare_headers(where: str, payload: bytes) -> None:
    """Compare how both unpack a payload and pack the result again."""
    header, image = mxnet.recordio.unpack(payload)
    record = unpack_record(payload)
    same(f"{where}, labels", np.ravel(header.label).tolist(), record.labels.tolist())
    same(f"{where}, ids", (header.id, header.id2), (record.id, record.id2))
    same(f"{where}, image", image, bytes(record.image))
    label = record.labels if record.is_list else float(record.labels[0])
    packed = mxnet.recordio.pack(IRHeader(0, label, record.id, record.id2), image)
    same(f"{where}, packed", packed, pack_record(label, record.id, image, id2=record.id2), payload)


def compare_images(path: Path) -> int:
    """Compare the pixels of a dataset's images, each at its own size; return their number."""
    dataset = open_dataset(path, remap_labels=True)
    for index in range(len(dataset)):
        theirs = mxnet.image.imdecode(bytes(dataset.encoded(index))).asnumpy()
        (ours,) = decode_batch(dataset, np.array([index]), theirs.shape[0])
        same(f"{dataset.describe(index)}, size", theirs.shape, ours.shape)
        worst = int(np.abs(theirs.astype(int) - ours).max())
        same(f"{dataset.describe(index)}, largest difference of a pixel", worst, 0)
    return len(dataset)


def write_theirs(path: Path, records: Records) -> None:
    """Write with MXNet."""
    writer = MXIndexedRecordIO(str(path.with_suffix(".idx")), str(path), "w")
    for key, payload in records.items():
        writer.write_idx(key, payload)
    writer.close()


def write_ours(path: Path, records: Records) -> None:
    """Write with this project."""
    with RecordWriter(path) as writer:
        for key, payload in records.items():
            writer.write(key, payload)


def read_theirs(path: Path) -> dict[int, bytes]:
    """Read all records with MXNet, by key and in the order of the index."""
    reader = MXIndexedRecordIO(str(path.with_suffix(".idx")), str(path), "r")
    return {key: reader.read_idx(key) for key in reader.keys}


def read_ours(path: Path) -> dict[int, bytes]:
    """Read all records here, by key and in the order of the file."""
    file = RecordFile(path)
    lines = path.with_suffix(".idx").read_text(encoding="ascii").splitlines()
    keys = {int(offset): int(key) for key, offset in (line.split("\t") for line in lines)}
    return {keys[offset]: bytes(file.read(offset)) for offset in file.scan().tolist()}


def same(what: str, *values: object) -> None:
    """Raise `Difference` unless all values are equal."""
    for value in values[1:]:
        if value != values[0]:
            raise Difference(f"{what}: {_short(values[0])} and {_short(value)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:80]}… ({type(value).__name__})"


if __name__ == "__main__":
    sys.exit(main())
