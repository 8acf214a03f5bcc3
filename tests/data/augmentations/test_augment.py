import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from data.augmentations.augment import PROBABILITIES, Augmentation, change_rows, normalise
from data.augmentations.camera import blurred, low_resolution
from data.augmentations.decisions import Decisions
from data.augmentations.geometry import mirrored, moved
from data.augmentations.jpeg import compressed
from data.augmentations.occlusion import cut_out, masked
from data.loading.loader import Batch
from tests.data.augmentations.helpers import decisions, noise

SIDE = 24
EVERYTHING = Augmentation(
    mask=0.4, crop=0.7, colour=0.7, hue=0.2, grey=0.3, blur=0.5, low_resolution=0.5, jpeg=0.6,
    cutout=0.5, seed=3,
)  # fmt: skip
CUDA = [pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else []
DEVICES = ["cpu", *CUDA]


def _batch(count: int, epoch: int = 0, device: str = "cpu", side: int = SIDE) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator
    ).permute(0, 3, 1, 2)
    indices = torch.arange(count) * 1_000_003
    batch = Batch(pixels, torch.zeros_like(indices), indices, torch.full_like(indices, epoch))
    return batch.to(torch.device(device))


def _part(batch: Batch, rows: Tensor) -> Batch:
    images = batch.images.permute(0, 2, 3, 1)[rows.to(batch.images.device)].permute(0, 3, 1, 2)
    labels = batch.labels[rows.to(batch.labels.device)]
    return Batch(images, labels, batch.indices[rows], batch.epochs[rows])


def _changed(augmentation: Augmentation, batch: Batch) -> Tensor:
    """Return which samples the augmentation changes, bool [b]."""
    return (augmentation(batch) != normalise(batch.images)).flatten(1).any(dim=1)


@pytest.mark.parametrize("device", DEVICES)
def test_normalisation_is_the_published_one(device: str) -> None:
    values = torch.arange(256, dtype=torch.uint8, device=device)
    expected = (values.double() - 127.5) / 127.5
    result = normalise(values)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected.float())
    assert values[1] == 1, "the input must stay"
    floats = torch.tensor([127.5, 255.0], device=device)
    assert normalise(floats).tolist() == [0.0, 1.0]
    assert floats[1] == 255, "the input must stay"


@pytest.mark.parametrize("device", DEVICES)
def test_flip_mirrors_half_of_the_samples_exactly(device: str) -> None:
    batch = _batch(4000, device=device)
    result = Augmentation(flip=0.5, seed=1)(batch)
    plain = normalise(batch.images)
    mirrored = (result == plain.flip(3)).flatten(1).all(dim=1)
    kept = (result == plain).flatten(1).all(dim=1)
    assert (mirrored ^ kept).all()
    assert abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(4000)
    assert result.shape == (4000, 3, SIDE, SIDE)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_flip_can_be_off_or_always() -> None:
    batch = _batch(16)
    assert torch.equal(Augmentation(flip=0.0)(batch), normalise(batch.images))
    assert torch.equal(Augmentation(flip=1.0)(batch), normalise(batch.images).flip(3))


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("augmentation", [Augmentation(seed=5), EVERYTHING])
def test_a_sample_does_not_depend_on_its_batch(augmentation: Augmentation, device: str) -> None:
    batch = _batch(37, device=device)
    whole = augmentation(batch)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augmentation(_part(batch, order)), whole[order])
    for row in (0, 1, 17, 36):
        alone = augmentation(_part(batch, torch.tensor([row])))
        assert torch.equal(alone[0], whole[row])


def test_epoch_seed_and_sample_decide_and_nothing_else() -> None:
    batch = _batch(64)
    first = EVERYTHING(batch)
    torch.manual_seed(1)
    assert torch.equal(EVERYTHING(batch), first)
    assert not torch.equal(EVERYTHING(_batch(64, epoch=1)), first)
    assert not torch.equal(EVERYTHING.model_copy(update={"seed": 4})(batch), first)
    one_picture = Batch(batch.images[:1].expand(64, -1, -1, -1), *_rest(batch))
    assert len(torch.unique(EVERYTHING(one_picture).flatten(1), dim=0)) > 40


def _only(**changes: Any) -> Augmentation:
    """Return an augmentation with these settings and without mirroring."""
    return Augmentation(**{"flip": 0.0, **changes})


def _rest(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.labels, batch.indices, batch.epochs


def test_epochs_make_independent_decisions() -> None:
    augmentation = Augmentation(flip=0.5, seed=0)
    flips = torch.stack([_changed(augmentation, _batch(3000, epoch)) for epoch in range(3)])
    correlations = torch.corrcoef(flips.float())
    assert correlations[~torch.eye(3, dtype=torch.bool)].abs().max() < 4 / math.sqrt(3000)


def test_any_seed_is_accepted() -> None:
    batch = _batch(8)
    for seed in (0, 2**63, 2**64 - 1):
        assert Augmentation(seed=seed)(batch).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROBABILITIES if name != "flip"])
