"""Write docs/config.md, the reference of every setting, from the classes of recognition/config/.

    python scripts/config_reference.py
    python scripts/config_reference.py --check

Run it after a change of a setting. With --check nothing is written; the exit status is 1 if the
page is not what the classes say.
"""

import argparse
import inspect
import json
import re
from pathlib import Path
from typing import Any

from recognition.config import Config
from recognition.head import LOSSES
from scripts.common.command import command, exit_with, make_parser

PAGE = Path(__file__).parents[1] / "docs" / "config.md"

INTRODUCTION = """
Every setting of `train.py`, made of the classes in `recognition/config/` by
`python scripts/config_reference.py`. `--set optimizer.lr=0.05` changes a setting, a line
`base: other.yaml` takes all that a file does not state from another one, and `--dry-run` prints the
result. Unknown keys are errors. Numbers are finite; whole numbers are below 2^31 unless another
bound is stated. The recipes of [configs/](../configs/README.md) are examples.
"""

_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true` or `false`",
    "null": "`null`",
    "": "section",
}
_SIGNS = {
    "exclusiveMinimum": ">",
    "minimum": "≥",
    "exclusiveMaximum": "<",
    "maximum": "≤",
    "multipleOf": "a multiple of",
}
_UNSTATED = 2**31  # the bound of all whole numbers that have no other
_BOUNDS = {2**63: "2^63"}

parser = make_parser(__doc__)
parser.add_argument("--check", action="store_true", help="compare only")


@command(parser)
def main(options: argparse.Namespace) -> int:
    """Write or check the page."""
    text = reference()
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE} is not what recognition/config/ says: run scripts/config_reference.py")
        return 1
    return 0


def reference() -> str:
    """Return the page."""
    schema = Config.model_json_schema()
    sections = _section("", schema, schema["$defs"])
    return "\n".join(["# Config", "", " ".join(INTRODUCTION.split()), "", *sections[:-1], ""])


def _section(path: str, schema: dict[str, Any], sections: dict[str, Any]) -> list[str]:
    """Return the lines of a section and, below it, of those that it holds."""
    lines = [f"## {path or 'At the top'}", "", schema["description"], ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    inner: list[str] = []
    for name, field in schema["properties"].items():
        kinds = field.get("anyOf", [field])
        kind = " or ".join(map(_kind, kinds))
        default = _code(field["default"]) if "default" in field else "required"
        for reference in (kind["$ref"] for kind in kinds if "$ref" in kind):
            key = f"{path}.{name}".removeprefix(".")
            inner += _section(key, sections[reference.rpartition("/")[2]], sections)
            kind = f"[section](#{key.replace('.', '')})"
            default = "`null`" if field.get("default", {}) is None else ""
        lines.append(
            f"| `{name}` | {kind} | {default} | {' '.join(field['description'].split())} |"
        )
    if path == "head.loss":
        lines += _losses()
    return [*lines, "", *inner]


def _kind(schema: dict[str, Any]) -> str:
    """Return a type and its range in words."""
    match schema:
        case {"enum": values}:
            return " or ".join(map(_code, values))
        case {"const": value}:
            return _code(value)
        case {"prefixItems": [item, _]}:
            return f"list of two ({_kind(item)})"
        case {"items": item}:
            return f"list ({' or '.join(map(_kind, item.get('anyOf', [item])))})"
        case {"format": "path"}:
            return "path"
    bounds = [
        f"{sign} {_BOUNDS.get(schema[bound]) or format(schema[bound], ',.15g')}"
        for bound, sign in _SIGNS.items()
        if schema.get(bound, _UNSTATED) != _UNSTATED
    ]
    return f"{_TYPES[schema.get('type', '')]} {', '.join(bounds)}".rstrip()


def _losses() -> list[str]:
    """Return the table of the losses' options, from the docstrings of their functions."""
    lines = ["", "| loss | option | type | default | meaning |", "|---|---|---|---|---|"]
    kinds = {float: "number", int: "whole number", bool: "`true` or `false`"}
    for loss, function in LOSSES.items():
        options = inspect.signature(function).parameters.values()
        meanings = _arguments(inspect.getdoc(function) or "")
        for option in options:
            meaning = meanings.get(option.name, "")
            cells = f"{kinds[option.annotation]} | {_code(option.default)} | {meaning}"
            lines.append(f"| `{loss}` | `{option.name}` | {cells} |")
        if not options:
            lines.append(f"| `{loss}` | none | | | |")
    return lines


def _arguments(docstring: str) -> dict[str, str]:
    """Return what the section `Args:` of a docstring says of each argument."""
    found = re.findall(r"^    (\w+): (.+(?:\n     .+)*)", docstring.partition("Args:\n")[2], re.M)
    return {name: " ".join(text.split()) for name, text in found}


def _code(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{text}`"


if __name__ == "__main__":
    exit_with(main)
