"""DALI against the decoder on the CPU: the same batches, and the same errors for bad images."""

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from data.loading.choose_decoder import choose_decoder
from data.loading.cpu_decoder import CpuDecoder
from data.loading.decode import BadImage
from data.loading.loader import Batch, Loader
from data.order.orders import GlobalOrder
from data.records.format import RecordError
from tests.data.image_samples import encode as encode_sample
from tests.data.loading.memory import MemoryDataset
from tests.launch import ROOT, train_well
from tests.test_train import interrupted, metrics

pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI, pip install -e '.[dali]'")

from data.loading.dali_decoder import DaliDecoder, is_whole_jpeg

pytestmark = pytest.mark.slow

SIDE = 48
CPU = torch.device("cpu")
TASKS = Path("/proc/self/task")  # the native threads of this process too


def encode(seed: int, kind: str = "JPEG", *, size: int = SIDE, **options: Any) -> bytes:
    """Return an image with smooth parts, edges and noise, a different one for every seed."""
    if kind == "JPEG":
        options.setdefault("quality", 75)
    return encode_sample(kind, seed=seed, size=size, noise=9, **options)


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


FOR_DALI = [
    encode(0, quality=90, subsampling=0),
    encode(1, quality=90, subsampling=1),
    encode(2, quality=90, subsampling=2),
    encode(3, quality=40, subsampling=2, progressive=True),
    encode(4, quality=75, optimize=True),
    encode(5, quality=90, mode="L"),
    encode(6, quality=90, mode="L", progressive=True),
    encode(7, restart_marker_blocks=2),
    encode(8, exif=rotated()),
    encode(9, quality=100, keep_rgb=True),
    simplejpeg.encode_jpeg(np.full((SIDE, SIDE, 3), 90, np.uint8), colorsubsampling="440"),
]
FOR_CPU = [
    encode(20, "PNG"),
    encode(21, "BMP"),
    encode(22, "WEBP"),
    encode(23, size=SIDE + 16),
    encode(24, size=SIDE - 13, mode="L"),
    encode(25, mode="CMYK"),
    encode(26) + b"\0\0\0",
]


def spoilt(seed: int, at: int, value: int) -> bytes:
    image = bytearray(encode(seed))
    image[at] ^= value
    return bytes(image)


def holed() -> bytes:
    """Return a JPEG with zeros in place of a block after its header."""
    image = encode(30)
    start = image.index(b"\xff\xda") + 30
    return image[:start] + bytes(64) + image[start + 64 :]


BAD = [
    b"\xff\xd8 no image",
    b"",
    encode(31)[:-40],
    holed(),
    spoilt(32, 24, 1),  # the size of a table: the header is readable, but DALI refuses it
    encode(33, "PNG")[:90],
]


MIXED = (FOR_DALI + FOR_CPU) * 2 + FOR_DALI


def load(
    decoder: str,
    images: list[bytes] = MIXED,
    *,
    device: torch.device = CPU,
    **options: Any,
) -> Loader:
    data = MemoryDataset(images)
    defaults: dict[str, Any] = {"global_batch_size": 11, "order": GlobalOrder(len(data), seed=2)}
    return Loader(
        data, image_size=SIDE, decoder=choose_decoder(decoder, device), **defaults | options
    )  # fmt: skip