def test_each_change_has_its_probability(name: str) -> None:
    batch = _batch(1000)
    settings: dict[str, Any] = {"low_resolution_side": (0.2, 0.9)}  # 1.0 would change nothing
    fraction = _changed(_only(**settings, **{name: 0.3}), batch).float().mean()
    assert abs(fraction - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 1000)
    always = _only(**settings, **{name: 1.0})
    assert _changed(always, batch).all()
    result = always(batch)
    assert result.abs().max() <= 1
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("flip", mirrored),
        ("mask", masked),
        ("crop", partial(moved, zoom=0.1, shift=0.1)),
        ("blur", partial(blurred, low=0.3, high=1.5)),
        ("low_resolution", partial(low_resolution, low=0.2, high=1.0)),
        ("jpeg", partial(compressed, low=20, high=95)),
        ("cutout", partial(cut_out, size=0.4, level=127.5)),
    ],
)
def test_each_name_stands_for_its_change(name: str, change: Callable[..., Tensor]) -> None:
    batch = _batch(8)
    pixels = batch.images.permute(0, 2, 3, 1).float().contiguous()
    expected = change(pixels, Decisions(0, batch.epochs, batch.indices, pixels.device))
    result = _only(**{name: 1.0})(batch).permute(0, 2, 3, 1) * 127.5 + 127.5
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-3)


def test_changes_are_chosen_independently() -> None:
    batch = _batch(2000)
    names = [name for name in PROBABILITIES if name not in ("flip", "low_resolution")]
    chosen = torch.stack([_changed(_only(**{name: 0.5}), batch) for name in names])
    correlations = torch.corrcoef(chosen.float()).fill_diagonal_(0)
    assert correlations.abs().max() < 4.5 / math.sqrt(2000)


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 37, 112, 1024])
def test_all_sides_are_accepted(side: int) -> None:
    always: dict[str, Any] = dict.fromkeys(PROBABILITIES, 1.0)
    everything = Augmentation(**(always | {"grey": 0.0}))
    batch = _batch(2, side=side)
    result = everything(batch)
    assert result.shape == (2, 3, side, side)
    assert result.isfinite().all()
    assert result.abs().max() <= 1
    assert (result != normalise(batch.images)).float().mean() > 0.9


