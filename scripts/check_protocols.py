"""Compare every protocol with a folder of golden values.

    python scripts/check_protocols.py FOLDER

FOLDER has one folder for each part, with an expected.json and its inputs, and edge_cases.json.
Prints a line for each figure that differs or is missing. The exit status is 0 if all agree,
1 if one differs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from scripts.common.command import command, exit_with, make_parser
from scripts.protocols import alignment, edge_cases, ijb, megaface, pairs, scored_pairs, tinyface

PARTS: dict[str, Callable[[Path], list[str]]] = {
    "alignment": alignment.check,
    "ijb": ijb.check,
    "megaface": megaface.check,
    "pairs": pairs.check,
    "tinyface": tinyface.check,
    "scored_pairs": scored_pairs.check,
    "edge_cases.json": edge_cases.check,
}
# They hold no figures.
OTHER = {"README.md", "sha256.json"}

parser = make_parser(__doc__)
parser.add_argument("folder", type=Path, help="the folder of golden values")


@command(parser, failed=2)
def main(options: argparse.Namespace) -> int:
    """Check all parts and print what differs; return the exit status."""
    paths = sorted(path for path in options.folder.iterdir() if path.name not in OTHER)
    lines = [] if paths else [f"{options.folder}: nothing to compare; expected {', '.join(PARTS)}"]
    for path in paths:
        found = check_part(path)
        print(f"{path.name}: {f'{len(found)} differ' if found else 'all agree'}", flush=True)
        for line in found:
            print(f"    {line}")
        lines += found
    print(f"{len(lines)} differences" if lines else "all figures agree")
    return 1 if lines else 0


def check_part(path: Path) -> list[str]:
    """Return a line for each figure of one part that differs; a part that fails is a line too."""
    if path.name not in PARTS:
        return [f"{path.name}: unknown; known are {', '.join(PARTS)}"]
    try:
        return PARTS[path.name](path)
    except Exception as error:
        return [f"{path.name}: {type(error).__name__}: {error}"]


if __name__ == "__main__":
    exit_with(main)