def assert_same(one: Batch, other: Batch) -> None:
    for name in ("images", "labels", "indices", "epochs"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert one.images.is_contiguous(memory_format=torch.channels_last)
    assert one.bad == other.bad


def threads() -> int:
    return len(list(TASKS.iterdir()))


@contextmanager
def all_threads_end() -> Iterator[None]:
    before = threads()
    yield
    end = time.monotonic() + 30
    while threads() > before and time.monotonic() < end:
        time.sleep(0.01)  # a thread that has ended is still listed for a moment
    assert threads() == before


def test_dali_is_given_what_it_decodes_to_the_same_pixels() -> None:
    assert [is_whole_jpeg(image, SIDE) for image in FOR_DALI] == [True] * len(FOR_DALI)
    assert [is_whole_jpeg(image, SIDE) for image in FOR_CPU] == [False] * len(FOR_CPU)
    assert [is_whole_jpeg(image, SIDE) for image in BAD] == [False] * 4 + [True, False]


@pytest.mark.parametrize("images", [FOR_DALI, FOR_CPU, MIXED], ids=["dali", "cpu", "mixed"])
def test_every_kind_of_image_has_the_same_pixels(
    images: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    count = len(images)
    batches = (
        load(name, images, global_batch_size=count).batches(0, 1) for name in ("dali", "cpu")
    )
    for one, other in zip(*batches, strict=True):
        assert_same(one, other)
    assert not caplog.records


def test_dali_does_not_see_damage_without_a_sign() -> None:
    image = spoilt(40, encode(40).index(b"\xff\xda") + 60, 0x55)
    with pytest.raises(BadImage, match=r"^memory, image 0: "):
        next(load("cpu", [image], global_batch_size=1).batches(0, 1))
    (batch,) = load("dali", [image], global_batch_size=1).batches(0, 1)
    assert not batch.bad, "DALI has decoded it"


@pytest.mark.parametrize(
    ("world_size", "accumulation", "workers"), [(1, 1, 1), (2, 1, 2), (1, 3, 3), (2, 2, 1)]
)
def test_batches_are_the_same_from_any_step_on(
    world_size: int, accumulation: int, workers: int
) -> None:
    sizes = set()
    for rank in range(world_size):
        cut: dict[str, Any] = {
            "rank": rank, "world_size": world_size, "accumulation": accumulation
        }  # fmt: skip
        whole = list(load("cpu", **cut).batches(0, 9))
        ours = load("dali", workers=workers, **cut)
        for first in (0, 4):
            found = list(ours.batches(first, 9))
            for one, other in zip(found, whole[first * accumulation :], strict=True):
                assert_same(one, other)
        sizes |= {len(batch) for batch in whole}
        assert len(set(np.concatenate([batch.epochs for batch in whole]))) > 1
    assert len(sizes) == (1 if accumulation == world_size == 1 else 2)


def load_bad(decoder: str, bad: list[bytes], **options: Any) -> Loader:
    """Return a loader whose first images are bad and whose last one cannot be read."""
    images = [*bad, *FOR_DALI, *FOR_CPU, b""]
    last = len(images) - 1
    data = MemoryDataset(images, errors={last: RecordError(f"memory, image {last}: unreadable")})
    order = GlobalOrder(len(data), seed=2)
    return Loader(
        data, image_size=SIDE, order=order, decoder=choose_decoder(decoder, CPU), **options
    )  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
@pytest.mark.parametrize("batch_size", [4, 20])
def test_a_bad_image_is_the_same_error(number: int, batch_size: int) -> None:
    found = []
    for name in ("cpu", "dali"):
        loader = load_bad(name, [BAD[number]], global_batch_size=batch_size, workers=2)
        delivered: list[Batch] = []
        with pytest.raises(ValueError, match=r"^memory, image \d+: ") as caught:
            delivered.extend(loader.batches(0, 8))
        found.append((len(delivered), type(caught.value), str(caught.value)))
    assert found[0] == found[1]


def test_the_first_bad_image_of_a_batch_is_reported_whichever_is_decoded_first() -> None:
    count = 1 + len(FOR_DALI) + len(FOR_CPU) + 1
    reported = set()
    for step in range(6):
        for name in ("cpu", "dali"):
            loader = load_bad(name, [BAD[4]], global_batch_size=count)
            first = next(i for i in loader.spec(step, 0).indices if i in (0, count - 1))
            with pytest.raises(ValueError, match=rf"^memory, image {first}: "):
                next(loader.batches(step, step + 1))
            reported.add(first)
    assert len(reported) == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_bad_images_have_the_same_replacements(
    workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {
        "replacement_seed": 3, "max_bad_share": 1.0, "global_batch_size": 7
    }  # fmt: skip
    whole = list(load_bad("cpu", BAD, **options).batches(0, 8))
    ours = load_bad("dali", BAD, workers=workers, **options)
    for one, other in zip(ours.batches(0, 8), whole, strict=True):
        assert_same(one, other)
    assert {record.index for batch in whole for record in batch.bad} >= set(range(len(BAD)))
    assert ours.report(8) == {"bad_records": len(BAD) + 1}
    refused = [line for line in caplog.messages if "DALI" in line]
    assert len(refused) == 1, "logged once, not for every batch"
    assert re.search(r"sample #\d+ :$", refused[0])


@pytest.mark.skipif(not TASKS.exists(), reason="counts threads in /proc")
@pytest.mark.parametrize("workers", [1, 3])
def test_threads_end_with_the_iterator(workers: int) -> None:
    good = load("dali", FOR_DALI, workers=workers)
    bad = load("dali", [*FOR_DALI, BAD[0]], workers=workers)
    with all_threads_end():
        assert len(list(good.batches(0, 3))) == 3
        before = threads()
        with closing(good.batches(0, 10**6)) as batches:  # type: ignore[type-var]
            assert len(list(islice(batches, 3))) == 3
            assert threads() > before
        with pytest.raises(BadImage):
            list(bad.batches(0, 9))
    assert len(list(good.batches(0, 2))) == 2, "it can start again"


def test_batches_that_are_held_are_not_written_to_again() -> None:
    expected = list(load("cpu").batches(0, 30))
    held = list(load("dali", workers=3, prefetch=2).batches(0, 30))
    for one, other in zip(held, expected, strict=True):
        assert_same(one, other)


def test_waiting_for_dali_does_not_count_as_waiting_for_storage() -> None:
    data = MemoryDataset([encode(i, size=512) for i in range(8)])
    decoder = DaliDecoder(data, image_size=512, device=CPU)
    timings = decoder.decode(np.arange(8), np.zeros(8, np.int64)).timings
    assert timings.images == 8
    assert timings.wall >= timings.decoding > timings.storage


def test_the_hint_fits_the_decoder() -> None:
    data = MemoryDataset(FOR_DALI)
    assert "data.decoder: cpu" in DaliDecoder(data, image_size=SIDE, device=CPU).hint
    assert "data.decoder" not in CpuDecoder(data, image_size=SIDE).hint
    assert "data.decoder: dali" in CpuDecoder(data, image_size=SIDE, pin_memory=True).hint


def test_an_unknown_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'turbo'.* cpu, dali"):
        choose_decoder("turbo", CPU)


def test_dali_is_imported_only_where_it_is_chosen() -> None:
    code = "import sys, train, data.loading.loader; sys.exit('nvidia.dali' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_without_the_package_no_run_starts(tiny_config: Path, tmp_path: Path) -> None:
    package = tmp_path / "packages" / "nvidia"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()  # found before the real one
    old = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([str(package.parent), old]).rstrip(os.pathsep)
    for more in ([], ["--dry-run"]):
        command = [sys.executable, "train.py", "--config", str(tiny_config)]
        ended = subprocess.run(
            [*command, "--set", "data.decoder=dali", *more],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        )  # fmt: skip
        assert ended.returncode != 0
        assert "pip install -e '.[dali]'" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("ranks", "resumed"), [(1, False), (2, True)])
def test_training_is_bit_identical(
    tiny_config: Path, tmp_path: Path, ranks: int, resumed: bool
) -> None:
    arguments = ["--config", str(tiny_config), "--set", "train.steps=6"]
    arguments += ["--set", "checkpoint.every_steps=3"]
    train_well(arguments, ranks=ranks)
    other = tmp_path / "other"
    if resumed:  # DALI decodes from step 3 on
        interrupted(tmp_path / "run", 3, other)
    arguments += ["--output", str(other), "--resume", "auto", "--set", "data.decoder=dali"]
    train_well(arguments, ranks=ranks)
    found, expected = ([line["loss"] for line in metrics(run)] for run in (other, tmp_path / "run"))
    assert len(expected) == 6
    assert found == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_pixels_differ_at_most_in_the_last_bits(caplog: pytest.LogCaptureFixture) -> None:
    device = torch.device("cuda")
    loader = load("dali", device=device, workers=3, pin_memory=True)
    for batch, other in zip(loader.batches(0, 9), load("cpu").batches(0, 9), strict=True):
        moved = batch.to(device)
        assert batch.images.is_cuda
        assert moved.images.data_ptr() == batch.images.data_ptr()
        assert moved.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.labels, other.labels)
        assert torch.equal(batch.indices, other.indices)
        difference = (moved.images.cpu().int() - other.images.int()).abs().float()
        # nvJPEG rounds its transform and colours differently; DALI's own tests allow a mean
        # difference of 1 of 255 from libjpeg-turbo. Another image, or another order of the
        # channels, differs by tens.
        assert difference.mean((1, 2, 3)).max() <= 1
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]
