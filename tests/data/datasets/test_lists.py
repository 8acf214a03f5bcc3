import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from data.datasets.lists import ListError, Texts, read_list


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("head", ["", "path{}label{}", "\n \nPath{} Label{}"])
@pytest.mark.parametrize("suffix", [".csv", ".txt", ".tsv"])
def test_paths_and_labels_are_read(
    separator: str, line_end: str, head: str, suffix: str, tmp_path: Path
) -> None:
    lines = head.format(separator, line_end)
    lines += line_end.join(["b/1.jpg;bob", "a/1.jpg;ann", "", "b/2.jpg;bob", ""])
    listed = read_list(write(tmp_path / f"x{suffix}", lines.replace(";", separator)))
    assert list(listed.paths) == ["b/1.jpg", "a/1.jpg", "b/2.jpg"]
    assert listed.labels.tolist() == [1, 0, 1]
    assert listed.labels.dtype == np.int32
    assert listed.names == ["ann", "bob"]


def test_labels_that_are_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    listed = read_list(write(tmp_path / "x.csv", "a,10\nb,9\nc,10\nd,9.0\ne,002\n"))
    assert listed.names == [2, 9, 10]
    assert listed.labels.tolist() == [2, 1, 2, 1, 0]


def test_one_name_among_numbers_makes_names_of_all_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        listed = read_list(write(tmp_path / "x.csv", "a,10\nb,1O\nc,9\n"))
    assert listed.names == ["10", "1O", "9"]
    (warning,) = caplog.records
    assert warning.args == (tmp_path / "x.csv", 2, 1, "1O")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a, b.jpg\tann\n", "a, b.jpg"),
        ('"a, b.jpg",ann\n', "a, b.jpg"),
        (' "a, b.jpg" ,ann\n', None),
        ('"""Bo"", b.jpg",ann\n', '"Bo", b.jpg'),
        ('""" b.jpg"\tann\n', '" b.jpg'),
        ('a"b.jpg,ann\n', 'a"b.jpg'),
    ],
)
def test_separators_and_quotes_in_a_path_are_quoted(
    text: str, path: str | None, tmp_path: Path
) -> None:
    listed = write(tmp_path / "x.txt", text)
    if path is None:
        with pytest.raises(ListError, match=r"x\.txt, line 1: "):
            read_list(listed)
    else:
        assert list(read_list(listed).paths) == [path]


def test_file_names_need_not_be_utf_8(tmp_path: Path) -> None:
    listed = read_list(write(tmp_path / "x.csv", b"\xef\xbb\xbfZo\xc3\xab.jpg,0\ncaf\xe9.jpg,1\n"))
    assert [os.fsencode(path) for path in listed.paths] == ["Zoë.jpg".encode(), b"caf\xe9.jpg"]


def test_mxnet_s_lists_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = '7\t3.000000\tb/1 x.jpg\n2\t0\t1.5\t-2\ta,1.jpg\r\n\n5 \t 3 \t b/"2".jpg'
    listed = read_list(write(tmp_path / "x.LST", text))
    assert list(listed.paths) == ["b/1 x.jpg", "a,1.jpg", 'b/"2".jpg']
    assert listed.labels.tolist() == [1, 0, 1]
    assert listed.names == [0, 3]
    (warning,) = caplog.records
    assert warning.args == (tmp_path / "x.LST", 2, 3)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("x.csv", "", "x.csv"),
        ("x.csv", "path,label\n", "x.csv"),
        ("x.csv", "a\n", "line 1: .*'a'.* path,label"),
        ("x.csv", "a,0\nb\t1\n", r"line 2: .*'b\\t1'.* path,label"),
        ("x.txt", "a\t0\nb,1\n", "line 2: .*'b,1'.* path<tab>label"),
        ("x.csv", "a,0\n,1\n", "line 2: .*',1'"),
        ("x.csv", "a,0\nb, \n", "line 2: .*'b,'"),
        ("x.csv", "a,0\nb,-1\n", "line 2: .*'b,-1'"),
        ("x.csv", "a,0.5\n", "line 1: .*'a,0.5'"),
        ("x.csv", "a,nan\n", "line 1: .*'a,nan'"),
        ("x.csv", "a,0\n" + "b" * 200_000 + ",0\n", "line 2: "),
        ("x.csv", 'a,0\n"b"/1.jpg,0\n', "line 2: .* path,label"),
        ("x.tsv", 'a\t0\n"b.jpg\t0\n', "line 2: .* path<tab>label"),
        ("x.csv", "a, b.jpg,ann\n", "line 1: .*'a, b.jpg,ann'"),
        ("x.lst", "0\t1\n", r"line 1: .*'0\\t1'.* index<tab>label<tab>path"),
        ("x.lst", "0\t1\ta\nx\t1\tb\n", r"line 2: .*'x\\t1\\tb'.* index<tab>"),
        ("x.lst", "0\tann\ta\n", r"line 1: .*'0\\tann\\ta'"),
        ("x.lst", "0\t-1\ta\n", r"line 1: .*'0\\t-1\\ta'"),
        ("x.lst", "0\t0.5\ta\n", r"line 1: .*'0\\t0.5\\ta'"),
        ("x.lst", "a.jpg,0\n", "line 1: .*'a.jpg,0'.* index<tab>label<tab>path"),
        # rows that contradict each other
        ("x.csv", "a,0\nb,1\na,1\n", "line 3: 'a', label 1, .*line 1 .*label 0"),
        ("x.csv", "path,label\n\na,0\na,0\n", "line 4: 'a', label 0, .*line 3 "),
        ("x.csv", "a/b,0\n./a//b,0\n", "line 2: './a//b', label 0, .*line 1 "),
        ("x.lst", "0\t0\ta\n1\t0\ta\n", "line 2: 'a', label 0, .*line 1 "),
        ("x.lst", "4\t0\ta\n3\t0\tb\n4\t0\tc\n", "line 3: index 4 .*line 1 "),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(
    name: str, text: str, found: str, tmp_path: Path
) -> None:
    with pytest.raises(ListError, match=rf"{name}.*{found}" if found != name else found):
        read_list(write(tmp_path / name, text))


