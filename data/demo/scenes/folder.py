"""Writes a folder of photos of the demo's people, and who is where in them."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image

from data.demo.conditions import Shot
from data.demo.generate import one_thread, start_worker
from data.demo.scenes.scene import Scene, draw_scene
from data.files import atomic_write, make_output_folder
from data.loading.tuning import usable_cores
from data.loading.workers import Workers
from data.progress import ProgressCallback, progress_counter

_STRANGERS: Final = 2**30  # number of the first person who is only in the background
_MOST_OTHERS: Final = 3
_JPEG_QUALITY: Final = 92
# Photos are stored as the camera was held: every eighth lies on its side or stands on its head.
_HELD: Final = {
    3: (6, Image.Transpose.ROTATE_90),
    11: (3, Image.Transpose.ROTATE_180),
    19: (8, Image.Transpose.ROTATE_270),
}
_PERIOD: Final = 24


class _Job(NamedTuple):
    seed: int
    person: int
    photo: int  # of this person
    number: int  # of all


def truth_file(folder: Path) -> Path:
    """Return the JSON beside `folder` that says who is where: see `make_demo_photos`."""
    return folder.with_name(f"{folder.name}.json")


def make_demo_photos(
    folder: Path,
    *,
    people: int,
    photos: int,
    seed: int = 0,
    first: int = 0,
    processes: int | None = None,  # by default one per core that this process may use
    progress: ProgressCallback | None = None,
) -> None:
    """Write `photos` of each of `people`, a sub-folder for each, with up to three others in them.

    The people are those of the demo data of `seed`, from number `first` on. The JSON beside the
    folder has for each photo its faces, the main person's first: identity, landmarks in pixels of
    the photo held upright, yaw in degrees, and whether all landmarks are visible.

    Raises `ValueError` for a number out of range, and `OutputFolderError`.
    """
    for name, value in (("people", people), ("photos", photos)):
        if value < 1:
            raise ValueError(f"{name} is {value}: expected at least 1")
    count = usable_cores() if processes is None else processes
    make_output_folder(folder)
    jobs = [
        _Job(seed, first + person, photo, person * photos + photo)
        for person in range(people)
        for photo in range(photos)
    ]
    add = progress_counter(progress, len(jobs))
    truth: dict[str, Any] = {}
    with one_thread(), Workers(count, processes=True, start=start_worker) as workers:
        for job, (content, faces) in zip(jobs, workers.in_order(_take, jobs), strict=True):
            path = folder / f"person-{job.person:05}" / f"{job.photo + 1:03}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            truth[path.relative_to(folder).as_posix()] = faces
            add(1)
    with atomic_write(truth_file(folder)) as file:
        file.write(json.dumps(truth, indent=1).encode() + b"\n")


def _take(job: _Job) -> tuple[bytes, list[dict[str, Any]]]:
    """Return a photo as a JPEG file, and its faces."""
    stranger = _STRANGERS + _MOST_OTHERS * job.number
    others = [(stranger + n, Shot(n)) for n in range(job.number % (_MOST_OTHERS + 1))]
    scene = draw_scene(job.seed, job.number, (job.person, Shot(job.photo)), others)
    return _file(scene.image, job.number), list(_faces(scene))


def _file(image: Image.Image, number: int) -> bytes:
    exif = Image.Exif()
    if held := _HELD.get(number % _PERIOD):
        exif[0x0112], turn = held
        image = image.transpose(turn)
    stream = BytesIO()
    image.save(stream, "JPEG", quality=_JPEG_QUALITY, exif=exif)
    return stream.getvalue()


def _faces(scene: Scene) -> Iterator[dict[str, Any]]:
    for face in scene.faces:
        yield {
            "identity": face.identity,
            "points": face.points.round(2).tolist(),
            "yaw": round(face.yaw, 1),
            "visible": face.visible,
        }
