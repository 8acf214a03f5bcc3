"""The part `tinyface/`: the lists, rank-k and mean average precision."""

import dataclasses
from pathlib import Path

import numpy as np

from eval.protocols.tinyface import identify, read_image_ids
from scripts.protocols.compare import differences, read_json


def check(folder: Path) -> list[str]:
    """Return a line for each figure of `expected.json` that differs."""
    expected = read_json(folder / "expected.json")
    gallery, gallery_ids = read_image_ids(folder / "gallery_match_img_ID_pairs.mat", "gallery")
    probes, probe_ids = read_image_ids(folder / "probe_img_ID_pairs.mat", "probe")
    features = np.load(folder / "features.npz")
    result = identify(
        features["probe"],
        probe_ids,
        np.concatenate([features["gallery"], features["distractor"]]),
        gallery_ids,
        ranks=[int(rank) for rank in expected["rank"]],
    )
    first = {
        "first_gallery_image": gallery[0],
        "first_gallery_id": int(gallery_ids[0]),
        "first_probe_image": probes[0],
        "first_probe_id": int(probe_ids[0]),
    }
    return differences(expected, {**dataclasses.asdict(result), **first}, folder.name)
