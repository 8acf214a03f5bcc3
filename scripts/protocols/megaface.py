"""The part `megaface/`: identification among distractors, for every size and rule for noise."""

from pathlib import Path

import numpy as np

from eval.protocols.megaface import apply_noise, identify
from eval.protocols.megaface_files import (
    noisy_distractors,
    noisy_probes,
    read_feature,
    read_noise_list,
    read_photo_list,
    read_probe_list,
)
from scripts.protocols.compare import Json, differences, read_json

PREFIX = "feature_file_probe_"


def check(folder: Path) -> list[str]:
    """Return a line for each figure of `expected.json` that differs."""
    expected = read_json(folder / "expected.json")
    paths, people = read_probe_list(folder / "facescrub_features_list.json")
    noise_p = noisy_probes(paths, read_noise_list(folder / "facescrub_noises.txt"))
    noise_d = read_noise_list(folder / "megaface_noises.txt")
    features = np.load(folder / "features.npz")
    # The reference is float64: in float32 a rate could differ by a pair next to the threshold.
    probe_nd, every_distractor = (features[k].astype(np.float64) for k in ("probe", "distractor"))
    row_of = {name: row for row, name in enumerate(features["distractor_names"].tolist())}
    found: dict[str, object] = {
        "noisy_probes": _like(
            expected.get("noisy_probes"),
            [Path(path).name for path, noisy in zip(paths, noise_p, strict=True) if noisy],
        ),
        "noisy_distractors": int(noisy_distractors(list(row_of), noise_d).sum()),
        "sizes": {},
    }
    for key in expected:
        if key.startswith(PREFIX):
            number = key.removeprefix(PREFIX)
            found[key] = read_feature(folder / "features" / f"probe_{number}_made.bin")
    sizes: dict[str, object] = {}
    for size, rules in expected.get("sizes", {}).items():
        listed = read_photo_list(folder / f"megaface_features_list.json_{size}_1")
        rows = np.array([row_of[path] for path in listed])
        noisy_d = noisy_distractors(listed, noise_d)
        sizes[size] = {
            name: _figures(probe_nd, people, noise_p, every_distractor[rows], noisy_d, name, one)
            for name, one in rules.items()
        }
    found["sizes"] = sizes
    return differences(expected, found, folder.name)


def _like(expected: Json, names: list[str]) -> list[str]:
    """Return names in the order of the expected list, which need not be that of the photos."""
    order = {name: place for place, name in enumerate(expected or [])}
    return sorted(names, key=lambda name: order.get(name, len(order)))


def _figures(
    probe_nd: np.ndarray,
    people: list[str],
    noisy_n: np.ndarray,
    distractors_Dd: np.ndarray,
    noisy_D: np.ndarray,
    name: str,  # the rule for noise, as `expected.json` names it
    expected: Json,
) -> object:
    rule = name.removeprefix("noise_")
    probe_nd, kept = apply_noise(probe_nd, people, noisy_n, rule)
    if rule != "as_listed":
        distractors_Dd = distractors_Dd[~noisy_D]
    return identify(
        probe_nd,
        kept,
        [distractors_Dd],
        len(distractors_Dd),
        ranks=[int(rank) for rank in expected["rank"]],
        fars=[point["far"] for point in expected["tar_at_far"]],
    )
