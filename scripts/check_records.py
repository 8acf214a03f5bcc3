"""Check every record of .rec files: framing, index, labels, images, duplicates.

The exit code is 0 if there are only notes, 1 if there is something to fix, and 2 if a file cannot
be read at all.
"""

import argparse

from data.progress import progress_bar
from data.tools.check.run import check_records
from scripts.common.command import command, exit_with, make_parser
from scripts.common.record_options import add_record_files, record_files
from scripts.common.report import add_report, check_report, write_report

parser = make_parser(__doc__)
add = parser.add_argument
add_record_files(parser)
add("--no-decode", action="store_true", help="do not decode the images")
add_report(parser)
add("--workers", type=int, help="processes to use (default: one per core)")


@command(parser, failed=2)
def main(options: argparse.Namespace) -> int:
    """Check the files and print what was found; return the exit status."""
    check_report(options)
    files = record_files(options)
    with progress_bar(f"{len(files)} file(s)", "MB") as show:
        result = check_records(
            files,
            decode=not options.no_decode,
            workers=options.workers,
            progress=lambda done, total: show(done // 10**6, total // 10**6),
        )
    write_report(options, result.to_dict())
    print(result.text())
    return 0 if result.clean else 1


if __name__ == "__main__":
    exit_with(main)
