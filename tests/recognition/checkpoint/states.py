"""A small state with known values, for the tests of checkpoints."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from recognition.checkpoint import Checkpoints, Rows, ShardedRows, State
from recognition.checkpoint.manifest import FileDigest, write_metadata
from recognition.checkpoint.rows import CHUNK_BYTES
from recognition.distributed import World, shard_range

FIXTURES = Path(__file__).parents[2] / "fixtures" / "checkpoints"
CLASSES = 9  # on 4 ranks: 3, 3, 3 and an empty shard


class TensorRows:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.shape, self.dtype = tensor.shape, tensor.dtype

    def read(self, start: int, stop: int) -> Tensor:
        return self.tensor[start:stop]

    def write(self, start: int, rows: Tensor) -> None:
        assert rows.dtype == self.dtype
        self.tensor[start : start + len(rows)] = rows


def table(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(len(name))
    return torch.randn(CLASSES, 5, generator=generator)


def make_state(
    world: World,
    *,
    empty: bool = False,
    whole: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    rows: Callable[[Tensor], Rows] = TensorRows,
) -> State:
    """Return a state with known values, or the same shapes with zeros.

    The ranks have some of the rows each, or the `whole` table.
    """
    start, stop = (0, CLASSES) if whole else shard_range(CLASSES, world.size, world.rank)
    factor = 0.0 if empty else 1.0
    return State(
        backbone={"layer.weight": torch.arange(6.0).view(2, 3) * factor},
        replicated={"optimizer.layer.weight.momentum_buffer": torch.full((2, 3), 7.0) * factor},
        rows={
            name: ShardedRows(rows(table(name)[start:stop] * factor), CLASSES, start, chunk_bytes)
            for name in ("head.weight", "head.momentum")
        },
        metadata={"progress": {"step": 3}},
    )


def checkpoints(output: Path, world: World | None = None, keep: int = 2) -> Checkpoints:
    return Checkpoints(output, world=world or World(), keep=keep)


def save_steps(output: Path, *steps: int, keep: int = 2, best: int = 0) -> list[Path]:
    """Save steps on one rank; return their folders."""
    writer = checkpoints(output, keep=keep)
    return [writer.save(step, make_state(World()), best=step == best) for step in steps]


def assert_loaded(
    state: State, world: World, *, whole: bool = False, relative: float = 0.0
) -> None:
    """Compare with what `make_state` makes; `relative` allows for random numbers' last bits."""
    expected = make_state(world, whole=whole)
    close = partial(torch.testing.assert_close, rtol=relative, atol=0.0)
    for name, rows in state.rows.items():
        close(values(rows), values(expected.rows[name]))
    for name, tensor in [*state.backbone.items(), *state.replicated.items()]:
        wanted = {**expected.backbone, **expected.replicated}[name]
        close(tensor, wanted)


def values(rows: ShardedRows) -> Tensor:
    return rows.local.read(0, rows.local.shape[0])


def flip_bit(file: Path, byte: int = -1) -> None:
    """Change one bit of a file; by default of its middle."""
    data = bytearray(file.read_bytes())
    data[byte if byte >= 0 else len(data) // 2] ^= 4
    file.write_bytes(data)


def reseal(folder: Path) -> None:
    """Write sizes, hashes and checksum anew, as an attacker can."""
    import xxhash

    metadata = json.loads((folder / "run.json").read_text())
    del metadata["checksum"]
    found = {}
    for name in metadata.pop("files"):
        data = (folder / name).read_bytes()
        found[name] = FileDigest(len(data), xxhash.xxh3_128_hexdigest(data))
    (folder / "run.json").unlink()
    write_metadata(folder, metadata, found)
