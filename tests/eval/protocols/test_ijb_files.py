"""The readers of IJB: what they return, and what they refuse with its place."""

from pathlib import Path

import pytest

from eval.protocols import ijb_files
from eval.protocols.ijb_files import (
    check_same_faces,
    find_files,
    read_faces,
    read_landmarks,
    read_pairs,
    read_subjects,
    shorten,
)
from eval.protocols.rates import ProtocolWarning

POINTS = "46.0 62.0 87.0 60.3 68.8 77.6 52.1 99.8 86.4 98.6"


def write(tmp_path: Path, text: str, name: str = "list.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_faces_with_a_mark_of_utf8_and_windows_line_ends(tmp_path: Path) -> None:
    faces = read_faces(write(tmp_path, "\ufeff1.jpg 5 9\r\n\r\n2.jpg 3000000000 9\r\n"))
    assert faces.images == ("1.jpg", "2.jpg")
    assert faces.template_n.tolist() == [5, 3_000_000_000]
    assert faces.medium_n.tolist() == [9, 9]


def test_an_image_that_repeats_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(ProtocolWarning, match="1 of 3"):
        assert len(read_faces(write(tmp_path, "1.jpg 5 9\n2.jpg 5 9\n1.jpg 6 9\n")).images) == 3


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "faces"),
        ("1.jpg 5 9\n2.jpg 5\n", "line 2: 2 .*3"),
        ("1.jpg 5 9\n\n2.jpg five 9\n", "line 3: 'five'"),
    ],
)
def test_face_lists_that_are_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        read_faces(write(tmp_path, text))


def test_landmarks(tmp_path: Path) -> None:
    landmarks = read_landmarks(write(tmp_path, f"1.jpg {POINTS} 0.999\n2.jpg {POINTS} 0\n"))
    assert landmarks.points_n52.shape == (2, 5, 2)
    assert landmarks.points_n52[0, 1].tolist() == [87.0, 60.3]
    assert landmarks.detector_n.tolist() == [0.999, 0.0]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (f"1.jpg {POINTS} nan", "line 1: 1.jpg: .*nan"),
        (f"1.jpg {POINTS} -0.1", "line 1: 1.jpg: .*-0.1"),
        (f"1.jpg {POINTS} high", "line 1: .*high"),
        (f"1.jpg {POINTS}", "line 1: 11 .*12"),
        ("1.jpg" + " 7.5" * 10 + " 0.9", "1 of 1 .*1.jpg"),
    ],
)
def test_landmarks_that_are_refused(tmp_path: Path, line: str, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        read_landmarks(write(tmp_path, line + "\n"))


def test_pairs_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ijb_files, "PAIR_CHUNK", 2)
    pairs = read_pairs(write(tmp_path, "1 2 0\r\n3 4 1\r\n\r\n \n5000000000 6 1\n7 8 0\n"))
    assert pairs.id_u.tolist() == [1, 2, 3, 4, 6, 7, 8, 5_000_000_000]
    assert pairs.id_u[pairs.first_p].tolist() == [1, 3, 5_000_000_000, 7]
    assert pairs.id_u[pairs.second_p].tolist() == [2, 4, 6, 8]
    assert pairs.same_p.tolist() == [False, True, True, False]


def test_a_pair_takes_nine_bytes_whatever_its_ids_are(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, f"1 {2**62} 0\n"))
    assert [one.itemsize for one in (pairs.first_p, pairs.second_p, pairs.same_p)] == [4, 4, 1]
    assert pairs.id_u.tolist() == [1, 2**62]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "pairs"),
        ("\n\n", "pairs"),
        ("1 2 0\n1 2\n", "line 2: 2 .*3"),
        ("1 2 0\n1 2 0\n1 2 0 4\n", "line 3: 4 .*3"),
        ("1 2\n3 4\n", "line 1: 2 .*3"),
        ("1 2 0\n1 2 0\n1 2 1.0\n", "line 3: '1.0'"),
        ("1 2 0\n1 2 2\n1 3 -1\n", "2 of 3 .*-1, 2.*0 or 1"),
        ("1 2 0\n1 2 256\n", "1 of 2 .*256"),
    ],
)
def test_pairs_that_are_refused(
    tmp_path: Path, text: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ijb_files, "PAIR_CHUNK", 2)
    with pytest.raises(ValueError, match=found):
        read_pairs(write(tmp_path, text))


def test_subjects_by_the_names_of_the_columns(tmp_path: Path) -> None:
    text = (
        '\ufeffFILENAME,subject_id, TEMPLATE_ID\r\n"a,b.jpg",7,3\r\nc.jpg,7,3\r\n\r\nd.jpg,8,1\r\n'
    )
    subjects = read_subjects(write(tmp_path, text))
    assert subjects.template_t.tolist() == [3, 1]
    assert subjects.subject_t.tolist() == [7, 8]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "SUBJECT_ID and TEMPLATE_ID"),
        ("TEMPLATE_ID,NAME\n1,2\n", "SUBJECT_ID; found TEMPLATE_ID, NAME"),
        ("TEMPLATE_ID,SUBJECT_ID\n", "templates"),
        ("TEMPLATE_ID,SUBJECT_ID\n1,\n", "line 2: ''"),
        ("TEMPLATE_ID,SUBJECT_ID,FILENAME\n1,2,a\n1,2\n", "line 3: 2 .*3"),
        ("TEMPLATE_ID,SUBJECT_ID\n1,2\n3,4\n1,5\n", r"1 of 2 .*1 \(subjects 2, 5\)"),
    ],
)
def test_subjects_that_are_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        read_subjects(write(tmp_path, text))


def test_lists_of_other_faces_are_refused() -> None:
    check_same_faces(("a", "b"), ("a", "b"))
    with pytest.raises(ValueError, match=r"line 2: b .*c"):
        check_same_faces(("a", "b"), ("a", "c"))
    with pytest.raises(ValueError, match=r"2 .*1"):
        check_same_faces(("a", "b"), ("a",))


def test_files_of_either_set_are_found_by_name(tmp_path: Path) -> None:
    for name in ("face_tid_mid.txt", "name_5pts_score.txt", "template_pair_label.txt"):
        (tmp_path / f"ijbb_{name}").touch()
    assert find_files(tmp_path).probes is None
    for name in ("gallery_S1", "gallery_S2", "probe_mixed"):
        (tmp_path / f"ijbb_1N_{name}.csv").touch()
    files = find_files(tmp_path)
    assert files.faces.name == "ijbb_face_tid_mid.txt"
    assert list(files.galleries) == ["S1", "S2"]
    assert files.probes == tmp_path / "ijbb_1N_probe_mixed.csv"
    (tmp_path / "ijbc_face_tid_mid.txt").touch()
    with pytest.raises(ValueError, match=r"ijbb_face_tid_mid\.txt, ijbc_face"):
        find_files(tmp_path)
    with pytest.raises(ValueError, match="none"):
        find_files(tmp_path / "missing")


def test_long_lists_are_shortened() -> None:
    assert shorten(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert shorten(range(12)).endswith("9 and 2 more")
