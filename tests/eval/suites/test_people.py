"""Tests of `eval.suites.people`."""

from pathlib import Path

import pytest

from eval.suites.people import people_of_names, read_people


@pytest.mark.parametrize(
    ("form", "paths", "subjects"),
    [
        ("lfw", ["Al_B/Al_B_0001.jpg", "Cy/Cy_0001.jpg", "Al_B/Al_B_0002.jpg"], [0, 1, 0]),
        ("calfw", ["Al_B_0001.jpg", "Al_B_0002.jpg", "Al_0001.jpg"], [1, 1, 0]),
        ("cfp_fp", ["Data/Images/002/frontal/01.jpg", "Data/Images/001/profile/01.jpg"], [1, 0]),
        ("agedb", ["0_MariaCallas_35_f.jpg", "9_MariaCallas_40_f.jpg", "3_Al_B_9_m.jpg"],
         [1, 1, 0]),
        ("folder", ["a/1.png", "b/1.png"], [0, 1]),
    ],
)  # fmt: skip
def test_official_lists_name_the_people(form: str, paths: list[str], subjects: list[int]) -> None:
    people = people_of_names(paths, form)
    assert people is not None
    assert people.subject_n.tolist() == subjects
    assert people.count == max(subjects) + 1


def test_other_lists_do_not() -> None:
    assert people_of_names(["a.png"], "csv") is None


def test_a_list_of_people(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("image,subject,quality,group\nb,Al,2,x\na,Cy,1.5,y\n\nc,Al,3,x\n")
    people = read_people(path, ["a", "b"])
    assert people.subject_n.tolist() == [1, 0]
    assert people.count == 2
    assert people.group_n == ("y", "x")
    assert people.quality_n is not None
    assert people.quality_n.tolist() == [1.5, 2.0]
    path.write_text("image,subject\na,Cy\n")
    assert read_people(path, ["a"]).group_n is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "none"),
        ("image,person\na,b\n", "person"),
        ("image,subject\na\n", "line 2"),
        ("image,subject\nb,c\n", "a; expected"),
        ("image,subject\na,c\na,d\n", "two lines"),
        ("image,subject\na,\n", "subject"),
        ("image,subject,quality\na,c,high\n", "high"),
        ("image,subject,quality\na,c,nan\n", "finite"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "people.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=found) as error:
        read_people(path, ["a"])
    assert str(path) in str(error.value)
