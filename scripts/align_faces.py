"""Crop faces out of photos and align them to the standard template, by five landmarks per face.

The landmarks come from a CSV file of path,x1,y1,...,x5,y5: left eye, right eye, nose, left and
right corner of the mouth, as seen in the picture, from any detector. The exit code is 0 if every
face was cropped and there are only notes, 1 if there is something to fix, and 2 if nothing was
done.
"""

import argparse
from pathlib import Path
from typing import get_args

from data.alignment import TEMPLATE_SIZE, CropMethod
from data.progress import progress_bar
from data.tools.align import Crop, align_folder
from scripts.common.command import command, exit_with, make_parser
from scripts.common.report import add_report, check_report, write_report

parser = make_parser(__doc__)
add = parser.add_argument
add("landmarks", type=Path, help="the CSV file of landmarks")
add("source", type=Path, help="the folder of photos")
add("output", type=Path, help="an empty or new folder for the faces")
add("--size", type=int, default=TEMPLATE_SIZE, help="side of a face in pixels")
add("--format", choices=("jpg", "png"), default="jpg", help="image format of the faces")
add("--quality", type=int, default=95, help="JPEG quality")
add("--max-tilt", type=float, default=45, help="warn of faces tilted by more degrees")
add(
    "--crop",
    choices=get_args(CropMethod),
    default="antialiased",
    help="how pixels are made: published takes one bilinear sample each, as the crops that "
    "published figures rest on",
)
add_report(parser)
add("--threads", type=int, help="threads to use (default: one per core)")


@command(parser, failed=2)
def main(options: argparse.Namespace) -> int:
    """Align the faces and print what was found; return the exit status."""
    check_report(options)
    crop = Crop(options.size, options.format, options.quality, options.max_tilt, options.crop)
    with progress_bar(str(options.output), "face") as progress:
        written, findings = align_folder(
            options.landmarks,
            options.source,
            options.output,
            crop,
            threads=options.threads,
            progress=progress,
        )
    report = {"written": written, "clean": findings.clean, "findings": findings.to_list()}
    write_report(options, report)
    print(f"{options.output}: {written:,} faces of {crop.size}x{crop.size} pixels")
    if text := findings.text():
        print(f"\n{text}")
    return 0 if findings.clean else 1


if __name__ == "__main__":
    exit_with(main)
