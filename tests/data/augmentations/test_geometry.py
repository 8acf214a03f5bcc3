import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from data.augmentations.geometry import mirrored, moved
from tests.data.augmentations.helpers import decisions, noise


@pytest.mark.parametrize("side", [16, 37])
def test_a_crop_is_linear_interpolation(side: int) -> None:
    pixels = noise(6, side)
    result = moved(pixels.clone(), decisions(6), zoom=0.3, shift=0.2)
    assert result.is_contiguous()
    decide = decisions(6)
    zooms = decide.between("zoom", 0.7, 1.3).double().tolist()
    shifts = zip(
        *(decide.between(f"shift {axis}", -0.2, 0.2).tolist() for axis in "xy"), strict=True
    )
    for image, pixel, zoom, (x, y) in zip(result, pixels, zooms, shifts, strict=True):
        away = (np.arange(side) + 0.5 - side / 2) * zoom + side / 2 - 0.5  # from the centre
        positions = np.stack(np.meshgrid(away + y * side, away + x * side, indexing="ij"))
        for channel in range(3):
            plane = pixel[..., channel].double().numpy()
            expected = map_coordinates(plane, positions, order=1, mode="nearest")
            assert np.abs(image[..., channel].numpy() - expected).max() < 0.02


def test_mirroring_exchanges_left_and_right() -> None:
    pixels = noise(2, 17)
    result = mirrored(pixels.clone(), decisions(2))
    assert np.array_equal(result.numpy(), pixels.numpy()[:, :, ::-1])
