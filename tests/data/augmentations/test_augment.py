import math
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from data.augmentations.augment import PROBABILITIES, Augmentation, normalise
from data.augmentations.decisions import Decisions
from data.augmentations.rows import change_rows
from data.loading.loader import Batch
from recognition.config import Augment

SIDE = 24
EVERYTHING = Augmentation(
    mask=0.4, crop=0.7, colour=0.7, hue=0.2, grey=0.3, blur=0.5, low_resolution=0.5, jpeg=0.6,
    cutout=0.5, seed=3,
)  # fmt: skip
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


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
    """Which samples come out other than they went in, bool [b]."""
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
    assert not torch.equal(replace(EVERYTHING, seed=4)(batch), first)
    one_picture = Batch(batch.images[:1].expand(64, -1, -1, -1), *_rest(batch))
    assert len(torch.unique(EVERYTHING(one_picture).flatten(1), dim=0)) > 40


def _only(**changes: Any) -> Augmentation:
    """These changes and no others."""
    return Augmentation(**{"flip": 0.0, **changes})


def _rest(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.labels, batch.indices, batch.epochs


def test_epochs_make_independent_decisions() -> None:
    augmentation = Augmentation(flip=0.5, seed=0)
    flips = torch.stack([_changed(augmentation, _batch(3000, epoch)) for epoch in range(3)])
    correlations = torch.corrcoef(flips.float())
    assert correlations[~torch.eye(3, dtype=torch.bool)].abs().max() < 4 / math.sqrt(3000)


def test_any_seed_is_welcome() -> None:
    batch = _batch(8)
    for seed in (0, 2**63, 2**64 - 1):
        assert Augmentation(seed=seed)(batch).isfinite().all()


@pytest.mark.parametrize("name", [name for name in PROBABILITIES if name != "flip"])
def test_each_change_has_its_probability(name: str) -> None:
    batch = _batch(1000)
    settings: dict[str, Any] = {"low_resolution_side": (0.2, 0.9)}  # 1.0 would change nothing
    share = _changed(_only(**settings, **{name: 0.3}), batch).float().mean()
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 1000)
    always = _only(**settings, **{name: 1.0})
    assert _changed(always, batch).all()
    result = always(batch)
    assert result.abs().max() <= 1
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_changes_are_chosen_independently() -> None:
    batch = _batch(2000)
    names = [name for name in PROBABILITIES if name not in ("flip", "low_resolution")]
    chosen = torch.stack([_changed(_only(**{name: 0.5}), batch) for name in names])
    correlations = torch.corrcoef(chosen.float()).fill_diagonal_(0)
    assert correlations.abs().max() < 4.5 / math.sqrt(2000)


@pytest.mark.parametrize("side", [16, 37, 112, 1024])
def test_all_sides_are_welcome(side: int) -> None:
    always: dict[str, Any] = dict.fromkeys(PROBABILITIES, 1.0)
    everything = Augmentation(**(always | {"grey": 0.0}))
    batch = _batch(2, side=side)
    result = everything(batch)
    assert result.shape == (2, 3, side, side)
    assert result.isfinite().all()
    assert result.abs().max() <= 1
    assert (result != normalise(batch.images)).float().mean() > 0.9


