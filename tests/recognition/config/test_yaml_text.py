import contextlib
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recognition.config.yaml_text import (
    MOST_CHARACTERS,
    MOST_LEVELS,
    check_printable,
    dump_yaml,
    parse_yaml,
)


def printable(text: str) -> bool:
    try:
        check_printable(text)
    except ValueError:
        return False
    return True


TEXT = st.one_of(
    st.text().filter(printable),
    st.text("0123456789.eE+-_:~<=xo", max_size=8),  # what looks like a number, and nearly
    st.sampled_from(["yes", "off", "null", "", "~", "<<", "=", "2025-01-31", ".inf", "*a", "!b"]),
)
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(st.dictionaries(TEXT.filter(lambda key: key != "<<"), VALUES, max_size=3))
def test_what_is_written_is_read_again(values: dict[str, Any]) -> None:
    found = parse_yaml(dump_yaml(values))
    assert repr(found) == repr(values)  # 1, 1.0 and True are equal, but not the same


@given(st.text() | st.text("[]{}:,-?&*!|>'\"%@#ab1\\ \n", max_size=60))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        dump_yaml(parse_yaml(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("5e+2", 500.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("010", 10),
        ("-3", -3),
        ("12:30", "12:30"),
        ("2025-01-31", "2025-01-31"),
        ("-.inf", -math.inf),
        ("9" * 5000, math.inf),
        ("inf", "inf"),
        ("yes", True),
        ("'1'", "1"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert repr(parse_yaml(text)) == repr(value)


def test_keys_are_text() -> None:
    assert parse_yaml("{yes: 1, 3: &x 2, ~: 0, *x : 5}") == {"yes": 1, "3": 2, "~": 0, "2": 5}


def test_aliases_and_merges_stand_for_what_they_name() -> None:
    text = "{a: &a {x: 1, y: 2}, b: &b {<<: *a, x: 3}, c: [*a, *b]}"
    a, b = {"x": 1, "y": 2}, {"x": 3, "y": 2}
    assert parse_yaml(text) == {"a": a, "b": b, "c": [a, b]}


def bomb(first: str, section: str) -> str:
    """Return YAML in which each of eight lines has the one before nine times."""
    lines = [f"n0: &n0 {first}"]
    for n in range(8):
        lines.append(f"n{n + 1}: &n{n + 1} {section % ', '.join([f'*n{n}'] * 9)}")
    return "\n".join(lines)


# YAML, and the line at which it is refused.
REFUSED = {
    "deep flow": ("a: " + "[" * 5_000, 1),
    "deep block": ("\n".join(" " * n + "a:" for n in range(400)), MOST_LEVELS),
    "deep keys": ("? " * 1000, 1),
    "aliases": (bomb("[x, x]", "[%s]"), 6),
    "merges": (bomb("{x: 1}", "{<<: [%s]}"), 6),
    "aliases of a long text": (f"- &a {'x' * 1000}\n" + "- *a\n" * 200, 131),
    "an alias within itself": ("\n&a [1, *a]", 2),
    "a section within itself": ("\n&a {b: *a}", 2),
    "a duplicate key": ("a: 1\nb: 2\na: 3", 3),
    "a duplicate after unquoting": ("a: 1\n'a': 3", 2),
    "a list as a key": ("\n? [a]\n: 1", 2),
    "a tag": ("\n- !!binary eA==", 2),
    "a tag of Python": ("!!python/object/apply:os.system [ls]", 1),
    "a tag without its pattern": ("!!timestamp x", 1),
    "a control character": ('\n\n"\\e[2J"', 3),
    "a control character in a key": ('\n"a\\n": 1', 2),
    "half a character": ('"\\ud800"', 1),
    "two documents": ("a\n---\nb", 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_its_line(name: str) -> None:
    text, line = REFUSED[name]
    with pytest.raises(ValueError, match=rf"^line {line}, column \d+: ") as caught:
        parse_yaml(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ['"\\UFFFFFFFF"', "\x1b", "#" * (MOST_CHARACTERS + 1)])
def test_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_yaml(text)
