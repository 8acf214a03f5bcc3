from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from torch import Tensor, nn

from data.loading.decode import BadImage
from data.pairs.bin_file import PairFileError, write_pair_file
from eval.build import FARS
from eval.embedding import EmbeddingError
from eval.figures import SetFigures
from eval.suites.settings import Suite, find_set, pair_sets
from eval.verifier import Verifier
from recognition.distributed import World
from tests.distributed_harness import run_ranks
from tests.eval.suites.made_sets import PEOPLE, PHOTOS, write_folder

BINS = Path(__file__).parents[1] / "fixtures" / "bins"
SIDE = 16
CPU = torch.device("cpu")


def _face(person: int, shot: int) -> bytes:
    rng = np.random.default_rng(person)
    picture = rng.normal(128, 40, (4, 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
    picture += np.random.default_rng(1000 * person + shot).normal(0, 12, picture.shape)
    encoded: bytes = simplejpeg.encode_jpeg(picture.clip(0, 255).astype(np.uint8), quality=95)
    return encoded


def _write(path: Path, pairs: int = 20) -> Path:
    """Write pairs, every other one of one person; the first image of each is in two pairs."""
    images: list[bytes] = []
    for k in range(pairs):
        images += [_face(k // 2, 0), _face(k // 2, 1) if k % 2 == 0 else _face(500 + k, 0)]
    write_pair_file(path, images, [k % 2 == 0 for k in range(pairs)])
    return path


def make(
    wanted: Sequence[str | Path],
    *,
    folder: Path | None = None,
    flip: bool = True,
    **options: Any,
) -> Verifier:
    """Return what verifies on .bin files."""
    suites = [Suite(pairs=pair_sets([one], folder), fars=FARS, flip=flip) for one in wanted]
    return Verifier(suites, **options)


def _pixels(images: Tensor) -> Tensor:
    """The image itself, reduced, as its embedding."""
    return nn.functional.avg_pool2d(images, 4).flatten(1)


def test_a_set_is_found_and_verified_by_name(tmp_path: Path) -> None:
    _write(tmp_path / "faces.bin")
    verifier = make(["faces"], folder=tmp_path, image_size=SIDE)
    (result,) = verifier(_pixels, CPU)
    assert (result.name, result.values["pairs"], result.values["flip"]) == ("faces", 20, True)
    assert result.values["accuracy_no_flip"] == 1
    ((_, item),) = verifier.sets
    assert len(item.images.unique) == 30, "ten first images are in two pairs each"
    assert result.faces is not None
    assert len(result.faces.images) == len(result.faces.people)
    assert len(set(result.faces.people)) == 10, "of each of the ten the two of one person"


def test_batches_and_repeats_do_not_change_the_figures(tmp_path: Path) -> None:
    path = _write(tmp_path / "faces.bin")
    expected = make([path], image_size=SIDE)(_pixels, CPU)[0].to_json()
    sizes: list[int] = []

    def counted(images: Tensor) -> Tensor:
        sizes.append(len(images))
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.abs().max() <= 1
        return _pixels(images)

    for batch_size in (1, 7, 1000):
        sizes.clear()
        (result,) = make([path], image_size=SIDE, batch_size=batch_size)(counted, CPU)
        assert result.to_json() == expected
        assert max(sizes) == min(batch_size, 30)
        assert sum(sizes) == 2 * 30


def test_mirror_images_swap_left_and_right(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images)
        return _pixels(images)

    make([_write(tmp_path / "faces.bin")], image_size=SIDE)(watched, CPU)
    plain, mirrored = seen
    assert torch.equal(mirrored, plain.flip(3))


def test_mirror_images_are_left_out_on_request(tmp_path: Path) -> None:
    path = _write(tmp_path / "faces.bin")
    calls: list[int] = []

    def counted(images: Tensor) -> Tensor:
        calls.append(len(images))
        return _pixels(images)

    (result,) = make([path], image_size=SIDE, flip=False)(counted, CPU)
    assert sum(calls) == 30
    (both,) = make([path], image_size=SIDE)(_pixels, CPU)
    alone = both.values["accuracy_no_flip"]
    assert result.accuracy == result.values["accuracy_no_flip"] == alone
    assert result.values["flip"] is False


def test_a_set_that_two_suites_have_is_embedded_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "faces")
    faces = {"format": "folder", "file": tmp_path / "faces"}
    one = Suite.model_validate({"pairs": {"one": faces, "few": {**faces, "different": 20}}})
    two = Suite.model_validate({"pairs": {"two": faces}, "fars": [0.1]})
    plain = Suite.model_validate({"pairs": {"plain": faces}, "flip": False})
    seen: list[int] = []

    def counted(images: Tensor) -> Tensor:
        seen.append(len(images))
        return _pixels(images)

    found = Verifier([one, two, plain], image_size=SIDE)(counted, CPU)
    assert [figures.name for figures in found] == ["one", "few", "two", "plain"]
    assert sum(seen) == (2 + 1) * PEOPLE * PHOTOS
    assert found[0].values["eer"] == found[2].values["eer"]
    assert [figures.values["flip"] for figures in found] == [True, True, True, False]
    assert found[2].values["tar_at_far"].keys() == {"1e-1"}


def _verify_on_ranks(path: Path) -> list[SetFigures]:
    world = World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    done: list[int] = []

    def counted(images: Tensor) -> Tensor:
        done.append(len(images))
        return _pixels(images)

    verifier = make([path, path.with_name("few.bin")], image_size=SIDE, world=world)
    results = verifier(counted, CPU)
    assert sum(done) <= 2 * (-(-30 // world.size) - (-5 // world.size))
    for result in results:
        assert (result.scores is not None) == world.is_main
    with pytest.raises(ValueError, match="faces: 30 of 30 embeddings"):
        verifier(lambda images: _pixels(images) * torch.nan, CPU)
    return [replace(result, scores=None) for result in results]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_work_and_all_get_the_results(tmp_path: Path, ranks: int) -> None:
    path = _write(tmp_path / "faces.bin")
    images = [_face(i % 3, 0) for i in range(20)]  # three different images, so a rank has none
    write_pair_file(tmp_path / "few.bin", images, [k % 2 == 0 for k in range(10)])
    expected = make(["faces", "few"], folder=tmp_path, image_size=SIDE)(_pixels, CPU)
    for results in run_ranks(_verify_on_ranks, ranks, path):
        assert [result.to_json() for result in results] == [one.to_json() for one in expected]


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(3).eval()
        self.active = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert not self.active.training
        assert not torch.is_grad_enabled()
        return _pixels(self.active(self.frozen(images)))


def test_a_module_is_evaluated_and_put_back_as_it_was(tmp_path: Path) -> None:
    net = _Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    make([_write(tmp_path / "faces.bin")], image_size=SIDE)(net, CPU)
    assert [net.training, net.active.training, net.frozen.training] == [True, True, False]
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_sets_of_other_systems_are_verified() -> None:
    sets = [BINS / f"{name}.bin" for name in ("py2_list", "py3_list", "numpy_arrays")]
    first, *others = make(sets, image_size=112)(_pixels, CPU)
    for other in others:
        assert {**other.to_json(), "set": "py2_list"} == first.to_json()


def test_the_message_of_a_missing_set_lists_those_that_exist(tmp_path: Path) -> None:
    _write(tmp_path / "lfw.bin")
    _write(tmp_path / "agedb_30.bin")
    with pytest.raises(ValueError, match=r"'lwf' .*: agedb_30, lfw;"):
        make(["lfw", "lwf"], folder=tmp_path, image_size=SIDE)
    with pytest.raises(ValueError, match=r"cfp\.bin' .*: agedb_30, lfw;"):
        make([tmp_path / "cfp.bin"], image_size=SIDE)
    with pytest.raises(ValueError, match=r"'lfw' .*nowhere: none"):
        find_set("lfw", tmp_path / "nowhere")


def test_sets_are_found_by_name_and_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "lfw.bin")
    assert find_set("lfw", tmp_path) == path
    assert find_set("lfw.bin", tmp_path) == path
    assert find_set(str(path), None) == path
    monkeypatch.chdir(tmp_path)
    assert find_set("lfw.bin", None) == Path("lfw.bin")


def test_invalid_sets_fail_at_the_start(tmp_path: Path) -> None:
    _write(tmp_path / "small.bin", pairs=9)
    with pytest.raises(ValueError, match="small: 5 positive and 4 negative"):
        make(["small"], folder=tmp_path, image_size=SIDE)
    with pytest.raises(PairFileError, match=r"posix\.system"):
        make([BINS / "malicious.bin"], image_size=SIDE)
    path = _write(tmp_path / "lfw.bin")
    with pytest.raises(ValueError, match=r"lfw .* 2 times"):
        make([path, "lfw"], folder=tmp_path, image_size=SIDE)
    with pytest.raises(ValueError, match="batch_size is 0"):
        make([path], image_size=SIDE, batch_size=0)


def test_errors_name_the_image_or_the_output_of_the_model(tmp_path: Path) -> None:
    path = _write(tmp_path / "lfw.bin")
    verifier = make([path], image_size=SIDE, batch_size=8)
    with pytest.raises(EmbeddingError, match=r"\[8, 3, 4, 4\].*\[8, 3, 16, 16\]"):
        verifier(lambda images: nn.functional.avg_pool2d(images, 4), CPU)
    with pytest.raises(ValueError, match="lfw: 30 of 30 "):
        verifier(lambda images: _pixels(images) * torch.nan, CPU)
    images = [_face(k, 0) for k in range(20)]
    images[13] = b"\xff\xd8 no image"
    write_pair_file(path, images, [k % 2 == 0 for k in range(10)])
    with pytest.raises(BadImage, match=r"lfw\.bin, image 13 \(of pair 6\)"):
        make([path], image_size=SIDE)(_pixels, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_the_same_figures(tmp_path: Path) -> None:
    verifier = make([_write(tmp_path / "faces.bin")], image_size=SIDE)
    (on_cpu,), (on_gpu,) = verifier(_pixels, CPU), verifier(_pixels, torch.device("cuda"))
    assert on_gpu.accuracy == on_cpu.accuracy
    assert on_gpu.values["embedding_norm"] == pytest.approx(
        on_cpu.values["embedding_norm"], rel=1e-5
    )