def test_given_images_stay_and_autocast_does_not_reach_pixels() -> None:
    batch = _batch(20)
    before = batch.images.clone()
    plain = EVERYTHING(batch)
    assert torch.equal(batch.images, before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = EVERYTHING(batch)
    assert result.dtype == torch.float32
    assert torch.equal(result, plain), "a lower precision of training is not one of pixels"
    planar = Batch(batch.images.contiguous(), *_rest(batch))
    assert torch.equal(EVERYTHING(planar), plain), "the memory format does not matter"


def test_a_batch_may_be_empty() -> None:
    assert EVERYTHING(_batch(0)).shape == (0, 3, SIDE, SIDE)


def test_the_host_reads_nothing_from_the_device() -> None:
    # Tensors on `meta` have no values: whatever is read of them raises.
    meta = torch.device("meta")
    batch = _batch(50)
    decide = Decisions(3, batch.epochs, batch.indices, meta)
    pixels = torch.empty(50, SIDE, SIDE, 3, device=meta)
    for _, change in EVERYTHING._changes():
        change_rows(pixels, decide("flip") < 0.5, decide, change)


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
    # Each pair's first happens before its second: together they are the one after the other.
    batch = _batch(30)
    order = ("mask", "crop", "colour", "blur", "low_resolution", "jpeg", "cutout")
    for first, second in pairwise(order):
        once = _only(**{first: 1.0}, seed=5)(batch)
        both = _only(**{first: 1.0, second: 1.0}, seed=5)(batch)
        levels = (once * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        twice = _only(**{second: 1.0}, seed=5)(Batch(levels, *_rest(batch)))
        assert (both - twice).abs().mean() < 0.02, (first, second)


def test_the_config_has_the_same_settings_with_the_same_defaults() -> None:
    assert {**Augment().model_dump(), "seed": 0} == asdict(Augmentation())
    settings = asdict(replace(EVERYTHING, blur_sigma=(0.5, 10.0), jpeg_quality=(1, 100), hue=0.5))
    seed = settings.pop("seed")
    assert asdict(Augmentation(**Augment(**settings).model_dump(), seed=seed)) == {
        **settings,
        "seed": seed,
    }, "what the config allows, the augmentation takes"


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
    images = batch.images // 2 + 64  # room on both sides, so that nothing is clipped
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
    # A ramp along x and one along y: a moved and zoomed ramp is a ramp, inside.
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


def test_edges_are_repeated_where_the_picture_ends() -> None:
    batch = _batch(50)
    batch = Batch(torch.full_like(batch.images, 200), *_rest(batch))
    result = _only(crop=1.0, crop_zoom=0.5, crop_shift=0.3)(batch)
    torch.testing.assert_close(result, normalise(batch.images), atol=1e-5, rtol=0)


def test_rounding_errors_of_a_crop_are_as_they_always_were() -> None:
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
    assert (covered != covered.transpose(2, 3)).any(), "both coordinates are drawn"
    assert rows.min() >= 3, "a centre inside the image leaves at least half a square"


PARTS = ["crop_zoom", "crop_shift", "brightness", "contrast", "saturation", "cutout_size"]


@pytest.mark.parametrize("name", [*PROBABILITIES, *PARTS])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_wrong_values_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}: expected a .* between 0 and 1"):
        _only(**{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hue": 0.6}, "hue is 0.6: expected a part of a turn between 0 and 0.5"),
        ({"blur_sigma": (2.0, 1.0)}, "blur_sigma is 2.0 to 1.0: expected the least and the larg"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma is 0.0 to 1.0: .* above 0 and at most 10"),
        ({"blur_sigma": (1.0, 11.0)}, "above 0 and at most 10"),
        ({"low_resolution_side": (0.5, 1.1)}, "above 0 and at most 1$"),
        ({"low_resolution_side": (0.0, 1.0)}, "low_resolution_side is 0.0 to 1.0"),
        ({"jpeg_quality": (0, 50)}, "jpeg_quality is 0 to 50"),
        ({"jpeg_quality": (50, 101)}, "above 0 and at most 100"),
        ({"jpeg_quality": (50, 60.5)}, r"jpeg_quality is \(50, 60.5\): expected whole numbers"),
    ],
)
def test_wrong_ranges_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cpu_and_gpu_make_the_same_decisions() -> None:
    augmentation = replace(EVERYTHING, crop=0.0, jpeg=0.0)
    on_cpu, on_gpu = augmentation(_batch(64)), augmentation(_batch(64, device="cuda")).cpu()
    # Fused multiply-adds on one side may round the last bits of a colour or a weight otherwise,
    # which JPEG's steps would make visible: its own test is exact.
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-4, rtol=0)
