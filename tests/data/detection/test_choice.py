import numpy as np
import pytest
from PIL import Image, ImageFilter

from data.alignment import AlignmentError
from data.detection.choice import Choice, Policy, choose, sharpness
from data.detection.detections import Detections


def boxes(*squares: tuple[float, float, float]) -> Detections:
    """Return faces as squares around (x, y) with a side."""
    array = np.array([(x - s / 2, y - s / 2, x + s / 2, y + s / 2) for x, y, s in squares])
    count = len(squares)
    return Detections(
        array.reshape(-1, 4).astype(np.float32), np.ones(count, np.float32), np.zeros((count, 5, 2))
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("largest", ["not_chosen", "written", "tiny"]),
        ("central", ["written", "not_chosen", "tiny"]),
        ("all", ["written", "written", "tiny"]),
        ("refuse", ["several", "several", "tiny"]),
    ],
)
def test_the_policy_decides_among_faces_that_are_not_tiny(
    policy: Policy, expected: list[str]
) -> None:
    found = boxes((110, 100, 50), (40, 60, 70), (100, 100, 39))
    assert choose(found, (200, 200), Choice(policy)) == expected
    assert choose(boxes((9, 9, 40)), (200, 200), Choice(policy)) == ["written"]
    assert choose(boxes(), (200, 200), Choice(policy)) == []


@pytest.mark.parametrize(("width", "expected"), [(19, "tiny"), (20, "written")])
def test_the_area_of_its_box_says_whether_a_face_is_tiny(width: int, expected: str) -> None:
    for box in ((9, 9, 9 + width, 89), (9, 9, 89, 9 + width)):
        found = Detections(np.array([box], np.float32), np.ones(1, np.float32), np.zeros((1, 5, 2)))
        assert choose(found, (200, 200), Choice()) == [expected]


def test_tiny_faces_are_kept_on_request() -> None:
    found = boxes((100, 100, 5))
    assert choose(found, (200, 200), Choice()) == ["tiny"]
    assert choose(found, (200, 200), Choice(min_face=5)) == ["written"]
    assert choose(found, (200, 200), Choice(keep=("tiny",))) == ["written"]


def test_sharpness_falls_with_blur_and_not_with_contrast() -> None:
    rng = np.random.default_rng(0)
    pixels = np.zeros((112, 112))
    for side in (4, 8, 16, 32, 64, 112):  # detail of every size, the larger the stronger
        noise = Image.fromarray(rng.normal(0, 100 / side**0.5, (side, side)).astype(np.float32))
        pixels += np.asarray(noise.resize((112, 112), Image.Resampling.BICUBIC))
    image = Image.fromarray((127 + pixels).clip(0, 255).astype(np.uint8)).convert("RGB")
    values = [sharpness(image.filter(ImageFilter.GaussianBlur(s))) for s in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < Choice().min_sharpness < values[0]
    fainter = Image.fromarray((np.asarray(image) // 2 + 60).astype(np.uint8))
    assert sharpness(fainter) == pytest.approx(values[0], rel=0.1)
    assert sharpness(Image.new("RGB", (112, 112), (9, 9, 9))) == 0


def test_what_makes_no_sense_is_refused() -> None:
    for options in ({"policy": "first"}, {"keep": ("odd",)}, {"min_face": float("nan")}):
        with pytest.raises(AlignmentError):
            Choice(**options)
