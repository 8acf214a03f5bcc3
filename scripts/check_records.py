"""Check every record of .rec files: framing, index, labels, images, copies.

The exit code is 0 where nothing but notes was found, 1 where there is something to act on, and 2
where a file cannot be read at all.
"""

import argparse
import json
import sys
from pathlib import Path

from data.progress import progress_bar
from data.records.shards import RECORDS, find_records
from data.tools.check.run import check_records
from scripts.command import exit_with
from scripts.help_format import HelpFormatter


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "records", type=Path, nargs="+",
        help=f"of one dataset, each {RECORDS}",
    )  # fmt: skip
    parser.add_argument("--no-decode", action="store_true", help="leave the images encoded")
    parser.add_argument("--report", type=Path, help="write all findings to this file, as JSON")
    parser.add_argument("--workers", type=int, help="(default: one for each core)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Check the files and print what was found; return the exit status."""
    options = parse(arguments)
    try:
        if options.report is not None and not options.report.parent.is_dir():
            raise ValueError(f"--report {options.report}: its folder does not exist; make it first")
        files = [file for named in options.records for file in find_records(named)]
        with progress_bar(f"{len(files)} file(s)", "MB") as show:
            result = check_records(
                files,
                decode=not options.no_decode,
                workers=options.workers,
                progress=lambda done, total: show(done // 10**6, total // 10**6),
            )
        if options.report is not None:
            options.report.write_text(json.dumps(result.to_dict(), indent=2) + "\n")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(result.text())
    return 0 if result.clean else 1


if __name__ == "__main__":
    exit_with(main)
