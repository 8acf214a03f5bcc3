import re
from dataclasses import asdict
from typing import Any

import pytest

from data.augmentations.augment import PROBABILITIES, Augmentation
from recognition.config import Augment

FRACTIONS = ["crop_zoom", "crop_shift", "brightness", "contrast", "saturation", "cutout_size"]


@pytest.mark.parametrize("name", [*PROBABILITIES, *FRACTIONS])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "much", None, [0.5]])
def test_wrong_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is {re.escape(repr(value))}: .* 0 .*1$"):
        Augmentation(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "bounds"),
    [
        ("hue", 0.6, "0 .*0.5"),
        ("blur_sigma", (2.0, 1.0), "0 .*10"),
        ("blur_sigma", (0.0, 1.0), "0 .*10"),
        ("blur_sigma", (1.0, 11.0), "0 .*10"),
        ("blur_sigma", 1.0, "0 .*10"),
        ("blur_sigma", [1.0, 2.0, 3.0], "0 .*10"),
        ("low_resolution_side", (0.5, 1.1), "0 .*1"),
        ("low_resolution_side", (0.0, 1.0), "0 .*1"),
        ("jpeg_quality", (0, 50), "0 .*100"),
        ("jpeg_quality", (50, 101), "0 .*100"),
        ("jpeg_quality", (50, 60.5), "0 .*100"),
    ],
)
def test_wrong_ranges_are_refused(name: str, value: Any, bounds: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is {re.escape(repr(value))}: .*{bounds}$"):
        Augmentation(**{name: value})


def test_values_as_yaml_has_them_become_numbers() -> None:
    found = Augmentation.from_settings(
        {"crop": 1, "flip": "1e-1", "blur_sigma": [1, 2], "jpeg_quality": [20.0, 30]}, seed=5
    )
    expected = Augmentation(
        crop=1.0, flip=0.1, blur_sigma=(1.0, 2.0), jpeg_quality=(20, 30), seed=5
    )
    assert repr(found) == repr(expected), "types too"


@pytest.mark.parametrize("name", ["blurr", "seed", "nothing"])
def test_unknown_settings_are_refused_by_name(name: str) -> None:
    near = "blur$" if name == "blurr" else ".*cutout"
    with pytest.raises(ValueError, match=f"^{name}: .*{near}"):
        Augmentation.from_settings({"flip": 0.5, name: 1}, seed=0)


def test_the_config_has_the_same_settings_with_the_same_defaults() -> None:
    assert {**Augment().model_dump(), "seed": 0} == asdict(Augmentation())
    changed = Augmentation(
        crop=0.7, jpeg=0.6, blur_sigma=(0.5, 10.0), jpeg_quality=(1, 100), hue=0.5
    )
    settings = asdict(changed)
    seed = settings.pop("seed")
    assert asdict(Augmentation(**Augment(**settings).model_dump(), seed=seed)) == {
        **settings,
        "seed": seed,
    }, "the augmentation accepts what the config allows"
