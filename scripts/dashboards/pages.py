"""The pages of TensorBoard that show a run: how to open each, and what it shows, as plain values.

`page` is one of playwright's, whose locators also look into the parts of TensorBoard's elements.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recognition.telemetry.layout import PAGES

WAIT: Final = 30.0  # seconds for a page's content
POLLED_EVERY: Final = 0.25  # seconds; nothing tells when a page is complete but that it stays so
DRAWN: Final = 1500  # milliseconds that charts take to move to where they stay


_SECTIONS = "tf-category-paginated-view"
# Of each chart its title and, by series, the last value that it draws.
_CHARTS = """sections => sections.map(section => [
    section.shadowRoot.querySelector('.category-name').textContent,
    Object.fromEntries(
        [...section.querySelectorAll('tf-custom-scalar-multi-line-chart-card'),
         ...section.shadowRoot.querySelectorAll('tf-custom-scalar-multi-line-chart-card')]
        .map(card => {
            const find = (root, name) => {
                for (const item of root.querySelectorAll('*')) {
                    if (item.matches(name)) return item;
                    const found = item.shadowRoot && find(item.shadowRoot, name);
                    if (found) return found;
                }
            };
            const line = find(card.shadowRoot, 'vz-line-chart2');
            const chart = line && (line.chart || line._chart);
            const title = find(card.shadowRoot, '.heading-label').textContent.trim();
            return [title, Object.fromEntries((chart ? chart.seriesNames : []).map(name => {
                const data = chart.name2datasets[name].data();
                return [name, data.length ? data[data.length - 1].scalar : null];
            }))];
        }))
])"""


@dataclass(frozen=True)
class View:
    """One page: a tab, or a section of one."""

    name: str  # of its picture
    tab: str  # in the address
    read: Callable[[Any], Any]  # returns what the page shows by now; nothing, or None, so far
    prepare: Callable[[Any], None] = lambda page: None  # is called first
    pose: Callable[[Any], None] = lambda page: None  # is called before a picture is taken
    shown: str = "body"  # the element in the picture
    width: int = 1500  # pixels of the window
    height: int = 1000


def look(page: Any, url: str, views: Sequence[View], pictures: Path | None) -> dict[str, Any]:
    """Open every page and return what it shows, by name; write a picture of each, if asked to.

    Raises `TimeoutError` for a page that stays empty.
    """
    seen, tab = {}, ""
    for view in views:
        if view.tab != tab:
            page.goto(f"{url}/#{view.tab}")  # of a later tab only this part: nothing loads anew
            tab = view.tab
        page.set_viewport_size({"width": view.width, "height": view.height})
        view.prepare(page)
        seen[view.name] = _settled(page, view)
        if pictures is not None:
            view.pose(page)
            element = page.locator(view.shown).first
            element.scroll_into_view_if_needed()
            page.wait_for_timeout(DRAWN)
            element.screenshot(path=pictures / f"{view.name}.png")
    return seen


def _settled(page: Any, view: View) -> Any:
    """Return what a page shows when that no longer changes."""
    deadline, last = time.monotonic() + WAIT, None
    while time.monotonic() < deadline:
        now = view.read(page)
        if now and now == last:
            return now
        last = now
        time.sleep(POLLED_EVERY)
    raise TimeoutError(f"{view.name} shows nothing after {WAIT:.0f} s: has the run such figures?")


def _charts(title: str) -> Callable[[Any], dict[str, dict[str, float]]]:
    """Return what reads a section's charts: by title and series, the last value drawn."""

    def read(page: Any) -> dict[str, dict[str, float]]:
        found = dict(page.locator(_SECTIONS).evaluate_all(_CHARTS))
        charts: dict[str, dict[str, float]] = found.get(title, {})
        return charts if any(charts.values()) else {}

    return read


def _show_outliers(page: Any) -> None:
    """Have charts show all of their values, not nine in ten."""
    box = page.locator("tf-custom-scalar-dashboard paper-checkbox", has_text="Ignore outliers")
    box.wait_for()
    if box.get_attribute("aria-checked") == "true":
        box.click()


def _name_curves(page: Any) -> None:
    """Open the lists below the charts that are closed, and show all of each."""
    closed = "#matches-container:has(iron-collapse[aria-hidden='true']) .toggle-matches-button"
    page.locator(closed).evaluate_all("buttons => buttons.forEach(button => button.click())")
    whole = "lists => lists.forEach(list => list.style.maxHeight = 'none')"
    page.locator("#matches-list").evaluate_all(whole)


def _images(page: Any) -> dict[str, list[int]]:
    """Return the size in pixels of each picture, by its name."""
    loaders = page.locator("tf-image-loader")
    found = loaders.evaluate_all(
        """loaders => loaders.map(loader => [
            loader.tag,
            (image => image ? [image.naturalWidth, image.naturalHeight] : [0, 0])(
                loader.shadowRoot.querySelector('img'))
        ])"""
    )
    return dict(found) if all(size[0] for _, size in found) else {}


def _histograms(page: Any) -> dict[str, int]:
    """Return the number of drawn histograms, one for each step, by name."""
    loaders = page.locator("tf-histogram-loader")
    found = loaders.evaluate_all(
        """loaders => loaders.map(loader => [
            loader.tag,
            loader.shadowRoot.querySelector('vz-histogram-timeseries')
                .shadowRoot.querySelectorAll('.histogram').length
        ])"""
    )
    return dict(found) if all(count for _, count in found) else {}


def _text(page: Any) -> str:
    return "\n".join(page.locator("tf-text-dashboard code").all_inner_texts()).strip()


def _table(page: Any) -> list[dict[str, str]]:
    """Return the rows of the table of runs, by column."""
    cells = [text.strip() for text in page.locator("vaadin-grid .table-cell").all_inner_texts()]
    heads = page.locator("vaadin-grid .table-header").count()
    if heads == 0:
        return []  # not drawn yet
    names, rows = cells[:heads], cells[heads:]
    found = [
        dict(zip(names, rows[n : n + heads], strict=True))
        for n in range(0, len(rows) - heads + 1, heads)
    ]
    return [row for row in found if any(row.values())]


def _points(page: Any) -> dict[str, str]:
    """Return how many points and dimensions the projector shows."""
    shown = page.frame_locator("iframe").frame_locator("iframe")
    found = {
        name: shown.locator(where).all_inner_texts()
        for name, where in (("points", ".numDataPoints"), ("dimensions", ".dim"))
    }
    counts = {name: texts[0].strip() for name, texts in found.items() if texts}
    return counts if all(map(str.isdecimal, counts.values())) else {}


VIEWS: Final = (
    *(
        View(
            title.lower(), "custom_scalars", _charts(title), _show_outliers, _name_curves,
            f"{_SECTIONS}:has(.category-name:text-is('{title}'))", height=1800,
        )
        for title in PAGES
    ),
    View("samples", "histograms", _histograms),
    View("sets", "images", _images, height=1400),
    View("config", "text", _text),
    View("runs", "hparams", _table, width=2400, height=500),
    View("faces", "projector", _points),
)  # fmt: skip
