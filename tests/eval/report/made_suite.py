"""A suite with every protocol, on photos that a function gives: its page has every part."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from data.alignment import TEMPLATE
from data.pairs.bin_file import write_pair_file

PHOTOS = 6
STRANGERS = 8  # of the people, from the end: they are distractors, and probes without a mate

SUITE = """
replicates: {replicates}
fars: [0.1, 0.01, 0.001, 0.0001, 0.00001]
pairs:
  {name}:
    {{format: folder, file: faces, people: people.csv, group_far: 0.01}}
  ten folds: {{file: pairs.bin}}
ijb:
  ijb: {{meta: meta, images: faces, modes: [N1D1F1, N0D0F0]}}
megaface:
  megaface:
    probes: probes.json
    probe_images: faces
    distractors: [far_10.json, far_100.json, far_1000.json]
    distractor_images: faces
    probe_noise: probe_noise.txt
    distractor_noise: far_noise.txt
    noise: [as_listed, dropped, replaced_as_published]
tinyface:
  tinyface:
    {{probes: probe.mat, probe_images: faces, gallery: gallery.mat, gallery_images: faces,
     distractor_images: faces/p00}}
calibration: {{chosen_on: {name}, far: 0.01}}
"""


def write_suite(
    root: Path, photo: Callable[[int, int], bytes], people: int, *, name: str, replicates: int = 20
) -> Path:
    """Write photos, lists and the suite, whose first set has a name of the caller's."""
    for person in range(people):
        for number in range(PHOTOS):
            path = root / "faces" / _path(person, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo(person, number))
    known = people - STRANGERS
    _write_people(root / "people.csv", people)
    _write_pairs(root / "pairs.bin", photo, people)
    _write_ijb(root / "meta", people, known)
    _write_megaface(root, people, known)
    _write_tinyface(root, people, known)
    path = root / "suite.yaml"
    quoted = json.dumps(name)
    path.write_text(SUITE.format(name=quoted, replicates=replicates), encoding="utf-8")
    return path


def _path(person: int, number: int) -> str:
    return f"p{person:02}/p{person:02}_{number}.png"


def _write_people(path: Path, people: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "subject", "group", "quality"])
        for person in range(people):
            for number in range(PHOTOS):
                group = ("young", "middle & old", "<i>others</i>")[min(person % 4, 2)]
                quality = (person * 7 + number * 13) % 31
                writer.writerow([_path(person, number), person, group, quality])


def _write_pairs(path: Path, photo: Callable[[int, int], bytes], people: int) -> None:
    images, same = [], []
    for pair in range(20 * people):
        person = pair // 2 % people
        other = person if pair % 2 else (person + 1 + pair // 7 % (people - 1)) % people
        images += [photo(person, pair // 5 % 3), photo(other, 3 + pair // 3 % 3)]
        same.append(bool(pair % 2))
    write_pair_file(path, images, np.array(same))


def _write_ijb(meta: Path, people: int, known: int) -> None:
    """Write three templates of two photos per person: two galleries of half the people each."""
    meta.mkdir()
    points = " ".join(f"{value:.3f}" for value in TEMPLATE.ravel())
    faces, landmarks = [], []
    for person in range(people):
        for number in range(PHOTOS):
            template = 3 * person + number // 2
            faces.append(f"{_path(person, number)} {template} {10 * person + number}")
            landmarks.append(f"{_path(person, number)} {points} {0.5 + number / 20:.3f}")
    pairs = [
        f"{a} {b} {int(a // 3 == b // 3)}" for a in range(3 * people) for b in range(a)
        if a // 3 == b // 3 or (a + b) % 2
    ]  # fmt: skip
    (meta / "ijbc_face_tid_mid.txt").write_text("\n".join(faces))
    (meta / "ijbc_name_5pts_score.txt").write_text("\n".join(landmarks))
    (meta / "ijbc_template_pair_label.txt").write_text("\n".join(pairs))
    sides = {
        "gallery_G1": range(0, known, 2), "gallery_G2": range(1, known, 2),
        "probe_mixed": range(people),
    }  # fmt: skip
    for side, members in sides.items():
        rows = [
            f"{3 * person + k},{person},{_path(person, 2 * k + number)}"
            for person in members for k in range(3) for number in (0, 1)
            if ("gallery" in side) == (k == 0 and person < known)
        ]  # fmt: skip
        content = "\n".join(["TEMPLATE_ID,SUBJECT_ID,FILENAME", *rows])
        (meta / f"ijbc_1N_{side}.csv").write_text(content)


def _write_megaface(root: Path, people: int, known: int) -> None:
    paths = [_path(person, number) for person in range(0, known, 2) for number in range(3)]
    names = [path.partition("/")[0] for path in paths]
    (root / "probes.json").write_text(json.dumps({"path": paths, "id": names}))
    far = [_path(person, number) for person in range(1, people, 2) for number in range(PHOTOS)]
    for size in (10, 100, 1000):
        (root / f"far_{size}.json").write_text(json.dumps({"path": far[:size]}))
    (root / "probe_noise.txt").write_text(Path(paths[4]).name)
    (root / "far_noise.txt").write_text("\n".join(far[3:60:9]))


def _write_tinyface(root: Path, people: int, known: int) -> None:
    for kind, first, members in (("probe", 3, people), ("gallery", 1, known)):
        paths = [_path(person, number) for person in range(1, members) for number in (first, 4)]
        names = np.empty((len(paths), 1), dtype=object)
        names[:, 0] = paths
        ids = np.array([int(path[1:3]) for path in paths])[:, None]
        savemat(root / f"{kind}.mat", {f"{kind}_set": names, f"{kind}_ids": ids})
