"""What one protocol found on one set: the results of all models next to each other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eval.report.figures import Node, number, text
from eval.report.markup import Content, Html, facts, join, table, tag

Row = Sequence[Content]

PROTOCOLS: Final[Mapping[str, str]] = {
    "pairs": "1:1, pairs of images",
    "ijb_1_1": "1:1, pairs of templates",
    "ijb_1_n": "1:N, searches in galleries",
    "megaface": "1:N among distractors",
    "tinyface": "1:N at low resolution",
}
PARTS: Final[Mapping[str, str]] = {"ten_fold": "ten folds"}
COUNTS: Final[Mapping[str, str]] = {
    "images": "Different images",
    "subjects": "Subjects",
    "templates": "Templates",
    "media": "Media",
    "genuine": "Genuine comparisons",
    "impostor": "Impostor comparisons",
    "failed_images": "Failed images",
    "repeated_rows": "Repeated rows",
}


@dataclass(frozen=True)
class Judged:
    """A section of the page; `styles` gives each model its colour and dashes everywhere."""

    anchor: str
    results: Sequence[Node]  # of `sets`, one for each model
    styles: Mapping[str, int]

    @property
    def several(self) -> bool:
        """Whether rows and lines need the model's name."""
        return len(self.styles) > 1

    @property
    def title(self) -> str:
        """The set, the protocol and, of IJB, the mode."""
        one = self.results[0].value
        mode = [one["settings"]["mode"]] if "mode" in one["settings"] else []
        return ", ".join([one["set"], PROTOCOLS.get(one["protocol"], one["protocol"]), *mode])

    def having(self, part: str) -> list[Node]:
        """Return the results that have a part."""
        return [one for one in self.results if one.value[part]]

    def name(self, one: Node) -> str:
        """Return the model's name where it is needed, as the name of a line."""
        return str(one["model"].value) if self.several else ""

    def style(self, one: Node) -> int:
        """Return the model's style."""
        return self.styles[one["model"].value]

    def table(
        self, caption: str, header: Sequence[str], rows: Callable[[Node], Iterable[Row]], part: str
    ) -> Html | None:
        """Return a table with the rows of every model that has a part; None if there are none."""
        found = [
            [text(one["model"]), *row] if self.several else row
            for one in self.having(part)
            for row in rows(one)
        ]
        return (
            table(caption, ["Model", *header] if self.several else header, found) if found else None
        )

    def head(self) -> Html:
        """Return what the set consists of, how it was read, what is missing, and all warnings."""
        first = self.results[0]
        counts = (
            (name, number(first["counts"][key], "count", unknown="not known"))
            for key, name in COUNTS.items()
            if key == "subjects" or first["counts"][key].known
        )
        settings = (
            (key.capitalize(), text(first["settings"][key])) for key in first["settings"].value
        )
        return join(facts([*counts, *settings]), self._files(), self._notes())

    def _files(self) -> Html:
        rows = [[text(one["path"], code=True), text(one["sha256"], code=True)]
                for one in self.results[0]["files"]]  # fmt: skip
        return table("Files", ["Path", "SHA-256"], rows)

    def _notes(self) -> Html | None:
        warnings = [
            (one, "Warning: ", warning) for one in self.results for warning in one["warnings"]
        ]
        missing = [
            (one, f"No {PARTS.get(key, key)}: ", one["missing"][key])
            for one in self.results for key in one["missing"].value
        ]  # fmt: skip
        return self.notes([*warnings, *missing])

    def notes(self, said: Iterable[tuple[Node, str, Node]]) -> Html | None:
        """Return what is said of each result, with its models unless it is true of all of them."""
        found: dict[tuple[str, str], tuple[Node, list[str]]] = {}
        for one, start, note in said:
            found.setdefault((start, note.value), (note, []))[1].append(self.name(one))
        lines = []
        for (start, _), (note, models) in found.items():
            some = f"{', '.join(models)}: " if len(models) < len(self.results) else None
            lines.append(tag("li", some, start, text(note)))
        return tag("ul", *lines, class_="notes") if lines else None
