"""Take pictures of the pages on which TensorBoard shows runs, in a browser without a window.

    python scripts/show_dashboards.py runs --output docs/dashboards

Starts TensorBoard on a folder of runs, opens each page in Chromium, prints what it shows, and
writes a PNG of it. Needs playwright (pip install playwright) and Chromium (apt-get install
chromium).
"""

import argparse
import json
from pathlib import Path

from scripts.common.command import command, exit_with, make_parser
from scripts.dashboards.pages import VIEWS, look
from scripts.dashboards.server import browse, serve

parser = make_parser(__doc__)
parser.add_argument("runs", type=Path, help="a run, or a folder of runs")
parser.add_argument("--output", type=Path, default=Path("dashboards"), help="where the PNGs go")
parser.add_argument(
    "--pages", nargs="+", choices=[view.name for view in VIEWS],
    default=[view.name for view in VIEWS], metavar="PAGE", help="which pages, in their order",
)  # fmt: skip


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Look at the pages and print what they show."""
    if not options.runs.is_dir():
        raise ValueError(f"{options.runs} is no folder: expected a run, or a folder of runs")
    options.output.mkdir(parents=True, exist_ok=True)
    views = [view for view in VIEWS if view.name in options.pages]
    with serve(options.runs) as url, browse() as page:
        seen = look(page, url, views, options.output)
    for name, shown in seen.items():
        print(f"{name}: {json.dumps(shown, ensure_ascii=False)}")
        print(f"{name}: {options.output / name}.png")


if __name__ == "__main__":
    exit_with(main)
