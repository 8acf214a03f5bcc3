from typing import Any

import pytest
from pydantic import ValidationError

from data.augmentations.augment import PROBABILITIES, Augmentation

FRACTIONS = ["crop_zoom", "crop_shift", "brightness", "contrast", "saturation", "cutout_size"]


def _refused(name: str, value: Any) -> dict[str, Any]:
    """Return the bound of setting `name` that `value` is refused for."""
    with pytest.raises(ValidationError) as caught:
        Augmentation(**{name: value})
    errors = caught.value.errors()
    assert {str(error["loc"][0]) for error in errors if error["loc"]} <= {name}
    return dict(errors[0].get("ctx", {}))


@pytest.mark.parametrize("name", [*PROBABILITIES, *FRACTIONS])
@pytest.mark.parametrize(
    ("value", "bound"), [(-0.1, {"ge": 0}), (1.5, {"le": 1}), (float("nan"), {})]
)
def test_fractions_are_0_to_1(name: str, value: float, bound: dict[str, float]) -> None:
    assert _refused(name, value) == bound


@pytest.mark.parametrize("name", [*PROBABILITIES, *FRACTIONS])
@pytest.mark.parametrize("value", ["much", "0.5", True, None, [0.5]])
def test_fractions_are_numbers(name: str, value: Any) -> None:
    _refused(name, value)


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("hue", 0.6, {"le": 0.5}),
        ("blur_sigma", (0.0, 1.0), {"gt": 0}),
        ("blur_sigma", (1.0, 11.0), {"le": 10}),
        ("low_resolution_side", (0.5, 1.1), {"le": 1}),
        ("low_resolution_side", (0.0, 1.0), {"gt": 0}),
        ("jpeg_quality", (0, 50), {"ge": 1}),
        ("jpeg_quality", (50, 101), {"le": 100}),
    ],
)
def test_wrong_ranges_are_refused(name: str, value: Any, bound: dict[str, float]) -> None:
    assert _refused(name, value) == bound


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blur_sigma", (2.0, 1.0)),
        ("blur_sigma", 1.0),
        ("blur_sigma", [1.0, 2.0, 3.0]),
        ("jpeg_quality", (50, 60.5)),
        ("blurr", 1.0),
    ],
)
def test_other_mistakes_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        Augmentation(**{name: value})


def test_values_as_yaml_has_them_become_numbers() -> None:
    found = Augmentation.model_validate(
        {"crop": 1, "flip": 0.1, "blur_sigma": [1, 2], "jpeg_quality": [20, 30], "seed": 5}
    )
    expected = Augmentation(
        crop=1.0, flip=0.1, blur_sigma=(1.0, 2.0), jpeg_quality=(20, 30), seed=5
    )
    assert repr(found) == repr(expected), "types too"
