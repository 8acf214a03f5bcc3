"""YAML as settings need it: sections, lists, text, numbers, and nothing that grows or surprises.

PyYAML reads YAML 1.1. What differs here:

* numbers are those of YAML 1.2: `1e-3` is one (YAML 1.1 reads a text), `010` is ten, and neither
  `12:30` nor `2025-01-31` is a number or a date;
* keys are text, and each occurs once in its section, where PyYAML would keep the last;
* tags (`!!binary`) and control characters are refused;
* depth and size are limited, and an alias counts as much as what it stands for.
"""

import re
import unicodedata
from typing import Any

import yaml

MOST_LEVELS = 32
MOST_CHARACTERS = 1 << 17
"""Largest text, and largest content with every alias written out; the largest recipe has 700."""

_PREFIX = "tag:yaml.org,2002:"
_PATTERNS = {
    "null": r"~|null|Null|NULL|",
    "bool": "|".join(
        f"{word}|{word.title()}|{word.upper()}" for word in yaml.SafeLoader.bool_values
    ),
    # An integer without end would take quadratic time to convert; as a float it is infinite.
    "int": r"[-+]?[0-9][0-9_]{0,99}",
    "float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": "<<",
}
_RESOLVERS: dict[None, list[tuple[str, re.Pattern[str]]]] = {
    None: [(_PREFIX + name, re.compile(f"({p})$")) for name, p in _PATTERNS.items()]
}


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document: null, a scalar, or lists and dicts of these.

    Raises `ValueError` with line and column for anything else, and for what this module limits.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text):,} characters: expected at most {MOST_CHARACTERS:,}")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from None
    except (yaml.YAMLError, OverflowError) as error:  # the second for an escape beyond Unicode
        raise ValueError(str(error).partition("\n")[0]) from None


def dump_yaml(values: Any) -> str:
    """Return the YAML text that `parse_yaml` reads as `values`."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def check_printable(text: str) -> None:
    """Raise `ValueError` for a text that would change a terminal or a log that it is written to."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise ValueError(f"{text[:80]!r} has the control character {character!r}: remove it")


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._levels = 0
        self._characters = 0
        self._sizes: dict[yaml.Node, int] = {}  # in characters, of each complete node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _refusal(f"{event.tag} is a tag; expected a value without one", event)
        if self._levels == MOST_LEVELS:
            raise _refusal(f"more than {MOST_LEVELS} levels; expected a few", event)
        before = self._characters
        self._levels += 1
        node = super().compose_node(parent, index)
        self._levels -= 1
        assert node is not None
        if isinstance(event, yaml.AliasEvent):
            if node not in self._sizes:
                raise _refusal(f"*{event.anchor} is part of what it stands for", event)
            self._characters += self._sizes[node]
        else:
            self._characters += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
            self._sizes[node] = self._characters - before
        if self._characters > MOST_CHARACTERS:
            raise _refusal(
                f"with every alias written out, more than {MOST_CHARACTERS:,} characters", event
            )
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        try:
            check_printable(node.value)
        except ValueError as error:
            raise _refusal(str(error), node) from None
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for position, (key, value) in enumerate(node.value):
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal("a list or section as a key; expected text", key)
            if key.value in seen:
                raise _refusal(f"duplicate key {key.value!r}; expected it once", key)
            seen.add(key.value)
            if key.tag != _PREFIX + "merge":
                # Not changed in place: an alias may use the same node as a value.
                text = yaml.ScalarNode(_PREFIX + "str", key.value, key.start_mark, key.end_mark)
                node.value[position] = (text, value)
        return node

    def construct_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value.replace("_", ""))  # decimal always, where YAML 1.1 has octal too


class _Dumper(yaml.SafeDumper):
    pass


_Loader.add_constructor(_PREFIX + "int", _Loader.construct_int)
_Loader.yaml_implicit_resolvers = _Dumper.yaml_implicit_resolvers = _RESOLVERS


def _refusal(problem: str, where: Any) -> yaml.MarkedYAMLError:
    """Return the error for an event or a node."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)
