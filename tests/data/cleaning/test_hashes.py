from io import BytesIO

import numpy as np
import torch
from PIL import Image

from data.cleaning.duplicates import BITS
from data.cleaning.hashes import distances, hash_bits, pack_bits
from data.demo.conditions import Shot
from data.demo.render import render_identity


def test_encoding_anew_changes_few_bits_and_another_image_many() -> None:
    faces = list(render_identity(0, 1, [Shot(0), Shot(1)]))
    for face in list(faces):
        stream = BytesIO()
        Image.fromarray(face).resize((96, 96)).resize((112, 112)).save(stream, "JPEG", quality=60)
        faces.append(np.asarray(Image.open(stream)))
    images = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).float() / 127.5 - 1
    hashes = pack_bits(hash_bits(images).numpy())
    assert (distances(hashes[:2], hashes[2:]) <= BITS).all()
    assert (distances(hashes[:1], hashes[[1, 3]]) > BITS).all()


def test_distances_count_bits() -> None:
    one = np.array([0, 2**64 - 1, 5], np.uint64)
    assert distances(one, np.uint64(1)).tolist() == [1, 63, 1]  # type: ignore[arg-type]
