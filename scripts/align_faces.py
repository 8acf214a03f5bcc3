"""Crop faces out of photos and align them to the standard template, by five landmarks per face.

    align_faces.py photos/ faces/                   finds the faces
    align_faces.py landmarks.csv photos/ faces/     takes those of a list

To find them needs `pip install -e '.[detect]'`, or --detector with a file of your own. Beside
faces/, faces.csv says of every photo what became of it; the same command goes on where it stopped.

The list is a CSV file of path,x1,y1,...,x5,y5: left eye, right eye, nose, left and right corner of
the mouth, as seen in the picture, from any detector. The exit code is 0 if every photo could be
used and there are only notes, 1 if there is something to fix, and 2 if nothing was done.
"""

import argparse
from pathlib import Path
from typing import get_args

from data.alignment import TEMPLATE_SIZE, CropMethod
from data.detection.choice import FAULTS, REASONS, WRITTEN, Choice, Doubt, Policy
from data.detection.cut import SMALL_SIDE
from data.detection.job import Files, cut_faces
from data.detection.sheet import write_sheet
from data.progress import progress_bar
from data.tools.align import Crop, align_folder
from recognition.redaction import printable
from scripts.common.command import command, exit_with, make_parser
from scripts.common.report import add_report, check_report, write_report

_NAMED = 10  # people without a face that are named

parser = make_parser(__doc__)
add = parser.add_argument
add("landmarks", type=Path, nargs="?", help="a CSV file of landmarks; without it, faces are found")
add("source", type=Path, help="the folder of photos")
add("output", type=Path, help="an empty or new folder for the faces")
add("--size", type=int, default=TEMPLATE_SIZE, help="side of a face in pixels")
add("--format", choices=("jpg", "png"), default="jpg", help="image format of the faces")
add("--quality", type=int, default=95, help="JPEG quality")
add("--max-tilt", type=float, default=45, help="warn of listed faces tilted by more degrees")
add(
    "--crop",
    choices=get_args(CropMethod),
    default="antialiased",
    help="how pixels are made: published takes one bilinear sample each, as the crops that "
    "published figures rest on",
)
add_report(parser)
add("--threads", type=int, help="threads, or processes that find faces (default: one per core)")
finding = parser.add_argument_group("to find faces")
add = finding.add_argument
add("--detector", type=Path, help="an ONNX file of SCRFD or RetinaFace (default: MTCNN)")
add("--faces", choices=get_args(Policy), default="largest", help="which faces of a photo to write")
add(
    "--keep",
    choices=get_args(Doubt),
    nargs="+",
    default=[],
    help="write these doubtful faces too; by default they are only listed",
)
add(
    "--min-face",
    type=float,
    default=40,
    help="a face is tiny if its box is smaller, in area, than a square of so many pixels: "
    "if sqrt(width * height) is below",
)
add(
    "--search-side",
    type=int,
    default=SMALL_SIDE,
    help="longest side in pixels of the copy that is searched: more finds smaller faces",
)
add("--sheet", type=Path, metavar="PNG", help="draw what was cut into this picture")


@command(parser, failed=2)
def main(options: argparse.Namespace) -> int:
    """Align the faces and print what was found; return the exit status."""
    check_report(options)
    crop = Crop(options.size, options.format, options.quality, options.max_tilt, options.crop)
    return _find(options, crop) if options.landmarks is None else _align(options, crop)


def _align(options: argparse.Namespace, crop: Crop) -> int:
    group = vars(finding)["_group_actions"]
    given = [a.option_strings[0] for a in group if getattr(options, a.dest) != a.default]
    if given:
        raise ValueError(f"{', '.join(given)}: only without {options.landmarks}, to find faces")
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


def _find(options: argparse.Namespace, crop: Crop) -> int:
    sheet = options.sheet
    if sheet is not None and (sheet.suffix.lower() != ".png" or not sheet.parent.is_dir()):
        raise ValueError(f"--sheet {sheet}: expected a .png in a folder that exists")
    choice = Choice(options.faces, tuple(options.keep), options.min_face)
    with progress_bar(str(options.output), "photo") as progress:
        outcome = cut_faces(
            options.source,
            options.output,
            crop,
            choice,
            detector=options.detector,
            small_side=options.search_side,
            processes=options.threads,
            progress=progress,
        )
    clean = not FAULTS & outcome.reasons.keys()
    write_report(options, {"clean": clean, **vars(outcome)})
    written = outcome.reasons.get(WRITTEN, 0)
    print(
        f"{options.output}: {written:,} faces of {crop.size}x{crop.size} pixels from "
        f"{outcome.photos:,} photos; each is in {Files(options.output).list}"
    )
    for reason, meaning in REASONS.items():
        if reason != WRITTEN and (count := outcome.reasons.get(reason, 0)):
            print(f"  {reason}: {count:,} {meaning}")
    if outcome.other_files:
        print(f"  {outcome.other_files:,} other files, which are no photos by their names")
    if faceless := outcome.faceless:
        names = ", ".join(map(printable, faceless[:_NAMED]))
        more = f" and {len(faceless) - _NAMED:,} more" if len(faceless) > _NAMED else ""
        print(f"  {len(faceless):,} sub-folders have no face, and are left out: {names}{more}")
    if sheet is not None and written:
        shown, gone = write_sheet(options.output, sheet)
        lacks = f"; {gone:,} were moved or deleted since they were written" if gone else ""
        print(f"{sheet} shows {shown:,} of them{lacks}" if shown else f"no {sheet}{lacks}")
    return 0 if clean else 1


if __name__ == "__main__":
    exit_with(main, "interrupted; where it finds the faces, the same command goes on")
