"""Cut faces out of photos and bring them to the standard template, by five landmarks each.

The landmarks come from a CSV file of path,x1,y1,...,x5,y5: left eye, right eye, nose, left and
right corner of the mouth, as seen in the picture, whatever detector they are from. The exit code
is 0 where every face was cut out and nothing but notes was found, 1 where there is something to
act on, and 2 where nothing was done.
"""

import argparse
import json
import sys
from pathlib import Path

from data.progress import progress_bar
from data.tools.align import TEMPLATE_SIZE, Crop, align_folder
from scripts.command import exit_with
from scripts.help_format import HelpFormatter


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("landmarks", type=Path, help="the .csv")
    parser.add_argument("source", type=Path, help="the folder of photos")
    parser.add_argument("output", type=Path, help="an empty or new folder for the faces")
    parser.add_argument("--size", type=int, default=TEMPLATE_SIZE, help="side of a face in pixels")
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg", help="of the faces")
    parser.add_argument("--quality", type=int, default=95, help="of JPEG")
    parser.add_argument("--max-tilt", type=float, default=45, help="degrees; warn beyond")
    parser.add_argument("--report", type=Path, help="write all findings to this file, as JSON")
    parser.add_argument("--threads", type=int, help="(default: one for each core)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Align the faces and print what was found; return the exit status."""
    options = parse(arguments)
    try:
        if options.report is not None and not options.report.parent.is_dir():
            raise ValueError(f"--report {options.report}: its folder does not exist; make it first")
        crop = Crop(options.size, options.format, options.quality, options.max_tilt)
        with progress_bar(str(options.output), "face") as progress:
            written, findings = align_folder(
                options.landmarks,
                options.source,
                options.output,
                crop,
                threads=options.threads,
                progress=progress,
            )
        if options.report is not None:
            report = {"written": written, "clean": findings.clean, "findings": findings.to_list()}
            options.report.write_text(json.dumps(report, indent=2) + "\n")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {written:,} faces of {crop.size}x{crop.size} pixels")
    if text := findings.text():
        print(f"\n{text}")
    return 0 if findings.clean else 1


if __name__ == "__main__":
    exit_with(main)
