"""Look-up of a named choice, with a message that a person can act on."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Choice = TypeVar("Choice")


def choose(table: Mapping[str, Choice], name: str, field: str) -> Choice:
    """Return `table[name]`.

    Raises `ValueError` when there is no such name: it gives the field, the name that was found,
    the nearest valid one and the list of all valid ones.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{field}: {name!r} is not known, expected one of {sorted(table)}{hint}")