def test_the_input_is_not_changed_and_autocast_does_not_apply() -> None:
    batch = _batch(20)
    before = batch.images.clone()
    plain = EVERYTHING(batch)
    assert torch.equal(batch.images, before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = EVERYTHING(batch)
    assert result.dtype == torch.float32
    assert torch.equal(result, plain), "pixels are float32 whatever the precision of training"
    planar = Batch(batch.images.contiguous(), *_rest(batch))
    assert torch.equal(EVERYTHING(planar), plain), "the memory format does not matter"


def test_a_batch_may_be_empty() -> None:
    assert EVERYTHING(_batch(0)).shape == (0, 3, SIDE, SIDE)


def test_the_host_reads_nothing_from_the_device() -> None:
    # Tensors on `meta` have no values: reading one raises.
    meta = torch.device("meta")
    batch = _batch(50)
    decide = Decisions(3, batch.epochs, batch.indices, meta)
    pixels = torch.empty(50, SIDE, SIDE, 3, device=meta)
    for _, change in EVERYTHING._changes():
        change_rows(pixels, decide("flip") < 0.5, decide, change)


@pytest.mark.parametrize("side", [4, 300])  # all in one block, two per block
@pytest.mark.parametrize("rows", [[], [3], [0, 2, 3, 5, 6], list(range(7))])
def test_chosen_rows_change_and_others_stay(side: int, rows: list[int]) -> None:
    pixels = noise(7, side)
    before = pixels.clone()
    seen: list[int] = []

    def double(images: Tensor, decide: Decisions) -> Tensor:
        assert images.is_contiguous()
        assert len(decide("blur")) == len(images)
        seen.extend((decide("blur") * 2**24).int().tolist())
        return images.mul_(2)

    chosen = torch.zeros(7, dtype=torch.bool)
    chosen[rows] = True
    decide = decisions(7)
    change_rows(pixels, chosen, decide, double)
    before[rows] *= 2
    assert torch.equal(pixels, before)
    assert seen == (decide("blur")[rows] * 2**24).int().tolist(), (
        "each sample has its own decisions"
    )


def test_threads_do_not_matter() -> None:
    batch = _batch(40, side=64)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(EVERYTHING(batch))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_a_photograph_is_taken_before_it_is_compressed() -> None:
    # The first of each pair happens before the second: both together are one after the other.
    batch = _batch(30)
    order = ("mask", "crop", "colour", "blur", "low_resolution", "jpeg", "cutout")
    for first, second in pairwise(order):
        once = _only(**{first: 1.0}, seed=5)(batch)
        both = _only(**{first: 1.0, second: 1.0}, seed=5)(batch)
        levels = (once * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        twice = _only(**{second: 1.0}, seed=5)(Batch(levels, *_rest(batch)))
        assert (both - twice).abs().mean() < 0.02, (first, second)


def test_grey_is_the_luma() -> None:
    batch = _batch(4)
    red, green, blue = batch.images.double().unbind(1)
    luma = (0.299 * red + 0.587 * green + 0.114 * blue - 127.5) / 127.5
    result = Augmentation(flip=0.0, grey=1.0)(batch)
    for channel in result.unbind(1):
        torch.testing.assert_close(channel, luma.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_changes_keep_to_their_range(name: str) -> None:
    batch = _batch(500)
    images = batch.images // 2 + 64  # far enough from 0 and 255 that nothing is clipped
    batch = Batch(images, *_rest(batch))
    widths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, name: 0.2}
    result = _only(colour=1.0, **widths)(batch).double() * 127.5 + 127.5
    pixels = images.double()
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    luma = (pixels * weights).sum(dim=1, keepdim=True)
    centre = {
        "brightness": torch.zeros(()),
        "contrast": luma.mean(dim=(2, 3), keepdim=True),
        "saturation": luma,
    }[name]
    away = pixels - centre
    factors = ((result - centre) * away).flatten(1).sum(1) / (away * away).flatten(1).sum(1)
    assert factors.min() > 0.8 - 1e-3
    assert factors.max() < 1.2 + 1e-3
    assert factors.max() - factors.min() > 0.35
    rebuilt = centre + away * factors[:, None, None, None]
    torch.testing.assert_close(result, rebuilt, atol=0.2, rtol=0)  # the rounded mean luma


def test_crop_moves_and_zooms() -> None:
    # A ramp along x and one along y: away from edges, a moved and zoomed ramp is a ramp.
    ramp = torch.arange(SIDE, dtype=torch.uint8) * 10
    image = torch.stack((ramp.expand(SIDE, SIDE), ramp[:, None].expand(SIDE, SIDE)))
    images = torch.cat((image, image[:1])).expand(300, -1, -1, -1)
    batch = Batch(images, *_rest(_batch(300)))
    augmentation = Augmentation(flip=0.0, crop=1.0, crop_zoom=0.2, crop_shift=0.1)
    result = augmentation(batch)[:, :, 8:16, 8:16] * 127.5 + 127.5
    for channel, axis in ((0, 2), (1, 1)):
        slopes = result[:, channel].diff(dim=axis)
        zooms = slopes.flatten(1).mean(1) / 10
        assert zooms.min() > 0.8 - 1e-3
        assert zooms.max() < 1.2 + 1e-3
        assert zooms.max() - zooms.min() > 0.35
        shifts = (result[:, channel].flatten(1).mean(1) - 115) / 10 / SIDE
        assert shifts.abs().max() < 0.1 + 1e-3
        assert shifts.max() - shifts.min() > 0.17
    assert torch.equal(result[:, 0], result[:, 2])


def test_edges_are_repeated() -> None:
    batch = _batch(50)
    batch = Batch(torch.full_like(batch.images, 200), *_rest(batch))
    result = _only(crop=1.0, crop_zoom=0.5, crop_shift=0.3)(batch)
    torch.testing.assert_close(result, normalise(batch.images), atol=1e-5, rtol=0)


def test_rounding_errors_of_a_crop_are_kept_without_other_colours() -> None:
    batch = _batch(40, side=112)
    batch = Batch(torch.full_like(batch.images, 255), *_rest(batch))
    settings = {"crop": 1.0, "crop_zoom": 0.5, "crop_shift": 0.3}
    assert 1 < _only(**settings)(batch).max() < 1 + 1e-6
    assert _only(**settings, grey=1e-9)(batch).max() == 1


def test_cutout_is_one_grey_square() -> None:
    batch = _batch(200)
    batch = Batch(torch.full_like(batch.images, 200), *_rest(batch))
    covered = Augmentation(flip=0.0, cutout=1.0, cutout_size=0.25)(batch) == 0
    assert torch.equal(covered[:, 0], covered[:, 1])
    rows, columns = covered[:, 0].any(2).sum(1), covered[:, 0].any(1).sum(1)
    assert torch.equal(covered[:, 0].sum(dim=(1, 2)), rows * columns)
    assert rows.max() == columns.max() == 6
    assert (covered != covered.transpose(2, 3)).any(), "both coordinates are random"
    assert rows.min() >= 3, "the centre is inside, so at least half of the square is"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cpu_and_gpu_make_the_same_decisions() -> None:
    augmentation = EVERYTHING.model_copy(update={"crop": 0.0, "jpeg": 0.0})
    on_cpu, on_gpu = augmentation(_batch(64)), augmentation(_batch(64, device="cuda")).cpu()
    # Fused multiply-adds may round the last bits of a colour or a weight differently, which JPEG's
    # quantisation would make visible: its own test is exact.
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-4, rtol=0)
