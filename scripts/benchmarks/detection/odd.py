"""Photos as nobody wants them, and what becomes of each."""

import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from data.demo.conditions import Shot
from data.demo.scenes.scene import SIZE, draw_scene
from data.detection.choice import Choice
from data.detection.cut import Cutter
from data.detection.detector import open_detector
from data.tools.align import Crop
from scripts.benchmarks.common.memory import PeakMemory

_LARGE: Final = (11_600, 8_700)  # 101 megapixels
_LARGE_NAME: Final = "100_megapixels.jpg"
_SHOT: Final = Shot(1, "frontal", "adult")


def make_odd_photos(folder: Path) -> list[str]:
    """Write a photo of one person in many forms; return their names, the plain one first."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = draw_scene(0, 0, (3, _SHOT), []).image
    grey = photo.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "plain.jpg", quality=95)
    photo.transpose(Image.Transpose.ROTATE_90).save(folder / "rotated.jpg", exif=exif, quality=95)
    grey.save(folder / "grey.jpg", quality=95)
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "16_bit.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    photo.convert("RGBA").save(folder / "alpha.png")
    photo.convert("P").save(folder / "palette.png")
    photo.resize(_LARGE, Image.Resampling.BICUBIC).save(folder / _LARGE_NAME, quality=90)
    Image.effect_noise((960, 720), 60).convert("RGB").save(folder / "nobody.jpg")
    content = (folder / "plain.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "no_image.jpg").write_bytes(b"<html>Not found</html>")
    (folder / "empty.jpg").write_bytes(b"")
    names = sorted(path.name for path in folder.iterdir())
    names.remove("plain.jpg")
    return ["plain.jpg", *names]


def measure_odd_photos(
    source: Path, output: Path, names: list[str], detector: Path | None
) -> list[dict[str, Any]]:
    """Return for each photo its reason, seconds, and peak memory, measured in a new process.

    `moved` is how far its landmarks are from those of the first photo, over the eyes' distance.
    """
    output.mkdir(parents=True, exist_ok=True)
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        cases = pool.starmap(
            _measure, [(source, output, name, detector) for name in names], chunksize=1
        )
    plain = np.array(cases[0]["points"])
    for case in cases:
        points = np.array(case.pop("points"))
        case["moved"] = None
        if len(points):
            moved = np.linalg.norm(points - plain, axis=1).mean()
            case["moved"] = float(moved / np.linalg.norm(plain[1] - plain[0]))
    return cases


def _measure(source: Path, output: Path, name: str, detector: Path | None) -> dict[str, Any]:
    cutter = Cutter(source, output, Crop(), Choice(), alone=output / ".lock")
    opened = open_detector(detector)
    opened.detect(Image.new("RGB", (320, 240)))  # what is made once is not this photo's
    memory = PeakMemory(torch.device("cpu"))
    begin = time.perf_counter()
    cells = cutter(name, Path(name).stem, opened)[0]
    seconds = time.perf_counter() - begin
    points = np.reshape([float(cell) for cell in cells[8:18] if cell], (-1, 2))
    if name == _LARGE_NAME:  # in pixels of the plain photo
        points = (points + 0.5) * SIZE[0] / _LARGE[0] - 0.5
    return {
        "photo": name,
        "reason": cells[1],
        "seconds": seconds,
        "bytes": memory.beyond(),
        "points": points.tolist(),
    }
