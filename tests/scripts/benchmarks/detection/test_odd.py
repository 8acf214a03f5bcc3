from pathlib import Path

import pytest

from data.detection.detector import open_detector
from scripts.benchmarks.detection import odd
from scripts.benchmarks.detection.report import markdown


@pytest.mark.slow
def test_odd_photos_end_as_a_face_or_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(odd, "_LARGE", (1920, 1440))
    detector = open_detector()
    monkeypatch.setattr(odd, "open_detector", lambda file: detector)
    names = odd.make_odd_photos(tmp_path / "odd")
    (tmp_path / "faces").mkdir()
    cases = [odd._measure(tmp_path / "odd", tmp_path / "faces", name, None) for name in names]
    reasons = {case["photo"]: case["reason"] for case in cases}
    bad = dict.fromkeys(("truncated.jpg", "no_image.jpg", "empty.jpg"), "unreadable")
    expected = {**dict.fromkeys(names, "written"), **bad, "nobody.jpg": "no_face"}
    assert reasons == expected
    faces = {path.stem for path in (tmp_path / "faces").glob("*.jpg")}
    assert faces == {Path(name).stem for name, reason in reasons.items() if reason == "written"}
    group = {"faces": 2, "found": 1, "errors": [0.25]}
    page = markdown(
        {
            "command": "x", "settings": "y", "processes": 2,
            "machine": {"device": "d", "cores": 2, "threads": 1, "versions": {}, "commit": None},
            "accuracy": {"groups": {"others": group}, "false": 0, "photos": 10},
            "speed": {"seconds": [4, 5, 6], "cpu_seconds": [9], "written": 3, "right": 2},
            "odd": [{**case, "moved": None} for case in cases],
        }
    )  # fmt: skip
    assert "50.0%" in page
    assert "2.0 photos a second" in page
    assert "truncated.jpg" in page
