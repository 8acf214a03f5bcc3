"""Damaged and hostile weight files: each is refused in one line, or holds what was saved."""

import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones import build_backbone, read_weights
from tests.launch import ROOT

SAVED = {"a.weight": torch.arange(40.0).reshape(8, 5), "a.count": torch.tensor(3)}
HUGE = 3 << 30  # numbers; 12 GiB as float32


def _refused(path: Path) -> str:
    with pytest.raises(ValueError, match=path.name) as caught:
        read_weights(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert "weights_only" not in message  # torch's advice to run the file
    return message


def _equal(weights: dict[str, Tensor]) -> bool:
    return list(weights) == list(SAVED) and all(
        torch.equal(weights[name], SAVED[name]) for name in SAVED
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_both_formats_of_torch_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, legacy: bool, protocol: int
) -> None:
    torch.save(
        SAVED,
        tmp_path / "w.pt",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )
    weights = read_weights(tmp_path / "w.pt")
    assert _equal(weights)
    assert [value.dtype for value in weights.values()] == [torch.float32, torch.int64]
    assert bool(caplog.records) == legacy  # it has no checksums


def test_views_of_one_storage_and_parameters_are_read(tmp_path: Path) -> None:
    table = torch.arange(12.0).reshape(3, 4)
    saved = {
        "t": table.T,
        "row": table[1],
        "p": torch.nn.Parameter(table[:2]),
        "empty": torch.zeros(0, 4),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    torch.save(saved, tmp_path / "w.pt")
    weights = read_weights(tmp_path / "w.pt")
    assert all(torch.equal(weights[name], saved[name]) for name in saved)


def _mutate(data: bytes, choose: random.Random) -> bytes:
    at, length = choose.randrange(len(data)), choose.randrange(1, 400)
    changed = bytearray(data)
    match choose.randrange(6):
        case 0 | 1:
            changed[at] ^= 1 << choose.randrange(8)
        case 2:
            del changed[at:]
        case 3:
            changed[at : at + length] = bytes(len(changed[at : at + length]))
        case 4:
            changed[at:at] = choose.randbytes(length % 9)
        case 5:
            source = choose.randrange(len(data))
            changed[at : at + length] = data[source : source + length]
    return bytes(changed)


@pytest.mark.parametrize("legacy", [False, True])
def test_damage_is_refused(tmp_path: Path, legacy: bool) -> None:
    """A zip archive never loads with other numbers; the older format has no checksum."""
    path, choose, refused = tmp_path / "w.pt", random.Random(0), 0
    torch.save(SAVED, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    for _ in range(300):
        path.write_bytes(_mutate(data, choose))
        try:
            weights = read_weights(path)
        except ValueError:
            refused += 1
            _refused(path)
        else:
            assert legacy or _equal(weights)
    assert refused > 150


# Pickles are put together by hand: Python's pickler refuses to write hostile ones.
def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _number(value: int) -> bytes:
    data = value.to_bytes(20, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _numbers(*values: int) -> bytes:
    return _tuple(*map(_number, values))


def _name(full: str) -> bytes:
    return b"c" + "{}\n{}\n".format(*full.rsplit(".", 1)).encode()


def _call(function: str, *arguments: bytes) -> bytes:
    return _name(function) + _tuple(*arguments) + b"R"


def _dict(*items: bytes) -> bytes:
    return b"}(" + b"".join(items) + b"u"


def _storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    items = _text("storage"), _name(f"torch.{kind}"), _text(key), _text("cpu"), _number(count)
    return _tuple(*items) + b"Q"


def _tensor(count: int, offset: int, size: bytes, stride: bytes, **storage: str) -> bytes:
    hooks = _call("collections.OrderedDict")
    return _call(
        "torch._utils._rebuild_tensor_v2",
        _storage(count, **storage), _number(offset), size, stride, b"\x89", hooks,
    )  # fmt: skip


def _archive(path: Path, content: bytes, *, size: int = 40, method: int = 0) -> Path:
    """Write an archive with one storage of `size` zero bytes, and `content` as its pickle."""
    with zipfile.ZipFile(path, "w", compression=method) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("a/data/0", bytes(size))
    return path


def test_archives_made_by_hand_are_read(tmp_path: Path) -> None:
    """Or the refusals below would show nothing."""
    content = _dict(_text("w"), _tensor(10, 1, _numbers(3, 2), _numbers(3, 1)))
    weights = read_weights(_archive(tmp_path / "w.pt", content))
    assert torch.equal(weights["w"], torch.zeros(3, 2))


WRONG_TENSORS = {
    "too large a storage": _tensor(HUGE, 0, _numbers(10), _numbers(1)),
    "a huge storage": _tensor(HUGE, 0, _numbers(HUGE), _numbers(1)),
    "a storage of 2 to the 70": _tensor(2**70, 0, _numbers(2**70), _numbers(1)),
    "a negative storage": _tensor(-10, 0, _numbers(10), _numbers(1)),
    "too small a storage": _tensor(5, 0, _numbers(5), _numbers(1)),
    "an expanded tensor": _tensor(10, 0, _numbers(HUGE), _numbers(0)),
    "overlapping rows": _tensor(10, 0, _numbers(5, 5), _numbers(1, 1)),
    "a tensor beyond its storage": _tensor(10, 0, _numbers(11), _numbers(1)),
    "an offset beyond it": _tensor(10, 8, _numbers(3), _numbers(1)),
    "a negative offset": _tensor(10, -1, _numbers(3), _numbers(1)),
    "a negative shape": _tensor(10, 0, _numbers(-1, -1), _numbers(1, 1)),
    "a negative stride": _tensor(10, 5, _numbers(3), _numbers(-1)),
    "numbers that overflow": _tensor(10, 0, _numbers(2**62, 4), _numbers(2**62, 1)),
    "an empty one that overflows": _tensor(10, 0, _numbers(2**80, 0), _numbers(1, 1)),
    "fewer strides": _tensor(10, 0, _numbers(3, 3), _numbers(1)),
    "many dimensions": _tensor(10, 0, _numbers(*[1] * 70), _numbers(*[1] * 70)),
    "a shape of text": _tensor(10, 0, _tuple(_text("3")), _numbers(1)),
    "a storage that is not there": _tensor(10, 0, _numbers(10), _numbers(1), key="7"),
    "a storage elsewhere": _tensor(10, 0, _numbers(10), _numbers(1), key="../data.pkl"),
    "an unknown type": _tensor(10, 0, _numbers(10), _numbers(1), kind="QInt8Storage"),
    "a number": _number(3),
    "a program": _call("os.system", _text("touch executed")),
    "a parameter of a program": _call(
        "torch._utils._rebuild_parameter", _call("os.system", _text("touch executed")), b"\x89"
    ),
    "a sparse tensor": _call("torch._utils._rebuild_sparse_tensor", _numbers(1)),
    "a huge bytearray": _call("builtins.bytearray", _number(4 * HUGE)),
    "a huge tensor": _call("torch.FloatTensor", _number(HUGE)),
}


@pytest.mark.parametrize("tensor", WRONG_TENSORS.values(), ids=WRONG_TENSORS)
def test_wrong_tensors_are_refused(
    tmp_path: Path, tensor: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _refused(_archive(tmp_path / "w.pt", _dict(_text("w"), tensor)))
    assert os.listdir(tmp_path) == ["w.pt"]


ONE = _tensor(10, 0, _numbers(10), _numbers(1))
WRONG_PICKLES = {
    "nothing": b"N",
    "no weights": b"}",
    "a list": b"](" + ONE + b"e",
    "a program": _call("os.system", _text("touch executed")),
    "a dict in itself": b"}q\x00" + _text("model") + b"h\x00s",
    "a huge memo index": b"}r\xff\xff\xff\xff" + _text("w") + _number(3) + b"s",
    "a key that takes years to hash": b"}" + b")q\x00" + b"h\x00h\x00\x86q\x00" * 80 + b"Ns",
    "a key of many parts": b"}" + b")" + b"\x85" * 250_000 + b"Ns",
    "too many opcodes": b"]" * 310_000,
    "text that is not there": b"X\xff\xff\xff\x7f",
    "bytes that are not there": b"B\xff\xff\xff\x7f",
    "an empty stack": b"",
    "a name of another line": _dict(_text("w\nerror: none"), ONE),
    "a long name": _dict(_text("w" * 10_000), ONE),
    "an item put into text": _text("w") + _text("x") + ONE + b"s",
}


@pytest.mark.parametrize("content", WRONG_PICKLES.values(), ids=WRONG_PICKLES)
def test_wrong_pickles_are_refused(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _refused(_archive(tmp_path / "w.pt", content))
    assert os.listdir(tmp_path) == ["w.pt"]


def test_a_program_next_to_the_weights_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = _call("os.system", _text("touch executed"))
    content = _dict(_text("args"), program, _text("state_dict"), _dict(_text("w"), ONE))
    assert list(read_weights(_archive(tmp_path / "w.pt", content))) == ["w"]
    assert os.listdir(tmp_path) == ["w.pt"]


def test_archives_that_torch_does_not_write_are_refused(tmp_path: Path) -> None:
    path, content = tmp_path / "w.pt", _dict(_text("w"), ONE)
    _refused(_archive(path, content, method=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(_archive(path, content), "a") as archive:
        archive.writestr("b/data.pkl", b"N.")
    _refused(path)
    with zipfile.ZipFile(_archive(path, content), "a") as archive:
        archive.writestr("a/byteorder", b"big")
    _refused(path)
    # The directory says that a storage has the name, and so the numbers, of another.
    torch.save({"a": torch.ones(3), "b": torch.zeros(3)}, path)
    data, start = path.read_bytes(), path.read_bytes().index(b"PK\x01\x02")
    directory = data[start:].replace(b"/data/0", b"/data/_").replace(b"/data/1", b"/data/0")
    path.write_bytes(data[:start] + directory.replace(b"/data/_", b"/data/1"))
    _refused(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    files = {
        "empty.pt": b"",
        "text.pt": b"weights\n",
        "torch.pt": pickle.dumps(SAVED["a.weight"].tolist()),
        "net.safetensors": struct.pack("<Q", len(header)) + header + bytes(4),
        "net.onnx": b"\x08\x0a\x12\x07pytorch\x1a\x051.0.0" + bytes(80),
        "short.pt": b"PK\x03\x04",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        _refused(tmp_path / name)
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "pipe.pt")
    for name in ("folder.pt", "pipe.pt", "missing.pt", "empty.pt/w.pt"):
        _refused(tmp_path / name)
    assert "does not exist" in _refused(tmp_path / "missing.pt")
    _refused(tmp_path / ("x" * 300))


def _claiming(path: Path) -> None:
    """Change the sizes in an archive's directory to 12 GB."""
    data = path.read_bytes().replace(struct.pack("<I", 2_000_000), struct.pack("<I", 4_000_000_000))
    path.write_bytes(data)


def _write_bombs(folder: Path) -> None:
    """Write files of at most 3 MB whose tensors or entries ask for 12 GB."""
    for number, tensor in enumerate(WRONG_TENSORS.values()):
        _archive(folder / f"tensor{number}.pt", _dict(_text("w"), tensor))
    for number, content in enumerate(WRONG_PICKLES.values()):
        _archive(folder / f"pickle{number}.pt", content)
    torch.save(torch.zeros(3), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    data = (folder / "legacy.pt").read_bytes()
    content = _dict(_text("w"), _tensor(HUGE, 0, _numbers(HUGE), _numbers(1)))
    start = data.index(b"\x80\x02c")
    (folder / "legacy.pt").write_bytes(
        data[:start] + b"\x80\x02" + content + b"." + b"\x80\x02](" + _text("0") + b"e."
        + struct.pack("<q", HUGE)
    )  # fmt: skip
    with zipfile.ZipFile(folder / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + _dict(_text("w"), ONE) + b".")
        with archive.open("a/data/0", "w", force_zip64=True) as stream:
            for _ in range(8):
                stream.write(bytes(50 << 20))
    content = _dict(_text("w"), _tensor(500_000, 0, _numbers(500_000), _numbers(1)))
    _claiming(_archive(folder / "claiming.pt", content, size=2_000_000))


# Reads all files below the current folder within 1 GiB, and prints how much memory that took.
READ_ALL = """
import resource, sys
from pathlib import Path
from backbones import build_for_weights, read_weights
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        build_for_weights(read_weights(path), path.name)
    except ValueError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_small_files_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    _write_bombs(tmp_path)
    # The embedding size is read there: 100,000 numbers ask for a last layer of 5 GB.
    weights = build_backbone("r18", embedding_size=8, image_size=16).state_dict()
    torch.save(
        {name: torch.zeros(100_000 if name.startswith("features.") else 1) for name in weights},
        tmp_path / "embedding.pt",
    )
    files = list(tmp_path.iterdir())
    assert max(path.stat().st_size for path in files) < 3_000_000
    run = [sys.executable, "-c", READ_ALL, str(tmp_path)]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    *refusals, mebibytes = ended.stdout.splitlines()
    assert len(refusals) == len(files)
    assert "MemoryError" not in ended.stdout
    assert int(mebibytes) < 300
