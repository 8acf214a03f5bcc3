"""Quality of images, and the faces that are worth a look, as small pictures in the page."""

import base64
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Final

from PIL import Image

from eval.report.chart import Series, bars, columns, line_chart, linear_axis
from eval.report.figures import Node, fixed, number, short, text
from eval.report.judged import Judged, Row
from eval.report.markup import Html, join, tag

Thumbnails = Mapping[tuple[str, int], str]  # set and number of the image: a data URI

AREA: Final = "0.2"  # of `partial_area`, the one that tables show first


def thumbnails(images: Mapping[tuple[str, int], bytes], size: int) -> Thumbnails:
    """Return JPEGs of at most `size` pixels per side as data URIs, without the images' metadata."""
    return {key: _thumbnail(content, size) for key, content in images.items()}


def _thumbnail(content: bytes, size: int) -> str:
    with Image.open(BytesIO(content)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((size, size))
    small = BytesIO()
    image.save(small, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(small.getvalue()).decode('ascii')}"


def hardest(item: Judged, images: Thumbnails) -> Html | None:
    """Return the pairs whose score and label disagree the most; None if there are none."""
    known = item.having("hardest")
    if not known:
        return None
    return join(
        tag("h3", "Hardest pairs"),
        tag("p", "Check the label of each: a pair may be labelled wrongly.", class_="note"),
        *(
            _pairs(item, one, images, kind, title)
            for one in known
            for kind, title in (
                ("impostor", "Two people, the highest scores"),
                ("genuine", "One person, the lowest scores"),
            )
        ),
    )


def _pairs(item: Judged, one: Node, images: Thumbnails, kind: str, title: str) -> Html:
    name, sides = one["set"].value, ("first_image", "second_image")
    shown = [
        tag(
            "li",
            tag("span", *(_face(images, name, pair[side]) for side in sides), class_="pair"),
            tag("b", number(pair["score"])),
            tag("span", "pair ", number(pair["pair"], "count"), class_="note"),
            text(pair["first"], code=True),
            text(pair["second"], code=True),
        )
        for pair in one["hardest"][kind]
    ]  # fmt: skip
    of = f", {item.name(one)}" if item.several else ""
    return join(tag("h4", title, of), tag("ol", *shown, class_="faces"))


def _face(images: Thumbnails, name: str, image: Node) -> Html:
    uri = images.get((name, image.value))
    if uri is None:
        return tag("span", "no picture", class_="none")
    return tag("img", src=uri, alt=f"image {image.value} of {name}")


def quality(item: Judged, images: Thumbnails) -> Html | None:
    """Return error against discard, and the faces of the lowest quality; None if there are none."""
    known = item.having("quality")
    if not known:
        return None
    fractions = known[0]["quality"]["curve"]["error_at_discard"].value
    return join(
        tag("h3", "Quality"),
        item.table(
            "FNMR of the pairs that remain, the worst left out first",
            ["Quality", "FAR", "T (cosine)",
             *(f"{float(x):.0%} left out" for x in fractions),
             f"Area to {float(AREA):.0%}", "Least possible area"],
            _discard,
            "quality",
        ),
        columns(_curve(item), *(_histogram(item, one) for one in known)),
        *(_worst(item, one, images) for one in known),
    )  # fmt: skip


def _discard(one: Node) -> Iterator[Row]:
    found = one["quality"]
    curve = found["curve"]
    yield [
        text(found["source"]),
        number(found["far"], "short"),
        number(curve["threshold"]),
        *(number(rate) for rate in curve["error_at_discard"]),
        number(curve["partial_area"][AREA], "short"),
        number(curve["best_area"][AREA], "short"),
    ]


def _curve(item: Judged) -> Html:
    series = []
    for one in item.having("quality"):
        curve = one["quality"]["curve"].value
        points = list(zip(curve["discard"], curve["error"], strict=True))
        told = [f"{short(x)} left out: FNMR {fixed(y)}" for x, y in points]
        series.append(Series(item.name(one), item.style(one), points, told, steps=True))
    rates = [y for one in series for _, y in one.points]
    return line_chart(
        "Error against discard",
        linear_axis("Fraction of genuine pairs left out, the worst first", [0.0, 1.0]),
        linear_axis("FNMR of the others", [0.0, *rates]),
        series,
    )


def _histogram(item: Judged, one: Node) -> Html:
    edges, counts = one["quality"]["histogram_edges"].value, one["quality"]["histogram"].value
    told = [
        f"{count:,} images from {short(low)} to {short(high)}"
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
    ]
    outline = Series(
        "", item.style(one), bars(edges, counts), ["", *told, ""], steps=True, area=True
    )
    of = f" of {item.name(one)}" if item.several else ""
    return line_chart(
        f"Quality of the images{of}",
        linear_axis("Quality", edges),
        linear_axis("Images", [0.0, *map(float, counts)]),
        [outline],
        note=f"{len(counts)} equal bins from {short(edges[0])} to {short(edges[-1])}.",
    )


def _worst(item: Judged, one: Node, images: Thumbnails) -> Html:
    shown = [
        tag("li", _face(images, one["set"].value, face["image_number"]),
            tag("b", number(face["quality"], "short")), text(face["image"], code=True))
        for face in one["quality"]["worst"]
    ]  # fmt: skip
    of = f", {item.name(one)}" if item.several else ""
    return join(tag("h4", "Lowest quality", of), tag("ol", *shown, class_="faces single"))
