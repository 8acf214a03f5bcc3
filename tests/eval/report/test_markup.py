"""Tests of `eval.report.markup` and `figures`: nothing from outside acts as HTML."""

import pytest

from eval.report.figures import Node, limits, number, short, text
from eval.report.markup import Html, join, table, tag

ATTACK = "<script>alert(1)</script>\"'&"


def test_text_is_escaped_and_html_is_not() -> None:
    assert join(ATTACK, None, Html("<b>x</b>")) == (
        "&lt;script&gt;alert(1)&lt;/script&gt;\"'&amp;<b>x</b>"
    )
    assert tag("p", ATTACK + Html("<b>"), title=ATTACK, data_x=None).count("<") == 2
    assert tag("img", src='"><script>') == '<img src="&quot;&gt;&lt;script&gt;"/>'
    assert table(ATTACK, [ATTACK], [[ATTACK]]).count("<script") == 0
    assert tag("th", class_="a", data_one=1, viewBox="0") == (
        '<th class="a" data-one="1" viewBox="0"></th>'
    )


def test_a_figure_says_where_it_stands() -> None:
    node = Node({"a/b": [{"c~": 0.123456}]})["a/b"][0]["c~"]
    assert node.pointer == "/a~1b/0/c~0"
    assert number(node) == '<data value="0.123456" data-figure="/a~1b/0/c~0">0.1235</data>'
    assert text(Node(ATTACK, "/x")).count("<") == 2
    assert limits(Node(None, "/x")) == number(Node(None, "/x"))
    assert ">not known<" in number(Node(None), unknown="not known")
    assert [one.pointer for one in Node({"k": 1, "l": 2}, "/x")] == ["/x/k", "/x/l"]


@pytest.mark.parametrize(
    ("value", "form", "unit", "shown"),
    [
        (0.00012, "fixed", 1, "0.0001"),
        (0.0000123, "short", 1, "1.23e-5"),
        (0.0, "short", 1, "0"),
        (15_658_489, "count", 1, "15,658,489"),
        (-0.01, "signed", 1, "-0.0100"),
        (127.5, "exact", 1, "127.5"),
        (1_234_567_890, "fixed", 1e9, "1.2346"),
    ],
)
def test_numbers_are_shown(value: float, form: str, unit: float, shown: str) -> None:
    assert f">{shown}<" in number(Node(value), form, unit=unit)
    assert short(2.5e10) == "2.5e10"
