"""Tests of `eval.report.chart`: what is drawn where."""

import re

import pytest

from eval.report.chart import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    Mark,
    Series,
    bars,
    line_chart,
    linear_axis,
    log_axis,
    rate_axis,
)

LINE = re.compile(r'<path d="([^"]*)" class="line"/></g>')
FAR = Axis("FAR", 1e-4, 1, log=True)
RATE = Axis("TAR", 0, 1)


def drawn(html: str) -> list[str]:
    return LINE.findall(html)


def test_a_line_goes_through_its_points() -> None:
    points = [(1e-4, 0.0), (1e-2, 0.5), (1.0, 1.0)]
    (path,) = drawn(line_chart("t", FAR, RATE, [Series("", 0, points)]))
    middle = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
    assert path == f"M{LEFT} {BOTTOM}L{middle[0]:g} {middle[1]:g}L{RIGHT} {TOP}"
    (steps,) = drawn(line_chart("t", FAR, RATE, [Series("", 0, points, steps=True)]))
    assert steps == f"M{LEFT} {BOTTOM}H{middle[0]:g}V{middle[1]:g}H{RIGHT}V{TOP}"


def test_a_rate_of_zero_is_not_on_a_logarithmic_axis() -> None:
    (path,) = drawn(line_chart("t", FAR, RATE, [Series("", 0, [(0.0, 0.9), (1e-2, 1.0)])]))
    assert path.count("M") + path.count("L") == 1
    html = line_chart("t", FAR, RATE, [Series("", 0, [(0.0, 0.9)])])
    assert drawn(html) == [""]
    assert "no point" in html


def test_a_point_that_is_drawn_twice_is_written_once() -> None:
    points = [(0.5, 0.5 + k * 1e-9) for k in range(1000)]
    (path,) = drawn(line_chart("t", RATE, RATE, [Series("", 0, points)]))
    assert len(path) < 20


def test_few_points_tell_their_values_the_last_one_among_them() -> None:
    points = [(k / 1000, k / 1000) for k in range(1001)]
    html = line_chart("t", RATE, RATE, [Series("", 0, points, [f"point {k}" for k in range(1001)])])
    assert 30 < html.count("<circle") <= 61
    assert "<title>point 0</title>" in html
    assert "<title>point 1000</title>" in html


def test_bands_and_marks_stay_inside() -> None:
    low = Axis("FNMR", 1e-3, 1, log=True)
    series = Series("", 0, [(0.01, 0.1)], band=[(0.01, 0.0, 0.2), (0.1, 0.0, 0.1)])
    html = line_chart("t", FAR, low, [series], [Mark(0.01, "one"), Mark(0.011, "two")])
    (band,) = re.findall(r'd="M([^"]*)Z" class="band"', html)
    assert [point.split()[1] for point in band.split("L")][:2] == [str(BOTTOM)] * 2
    heights = re.findall(r'y="([\d.]+)"[^>]*class="marked"', html)
    assert len(set(heights)) == 2


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (log_axis("x", [0.0, 2e-4, 1.0]), ["10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "10⁰"]),
        (log_axis("x", [1e-9, 1.0]), ["10⁻⁹", "10⁻⁷", "10⁻⁵", "10⁻³", "10⁻¹"]),
        (log_axis("x", []), ["10⁻¹", "10⁰"]),
        (log_axis("x", [10, 1000]), ["10¹", "10²", "10³"]),
        (linear_axis("x", [-0.1, 0.93]), ["-0.2", "0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (linear_axis("x", [0.0, 4e7]), ["0", "1e7", "2e7", "3e7", "4e7"]),
        (rate_axis("x", [0.99, 1.0]), ["0.95", "0.96", "0.97", "0.98", "0.99", "1.00"]),
        (rate_axis("x", [0.31]), ["0.2", "0.4", "0.6", "0.8", "1.0"]),
    ],
)
def test_labels_of_axes(axis: Axis, labels: list[str]) -> None:
    assert [label for _, label in axis.ticks()] == labels
    assert axis.part(axis.ticks()[0][0]) == pytest.approx(0)
    assert axis.part(axis.high) == pytest.approx(1)


def test_equal_scores_have_an_axis() -> None:
    axis = linear_axis("x", [0.5, 0.5])
    assert axis.low < 0.5 < axis.high
    assert 1 < len(axis.ticks()) < 8


def test_bars_are_closed() -> None:
    assert bars([0.0, 1.0, 2.0], [3.0, 4.0]) == [(0, 0), (0, 3), (1, 4), (2, 0)]
