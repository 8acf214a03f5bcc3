import json
from pathlib import Path

import numpy as np
import pytest

from eval.protocols.megaface_files import (
    BLOCK,
    noisy_distractors,
    noisy_probes,
    read_feature,
    read_features,
    read_noise_list,
    read_photo_list,
    read_probe_list,
)

FOLDER = Path(__file__).parents[2] / "fixtures" / "evaluation" / "megaface"


def write(path: Path, header: list[int], numbers: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = np.arange(numbers, dtype="<f4")
    path.write_bytes(np.array(header, "<i4").tobytes() + content.tobytes())
    return path


def test_a_feature_file_of_the_reference_is_read() -> None:
    expected = json.loads((FOLDER / "expected.json").read_text())["feature_file_probe_0"]
    assert read_feature(FOLDER / "features" / "probe_0_made.bin").tolist() == expected


@pytest.mark.parametrize("header", [[6, 1, 4, 5], [1, 6, 24, 5], [1, 6, 4, 5]])
def test_feature_files_are_a_row_or_a_column(tmp_path: Path, header: list[int]) -> None:
    assert read_feature(write(tmp_path / "a.bin", header, 6)).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "header", [[6, 1, 4, 6], [2, 3, 12, 5], [6, 1, 8, 5], [7, 1, 4, 5], [-6, -1, 4, 5], [6, 1]]
)
def test_other_feature_files_are_refused(tmp_path: Path, header: list[int]) -> None:
    with pytest.raises(ValueError, match=r"a\.bin"):
        read_feature(write(tmp_path / "a.bin", header, 6))


def test_features_come_in_blocks_in_the_order_of_the_list(tmp_path: Path) -> None:
    names = [f"{number}/x.jpg" for number in range(3)]
    for number, name in enumerate(names):
        write(tmp_path / f"{name}_net.bin", [4, 1, 4, 5], 4)
        (tmp_path / f"{name}_net.bin").write_bytes(
            np.array([2, 1, 4, 5], "<i4").tobytes() + np.array([number, 1], "<f4").tobytes()
        )
    repeated = names * (BLOCK // 3 + 1)
    blocks = list(read_features(tmp_path, repeated, "_net.bin"))
    assert [len(block) for block in blocks] == [BLOCK, len(repeated) - BLOCK]
    assert np.concatenate(blocks)[:, 0].tolist() == [0, 1, 2] * (BLOCK // 3 + 1)
    write(tmp_path / "1/x.jpg_net.bin", [3, 1, 4, 5], 3)
    with pytest.raises(ValueError, match=r"1/x\.jpg_net\.bin: 3 .* 2,"):
        list(read_features(tmp_path, names, "_net.bin"))
    with pytest.raises(ValueError, match=r"absent_net\.bin"):
        list(read_features(tmp_path, ["absent"], "_net.bin"))


def test_noise_lists_have_names_with_or_without_numbers(tmp_path: Path) -> None:
    path = tmp_path / "noise.txt"
    path.write_bytes(b"# 3 names\r\n7\ta b/1.jpg\r\n\r\nc.jpg\r\n")
    assert read_noise_list(path) == {"a b/1.jpg", "c.jpg"}
    for line in ("x\ty", "1\t2\t3", "4\t"):
        path.write_text(f"a\n{line}\n")
        with pytest.raises(ValueError, match=r"noise\.txt, line 2"):
            read_noise_list(path)


def test_noise_names_probes_by_file_and_distractors_by_path() -> None:
    paths = ["a/1.jpg", "a/2.jpg"]
    assert noisy_probes(paths, {"2.jpg"}).tolist() == [False, True]
    assert noisy_distractors(paths, {"2.jpg", "a/1.jpg"}).tolist() == [True, False]
    with pytest.warns(UserWarning, match=r"1 of 2 .* 3\.jpg"):
        noisy_probes(paths, {"2.jpg", "3.jpg"})


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ('{"path": ["a", "b"], "id": ["A"]}', " 2 .* 1 "),
        ('{"path": ["a", "a"], "id": ["A", "A"]}', "1 of 2"),
        ('{"path": ["a"]}', "'id'"),
        ('{"path": [], "id": []}', "'path'"),
        ('["a"]', "'path'"),
        ("{", "JSON"),
    ],
)
def test_other_lists_are_refused(tmp_path: Path, content: str, values: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"list\.json.*{values}"):
        read_probe_list(path)
    with pytest.raises(ValueError, match=r"absent\.json"):
        read_photo_list(tmp_path / "absent.json")
