"""Tests of `eval.suites.settings`: a suite is as strict as a config."""

from pathlib import Path

import pytest

from eval.suites.settings import Suite, read_suite
from recognition.config_file import ConfigError

SHIPPED = Path(__file__).parents[3] / "configs" / "suites"


def _read(tmp_path: Path, text: str) -> Suite:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return read_suite(path)


def test_shipped_suites_are_read() -> None:
    suites = {path.stem: read_suite(path) for path in SHIPPED.glob("*.yaml")}
    assert set(suites) == {"standard", "ijbc", "tinyface", "held_out"}
    assert suites["standard"].names == ["lfw", "cfp_fp", "agedb_30"]
    assert suites["ijbc"].ijb["ijbc"].crop == "published"
    assert suites["standard"].fars == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]


def test_the_suite_of_the_documentation_is_read(tmp_path: Path) -> None:
    text = (SHIPPED.parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    suite = _read(tmp_path, text.partition("```yaml\n")[2].partition("```")[0])
    assert suite.names == ["lfw", "calfw", "mine", "ijbc"]


def test_a_suite_builds_on_another(tmp_path: Path) -> None:
    suite = _read(
        tmp_path,
        f"base: {SHIPPED / 'standard.yaml'}\npairs:\n  mine: {{format: folder, file: faces}}\n",
    )
    assert suite.names == ["lfw", "cfp_fp", "agedb_30", "mine"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pairs: {lfw: {flie: lfw.bin}}", ["pairs.lfw.flie", "file"]),
        ("pairs: {lfw: {}}", ["pairs.lfw.file"]),
        ("replicates: 10", ["megaface"]),
        ("pairs: {a: {file: a}}\ntinyfaces: {}", ["tinyfaces", "tinyface?"]),
        ("pairs: {a: {file: a, format: lfw}}", ["pairs.a", "images"]),
        ("pairs: {a: {file: a, same: 3}}", ["pairs.a", "folder"]),
        ("pairs: {a: {file: a}}\nijb: {a: {meta: b, images: c}}", ["a occur"]),
        ("ijb: {a: {meta: b, images: c, modes: [N2]}}", ["ijb.a", "N2", "N0D0F0"]),
        ("flip: false\nijb: {a: {meta: b, images: c}}", ["flip", "N1D1F1"]),
        ("pairs: {a: {file: a}}\nfars: [0]", ["fars.0"]),
        ("pairs: {a: {file: a}}\nfars: [0.1, 0.1]", ["0.1"]),
        ("pairs: {a: {file: a}}\ncalibration: {chosen_on: b, far: 0.1}", ["chosen_on", "b"]),
        (
            "megaface: {m: {probes: a, probe_images: b, distractors: [c], distractor_images: d,"
            " noise: [dropped]}}",
            ["megaface.m", "probe_noise"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, found: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        _read(tmp_path, text)
    for words in found:
        assert words in str(error.value)
