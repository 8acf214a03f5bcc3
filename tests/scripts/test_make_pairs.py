import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.pairs.bin_file import read_pair_file, write_pair_file
from eval.protocol import fold_indices
from scripts.make_pairs import main
from tests.conftest import picture


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for identity in range(20):
        folder = tmp_path / "faces" / f"{identity:02}"
        folder.mkdir(parents=True)
        for number in range(2):
            (folder / f"{number}.jpg").write_bytes(picture(identity, number, 8))
    return tmp_path / "faces"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_folder_to_a_set_to_files_and_back(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(faces, tmp_path / "set.bin", "--pairs", 40, "--seed", 3) == 0
    assert re.search(r"set\.bin: 40 .* 20 ", capsys.readouterr().out)
    assert run("--unpack", tmp_path / "set.bin", tmp_path / "files") == 0
    assert run(tmp_path / "files" / "pairs.csv", tmp_path / "again.bin") == 0
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "set.bin").read_bytes()


def test_ten_people_make_a_set_with_even_folds(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for identity in range(10, 20):
        shutil.rmtree(faces / f"{identity:02}")
    assert run(faces, tmp_path / "set.bin") == 0
    output = capsys.readouterr()
    assert re.search(r"set\.bin: 20 .* 10 ", output.out)
    assert sum(line.startswith("note: ") for line in output.err.splitlines()) == 2
    same = read_pair_file(tmp_path / "set.bin").same
    assert [same[fold].sum() for fold in fold_indices(20)] == [1] * 10


def test_a_set_in_another_order_is_made_again_as_verification_advises(
    faces: Path, tmp_path: Path
) -> None:
    assert run(faces, tmp_path / "set.bin") == 0
    pairs = read_pair_file(tmp_path / "set.bin")
    order = np.argsort(~pairs.same, kind="stable")
    images = [pairs.images[2 * k + side] for k in order for side in (0, 1)]
    write_pair_file(tmp_path / "sorted.bin", images, pairs.same[order])
    assert run("--unpack", tmp_path / "sorted.bin", tmp_path / "files") == 0
    listed = tmp_path / "files" / "pairs.csv"
    listed.write_text(re.sub(r",\w+$", "", listed.read_text(), flags=re.MULTILINE))
    assert run(listed, tmp_path / "again.bin") == 0
    same = read_pair_file(tmp_path / "again.bin").same
    assert all(2 * same[fold].sum() == len(fold) for fold in fold_indices(len(same)))


def test_a_list_with_its_images_elsewhere(faces: Path, tmp_path: Path) -> None:
    rows = [f"{i:02}/0.jpg,{(i + i % 2) % 20:02}/1.jpg,{1 - i % 2}" for i in range(20)]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    arguments = (tmp_path / "pairs.csv", tmp_path / "set.bin", "--images", faces)
    assert run(*arguments) == 0
    assert read_pair_file(tmp_path / "set.bin").same.tolist() == [True, False] * 10
    (tmp_path / "pairs.csv").write_text("\n".join(rows[:-1]))
    assert run(*arguments) == 1
    assert run(*arguments, "--uneven") == 0


def test_refusals_are_one_line(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, named in (
        ((faces, tmp_path / "set.csv"), str(tmp_path / "set.csv")),
        ((faces, tmp_path / "set.bin", "--pairs", 25), "25"),
        ((tmp_path / "absent.csv", tmp_path / "set.bin"), str(tmp_path / "absent.csv")),
        (("--unpack", faces, tmp_path / "out"), str(faces)),
    ):
        assert run(*arguments) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(lines) == 1
        assert named in lines[0]
