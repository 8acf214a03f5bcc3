"""Looks up a named choice and builds it, and checks its options."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Choice = TypeVar("Choice")

# What a YAML value may be for an argument of each type.
_ACCEPTED: dict[Any, tuple[type, ...]] = {float: (float, int), int: (int,), bool: (bool,)}


def choose(table: Mapping[str, Choice], name: str, field: str) -> Choice:
    """Return `table[name]`.

    Raises `ValueError` for an unknown name, with the field, the nearest valid name and all of
    them, and for what is no text.
    """
    check(isinstance(name, str), field, repr(name), f"one of {sorted(table)}")
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{field}: {name!r} is not known, expected one of {sorted(table)}{hint}")


def build(
    table: Mapping[str, Callable[..., Choice]], name: str, field: str, options: Mapping[str, Any]
) -> Choice:
    """Return `table[name](**options)`.

    Raises `ValueError` for an unknown name or option, with those that exist, for an option of the
    wrong type, and whatever the function raises for one that is out of range.
    """
    function = choose(table, name, field)
    known = inspect.signature(function, eval_str=True).parameters
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"{field} {name!r} has no option {option!r} (found {value!r}), expected a subset "
                f"of {list(known)}"
            )
        accepted = _ACCEPTED.get(known[option].annotation)
        # By type and not by isinstance: a bool is an int to Python, but `m: true` is a mistake.
        if accepted is not None and type(value) not in accepted:
            raise ValueError(
                f"{field} option {option}: {value!r} found, expected "
                f"{known[option].annotation.__name__}"
            )
    return function(**options)


def check(holds: bool, field: str, found: object, expected: str) -> None:
    """Raise `ValueError` unless `holds`: with the field, what was found and what was expected."""
    if not holds:
        raise ValueError(f"{field}: {found} found, expected {expected}")


def check_at_least(field: str, value: float, least: float = 0) -> None:
    """Raise `ValueError` unless a setting is finite and at least `least`."""
    expected = f"a finite number of at least {least}"
    check(math.isfinite(value) and value >= least, field, value, expected)