@pytest.mark.parametrize("name", ["x.csv", "x.lst"])
@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a\0b.jpg", r"'a\\x00b.jpg', .*'\\x00'"),
        ("a\x1b[31mb.jpg", r"'a\\x1b\[31mb.jpg', .*'\\x1b'"),
        ("a\x9bb.jpg", r"'\\x9b'"),
        ("d/" + "x" * 256, " 256 bytes"),
        ("é" * 130, " 260 bytes"),
        ("d/" * 2050 + "x", "4,101 in all"),
        ("x" * 3_000_000, "1,048,576"),
    ],
)
def test_a_path_that_no_file_has_is_refused_with_its_line(
    name: str, path: str, found: str, tmp_path: Path
) -> None:
    row = "{number}\t7\t{path}\n" if name == "x.lst" else "{path},7\n"
    text = row.format(number=1, path="a.jpg") + row.format(number=2, path=path)
    with pytest.raises(ListError, match=rf"{name}, line 2: .*{found}") as caught:
        read_list(write(tmp_path / name, text))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("label", ["a\0", "\x1b[31mann", "'ann\x07'"])
def test_a_label_with_a_control_character_is_refused(label: str, tmp_path: Path) -> None:
    with pytest.raises(ListError, match="line 2: ") as caught:
        read_list(write(tmp_path / "x.csv", f"a.jpg,bob\nb.jpg,{label}\n"))
    assert str(caught.value).isprintable()


def test_unusual_names_are_read(tmp_path: Path) -> None:
    paths = ["x" * 255, "d/" * 2000 + "x", "山" * 85, "a\xa0b \u3000c"]
    text = "".join(f"{path},z\u3000w{'v' * 500}\n" for path in paths)
    assert list(read_list(write(tmp_path / "x.csv", text)).paths) == paths


def test_a_list_in_utf_16_is_refused_at_its_first_line(tmp_path: Path) -> None:
    with pytest.raises(ListError, match=r"line 1: .*UTF-8"):
        read_list(write(tmp_path / "x.csv", "a.jpg,0\nb.jpg,1\n".encode("utf-16")))


TEXTS = ["a/x.jpg", "", "Zoë/日本.png", os.fsdecode(b"latin-\xe9.jpg"), "x" * 300]


def test_texts_are_kept_also_if_they_are_not_utf_8() -> None:
    texts = Texts(iter(TEXTS))
    assert len(texts) == 5
    assert list(texts) == TEXTS
    assert [texts[index] for index in range(5)] == TEXTS
    assert list(pickle.loads(pickle.dumps(texts))) == TEXTS


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_outside_the_texts_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match=f"{index} of 5"):
        Texts(TEXTS)[index]


def test_many_texts_take_little_more_than_their_letters() -> None:
    assert len(pickle.dumps(Texts(f"{n:08}" for n in range(10_000)))) < 10_000 * 17
