"""What a check or an alignment found: grouped by kind, counted, with examples and what to do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Literal

from recognition.redaction import printable

Level = Literal["error", "warning", "note"]
LEVELS: Final = ("error", "warning", "note")

PLACES_AT_MOST: Final = 10_000  # kept of each kind, for the JSON report; all are counted
_PLACES_SHOWN: Final = 5


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    It is an `error` where training would stop or learn something wrong, a `warning` where a person
    should look, and a `note` where it does no harm.
    """

    level: Level
    title: str  # what is the matter, in the plural
    fix: str  # what to do about it, a sentence


@dataclass(frozen=True)
class Place:
    """Where something was found; what is unknown or makes no sense is None."""

    file: str
    detail: str  # what is there
    key: int | None = None  # of the record
    offset: int | None = None  # in the file, in bytes
    line: int | None = None  # of a text file, from 1 on

    def __str__(self) -> str:
        known = self.to_dict()
        words = [f"{name} {known[name]}" for name in ("line", "key", "offset") if name in known]
        return f"{', '.join([self.file, *words])}: {self.detail}"

    def to_dict(self) -> dict[str, str | int]:
        """Return what is known, for JSON."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass
class _Group:
    count: int = 0
    places: list[Place] = field(default_factory=list)


class Findings:
    """Collects findings of the `kinds`, which are in the order of the report within a level."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds
        self._groups: dict[str, _Group] = {}

    def add(self, name: str, places: Iterable[Place], count: int = 1) -> None:
        """Add `count` findings of the kind `name`; of `places` no more are taken than are kept."""
        if count:
            group = self._groups.setdefault(name, _Group())
            group.places += islice(places, PLACES_AT_MOST - len(group.places))
            group.count += count

    @property
    def clean(self) -> bool:
        """Whether there are neither errors nor warnings."""
        return all(self._kinds[name].level == "note" for name in self._groups)

    def to_list(self) -> list[dict[str, Any]]:
        """Return all findings for JSON, errors first, with up to 10,000 places each."""
        return [
            {
                "level": kind.level,
                "kind": name,
                "title": kind.title,
                "count": group.count,
                "mend": kind.fix,  # the key that programs know
                "places": [place.to_dict() for place in group.places],
            }
            for name, kind, group in self._sorted()
        ]

    def text(self) -> str:
        """Return all findings for a person, errors first, with the first places of each."""
        return "\n\n".join(_paragraph(kind, group) for _, kind, group in self._sorted())

    def _sorted(self) -> list[tuple[str, Kind, _Group]]:
        found = [(n, kind, self._groups[n]) for n, kind in self._kinds.items() if n in self._groups]
        return sorted(found, key=lambda item: LEVELS.index(item[1].level))


def _paragraph(kind: Kind, group: _Group) -> str:
    lines = [f"{kind.level.upper()}: {kind.title}: {group.count:,}"]
    lines += [f"    {printable(str(place))}" for place in group.places[:_PLACES_SHOWN]]
    if group.count > _PLACES_SHOWN:
        lines.append(f"    ... and {group.count - _PLACES_SHOWN:,} more")
    lines.append(f"  To do: {kind.fix}")
    return "\n".join(lines)
