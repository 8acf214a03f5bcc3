"""What all sections share: their base class, and types with a range."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from recognition.redaction import check_urls

# Numbers of things stay below 2^31, so that the product of two of them, as steps x batch, is an
# int64. Durations are limited to what a timer can count.
Count = Annotated[int, Field(gt=0, lt=2**31)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]
Epochs = Annotated[float, Field(gt=0, le=1e6)]
EpochsOrZero = Annotated[float, Field(ge=0, le=1e6)]
Seconds = Annotated[float, Field(gt=0, le=1e7)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

Probability = Annotated[float, Field(ge=0, le=1)]
Portion = Probability
Fraction = Annotated[float, Field(gt=0, le=1)]
Factor = Annotated[float, Field(ge=0, lt=1)]

End = TypeVar("End", float, int)
Range = Annotated[tuple[End, End], Field(strict=False)]  # strict, it would refuse YAML's lists


def _local_path(value: object) -> Path:
    """Convert a text to a path; as a path, a URL would lose one of its slashes."""
    if not isinstance(value, str | Path) or not str(value) or "://" in str(value):
        raise ValueError("expected a path on this machine")
    return Path(value)


LocalPath = Annotated[Path, BeforeValidator(_local_path)]


def _locations(value: object) -> object:
    items: list[Any] = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str | Path) and str(item) for item in items):
        raise ValueError("expected a path, a URL, or a list of one or more of these")
    check_urls(items)
    locations = [Path(item) if "://" not in str(item) else item for item in items]
    return locations if isinstance(value, list) else locations[0]


Locations = Annotated[Path | str | list[Path | str], BeforeValidator(_locations)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change after loading.

    Types are strict: `true` is not a number, `1.5` not a whole one, `"1"` neither, and a number is
    finite. A whole number does for a float.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    def _at_most_one(self, first: str, second: str) -> None:
        values = getattr(self, first), getattr(self, second)
        if None not in values:
            raise ValueError(f"{first} is {values[0]}, {second} is {values[1]}: state only one")
