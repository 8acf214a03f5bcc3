"""Tests of the page in a real browser: what it shows, how it fits, and that it asks for nothing."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.report import page
from eval.report.chart import LEFT, RIGHT, log_axis
from eval.report.page import render
from eval.suites.run import faces_to_show, open_suite, run_suite, with_folder
from eval.suites.settings import read_suite
from tests.eval.report.made_suite import write_suite
from tests.eval.suites.made_sets import corners, embedder, model, photo
from tests.eval.suites.test_run import RUN

pytestmark = pytest.mark.slow

NAME = '<script>document.title = "attacked"</script>&"\'<img src=x onerror=alert(1)>'
WIDTHS = (390, 1400)
PAPER = 718  # pixels between the margins of A4
PARTS = [
    "TAR at FAR", "DET", "ROC", "FMR at", "FNMR at", "Scores", "Ten folds", "Hardest pairs", "CMC",
    "Open set", "distractors", "Groups", "DET by group", "Quality", "Error against discard",
    "Calibration", "Comparison", "Cost", "mAP",
]  # fmt: skip

FIGURES = """() => [...document.querySelectorAll("[data-figure]")].map(one => ({
    pointer: one.dataset.figure, text: one.textContent, unit: one.dataset.unit || "1"}))"""
# Texts of a chart that leave it, or that meet another one.
CROWDED = """() => [...document.querySelectorAll("figure svg[role=img]")].flatMap(svg => {
    const around = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].map(one => [one, one.getBoundingClientRect()]);
    const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
        && a.top < b.bottom - 2 && b.top < a.bottom - 2;
    const label = svg.getAttribute("aria-label") + ": ";
    return [
        ...boxes.filter(([_, b]) => b.left < around.left - 1 || b.right > around.right + 1
            || b.top < around.top - 1 || b.bottom > around.bottom + 1)
            .map(([one, _]) => label + one.textContent),
        ...boxes.flatMap(([one, a], i) => boxes.slice(i + 1)
            .filter(([_, b]) => meet(a, b)).map(([two, _]) => label + one.textContent
            + " and " + two.textContent)),
    ];
})"""
# Cells whose content is wider than they are, outside charts, which have their own check.
CUT = """() => [...document.querySelectorAll("td, th, dd, dt, li, p, h1, h2, h3, h4, code, figure")]
    .filter(one => one.scrollWidth > one.clientWidth + 1 && one.clientWidth
        && getComputedStyle(one).display != "inline")
    .map(one => one.tagName + " " + one.textContent.slice(0, 60))"""
UNREACHABLE = """() => [...document.querySelectorAll("*")]
    .filter(one => one.scrollWidth > one.clientWidth + 1 && one.tabIndex < 0
        && getComputedStyle(one).overflowX == "auto").map(one => one.outerHTML.slice(0, 80))"""


@dataclass(frozen=True)
class Made:
    """A page and what it is made of."""

    values: dict[str, Any]
    html: str
    file: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("suite")
    suite = with_folder(read_suite(write_suite(root, photo, 18, name=NAME, replicates=5)), root)
    sets = open_suite(suite)
    models = [
        replace(model("first"), embed=lambda images: corners(images)[:, :5]),
        replace(model("<b>second</b>"), embed=lambda images: corners(images.round())[:, 3:9]),
    ]
    results = run_suite(suite, sets, models, embedder(), RUN)
    assert results is not None
    values = json.loads(json.dumps(results.to_json()))
    html = render(values, faces_to_show(results, sets))
    file = root / "results.html"
    file.write_text(html, encoding="utf-8")
    return Made(values, html, file)


@dataclass(frozen=True)
class Seen:
    """What a browser saw at one width."""

    width: int
    figures: list[dict[str, str]]
    overflow: int
    crowded: list[str]
    cut: list[str]
    unreachable: list[str]


@dataclass(frozen=True)
class Visit:
    """What a browser did with the page."""

    seen: list[Seen]
    printed: int  # pixels by which something is wider than the paper
    requests: list[str]
    errors: list[str]
    title: str
    text: str
    pictures: int
    broken: int
    tables: dict[str, int]


def open_page(made: Made) -> Visit:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium")
    requests: list[str] = []
    errors: list[str] = []
    seen = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: errors.append(message.text))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(made.file.as_uri())
        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": 900})
            overflow = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
            figures, *found = map(tab.evaluate, (FIGURES, CROWDED, CUT, UNREACHABLE))
            seen.append(Seen(width, figures, overflow, *found))
        tab.emulate_media(media="print")
        tab.set_viewport_size({"width": PAPER, "height": 900})
        printed = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
        pictures = tab.evaluate("document.images.length")
        broken = tab.evaluate("[...document.images].filter(one => !one.naturalWidth).length")
        tables = {
            name: tab.evaluate(f"document.querySelectorAll('{selector}').length")
            for name, selector in {
                "without caption": "table:not(:has(caption))",
                "header without scope": "th:not([scope])",
                "scripts": "script",
                "charts without name": "figure svg:not([aria-label]):not([aria-hidden])",
                "pictures without words": "img:not([alt])",
            }.items()
        }
        text, title = tab.inner_text("body"), tab.title()
        browser.close()
    return Visit(seen, printed, requests, errors, title, text, pictures, broken, tables)


def look_up(values: Any, pointer: str) -> Any:
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


def agrees(value: Any, shown: str, unit: str) -> bool:
    """Whether a shown text is the value, to its last digit."""
    if value is None:
        return shown in ("–", "not known")
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return shown == str(value)
    read = Decimal(shown.replace(",", ""))
    if shown == "0":
        return bool(value == 0)
    exponent = read.as_tuple().exponent
    assert isinstance(exponent, int)
    half = Decimal(5).scaleb(exponent - 1) * Decimal("1.0000001")
    return abs(Decimal(value) / Decimal(unit) - read) <= half


def check_figures(made: Made, visit: Visit) -> None:
    """Every figure on the page is that of the results."""
    for seen in visit.seen:
        assert len(seen.figures) > 1000
        wrong = [
            one
            for one in seen.figures
            if not agrees(look_up(made.values, one["pointer"]), one["text"], one["unit"])
        ]
        assert wrong == []
    shown = {one["pointer"] for one in visit.seen[0].figures}
    firsts = {(one["set"], one["protocol"], one["settings"].get("mode")): number
              for number, one in reversed([*enumerate(made.values["sets"])])}  # fmt: skip
    for number in firsts.values():  # models share what a set consists of
        assert f"/sets/{number}/counts/images" in shown
    for number, one in enumerate(made.values["sets"]):
        for row in range(len((one["verification"] or {"rows": ()})["rows"])):
            place = f"/sets/{number}/verification/rows/{row}"
            assert f"{place}/point/tar" in shown
            assert f"{place}/point/far_achieved" in shown
            assert f"{place}/threshold_distance" in shown
    assert "/models/1/file/sha256" in shown
    assert "/run/command" in shown


def check_fit(visit: Visit) -> None:
    """Nothing is cut off, meets another text, or needs a mouse to be reached."""
    for seen in visit.seen:
        assert seen.overflow <= 0, seen.width
        assert seen.crowded == []
        assert seen.cut == []
        assert seen.unreachable == []
    assert visit.printed <= 0


def check_requests(made: Made, visit: Visit) -> None:
    """The page asks for nothing and runs nothing."""
    assert [url for url in visit.requests if not url.startswith("data:")] == [made.file.as_uri()]
    assert visit.errors == []
    assert visit.title == "Face recognition benchmark: first, <b>second</b>"
    assert NAME in visit.text
    assert "http://" not in made.html
    assert "https://" not in made.html
    assert len(made.html.encode()) < 5_000_000


def check_parts(visit: Visit) -> None:
    """Every part is there, and has a name for those who do not see it."""
    assert [part for part in PARTS if part not in visit.text] == []
    assert visit.pictures > 100
    assert visit.broken == 0
    assert visit.tables == dict.fromkeys(visit.tables, 0)


def test_the_page_in_a_browser(made: Made) -> None:
    visit = open_page(made)  # one for all checks, as it takes a second to start
    check_figures(made, visit)
    check_fit(visit)
    check_requests(made, visit)
    check_parts(visit)


def test_no_curve_goes_left_of_one_impostor(made: Made) -> None:
    found = re.findall(r'<svg[^>]*aria-label="DET: [^"]*".*?</svg>', made.html)
    both: dict[tuple[str, str], list[Any]] = {}  # models share a chart
    for one in made.values["sets"]:
        if one["verification"]:
            key = one["set"], one["settings"].get("mode", "")
            both.setdefault(key, []).append(one["verification"]["det"])
    for chart, dets in zip(found, both.values(), strict=True):
        axis = log_axis("FMR", [fmr for det in dets for fmr in det["fmr"]])
        for line, det in zip(re.findall(r' d="([^"]*)" class="line"', chart), dets, strict=True):
            points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", line)[1:]]
            rates = [pair for pair in zip(det["fmr"], det["fnmr"], strict=True) if all(pair)]
            ends = [LEFT + axis.part(rates[end][0]) * (RIGHT - LEFT) for end in (0, -1)]
            assert [points[0][0], points[-1][0]] == pytest.approx(ends, abs=0.06)
            least = LEFT + axis.part(det["least_fmr"]) * (RIGHT - LEFT)
            assert min(x for x, _ in points) >= least - 0.06


def test_groups_at_a_rate_that_is_too_fine_have_a_reason(made: Made) -> None:
    fairness = made.values["sets"][0]["groups"][0]
    fairness = fairness | {"threshold": None, "reason": "needs more", "groups": [], "summary": None}
    one = made.values["sets"][0] | {"groups": [fairness | {"fmr_matrix": {}}], "group_curves": []}
    html = render(made.values | {"sets": [one], "comparisons": []}, {})
    assert '<span data-figure="/sets/0/groups/0/reason">needs more</span>' in html
    assert "Each group at its own" not in html


def test_every_file_of_a_model_has_its_hash(made: Made) -> None:
    first = made.values["models"][0] | {"details": {"external_data": {"a/b.bin": "abc"}}}
    html = render(made.values | {"models": [first, made.values["models"][1]]}, {})
    assert 'data-figure="/models/0/details/external_data/a~1b.bin">abc<' in html


def test_pictures_shrink_and_go_before_the_page_grows(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made.values["sets"][0]
    values = made.values | {"sets": [one], "calibration": [], "comparisons": []}
    pairs = [*one["hardest"]["impostor"], *one["hardest"]["genuine"]]
    pixels = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    images = {(one["set"], pair["first_image"]): content.getvalue() for pair in pairs}
    whole, bare = (len(render(values, one).encode()) for one in (images, {}))
    monkeypatch.setattr(page, "MOST_BYTES", whole)  # a byte too few
    smaller = render(values, images)
    assert smaller.count("<img") >= 20
    assert bare < len(smaller.encode()) < whole
    monkeypatch.setattr(page, "MOST_BYTES", bare)
    assert render(values, images) == render(values, {})


def test_no_faces_on_request(made: Made) -> None:
    html = render(made.values, {})
    assert "<img" not in html
    assert "no picture" in html
