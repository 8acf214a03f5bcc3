import logging
import os
from pathlib import Path

import numpy as np
import pytest

from data.datasets.lists import ListError, read_list


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


def test_one_name_among_numbers_makes_names_of_all_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        listed = read_list(write(tmp_path / "x.csv", "a,10\nb,1O\nc,9\n"))
    assert listed.names == ["10", "1O", "9"]
    assert "2 labels are numbers, 1 are not ('1O' is the first)" in caplog.text


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
        with pytest.raises(ListError, match=r"line 1: found .* in double quotes; correct"):
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
    assert "x.LST, line 2: 3 labels: of several only the first counts" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", "names no image"),
        ("x.csv", "path,label\n", "names no image"),
        ("x.csv", "a\n", "line 1: found 'a', expected path,label"),
        ("x.csv", "a,0\nb\t1\n", "line 2: found 'b.t1', expected path,label"),
        ("x.txt", "a\t0\nb,1\n", "line 2: found 'b,1', expected path<tab>label"),
        ("x.csv", "a,0\n,1\n", "line 2: found ',1'"),
        ("x.csv", "a,0\nb, \n", "line 2: found 'b,'"),
        ("x.csv", "a,0\nb,-1\n", "line 2: found 'b,-1', expected a name or a whole number"),
        ("x.csv", "a,0.5\n", "line 1: found 'a,0.5', expected a name or a whole number"),
        ("x.csv", "a,nan\n", "line 1: found 'a,nan', expected a name or a whole number"),
        ("x.csv", "a,0\n" + "b" * 200_000 + ",0\n", "line 2: field larger than field limit"),
        ("x.csv", 'a,0\n"b"/1.jpg,0\n', "line 2: .* expected .*: expected path,label; a field tha"),
        ("x.tsv", 'a\t0\n"b.jpg\t0\n', "line 2: unexpected end of data: expected path<tab>label"),
        ("x.csv", "a, b.jpg,ann\n", "line 1: found 'a, b.jpg,ann', .* in double quotes; correct"),
        ("x.lst", "0\t1\n", "line 1: found '0.t1', expected index<tab>label<tab>path"),
        ("x.lst", "0\t1\ta\nx\t1\tb\n", "line 2: found 'x.t1.tb', expected index"),
        ("x.lst", "0\tann\ta\n", "expected a class number"),
        ("x.lst", "0\t-1\ta\n", "expected a class number"),
        ("x.lst", "0\t0.5\ta\n", "expected a class number"),
        ("x.lst", "a.jpg,0\n", "line 1: found 'a.jpg,0', expected index<tab>label<tab>path"),
        # rows that contradict each other
        ("x.csv", "a,0\nb,1\na,1\n", "line 3: 'a', label 1, was on line 1 already with label 0"),
        ("x.csv", "path,label\n\na,0\na,0\n", "line 4: 'a', label 0, was on line 3 already"),
        ("x.csv", "a/b,0\n./a//b,0\n", "line 2: './a//b', label 0, was on line 1"),
        ("x.lst", "0\t0\ta\n1\t0\ta\n", "line 2: 'a', label 0, was on line 1"),
        ("x.lst", "4\t0\ta\n3\t0\tb\n4\t0\tc\n", "line 3: index 4 was on line 1 already"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ListError, match=message):
        read_list(write(tmp_path / name, text))
