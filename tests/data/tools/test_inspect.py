from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.records.format import RecordError, pack_record
from data.records.writer import RecordWriter, write_face_records
from data.tools.inspect import CELL, RecordImages, Spread, draw_grid, inspect_records

FIXTURES = Path(__file__).parents[2] / "fixtures" / "recordio"


def plain(
    size: tuple[int, int], kind: str = "PNG", colour: tuple[int, int, int] = (0, 0, 0)
) -> bytes:
    stream = BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


def coloured(identity: int, number: int) -> tuple[int, int, int]:
    return 10 * identity, 20 * number, 128


@pytest.fixture
def people(tmp_path: Path) -> RecordImages:
    """Return identities 0 … 4 with 1, 2, 3, 6 and 9 images, in the colours of `coloured`."""
    images = (
        (identity, plain((32, 32), colour=coloured(identity, number)))
        for identity, count in enumerate((1, 2, 3, 6, 9))
        for number in range(count)
    )
    write_face_records(tmp_path, images)
    return RecordImages([tmp_path / "train.rec"])


def test_counts_and_spreads(people: RecordImages, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = inspect_records(people, progress=lambda done, total: steps.append((done, total)))
    (file,) = found.files
    assert (file.path, file.size) == (
        str(tmp_path / "train.rec"), (tmp_path / "train.rec").stat().st_size,
    )  # fmt: skip
    assert (file.records, file.images, file.has_index) == (27, 21, True)
    assert file.layout.startswith("record 0 states the images' keys")
    assert (found.images, found.identities, found.label_range, found.label_gaps) == (
        21,
        5,
        (0, 4),
        0,
    )
    assert found.images_per_identity == Spread(
        1, 3.0, 9, ((1, 1, 1), (2, 3, 2), (4, 7, 1), (8, 9, 1))
    )
    assert (found.sampled, found.pixels) == (21, ((32, 32, 21),))
    assert (found.formats, found.labels_per_record) == ({"PNG": 21}, {1: 21})
    sizes = [len(plain((32, 32), colour=coloured(4, 0)))]
    assert found.image_bytes.least <= sizes[0] <= found.image_bytes.most
    assert steps == [(21, 21)]


def test_the_text_is_for_people(people: RecordImages) -> None:
    lines = inspect_records(people).text().splitlines()
    assert lines[2] == "21 images of 5 identities; labels 0 to 4, without gaps"
    assert lines[4:9] == [
        "images per identity: 1 to 9, median 3",
        "    1           1  ####################",
        "  2-3           2  ########################################",
        "  4-7           1  ####################",
        "  8-9           1  ####################",
    ]
    assert "of all 21 images:" in lines
    assert "pixels: 32x32 (21)" in lines


def test_other_files_gaps_sizes_and_formats(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(0, pack_record([7, 1], 0, plain((20, 30))))
        writer.write(1, pack_record([7, 1], 1, plain((20, 30), "JPEG")))
    with RecordWriter(tmp_path / "b.rec") as writer:
        writer.write(5, pack_record(3, 5, plain((9, 9), "BMP")))
        writer.write(6, pack_record(7, 6, b"no image"))
    (tmp_path / "b.idx").unlink()
    found = inspect_records(RecordImages([tmp_path / "a.rec", tmp_path / "b.rec"]))
    assert [(file.images, file.has_index) for file in found.files] == [(2, True), (2, False)]
    assert {file.layout for file in found.files} == {"every record is an image"}
    assert (found.identities, found.label_range, found.label_gaps) == (2, (3, 7), 6)
    assert found.formats == {"PNG": 1, "JPEG": 1, "BMP": 1, "unknown": 1}
    assert found.pixels == ((20, 30, 2), (9, 9, 1))
    assert found.labels_per_record == {1: 2, 2: 2}
    assert "labels 3 to 7, 6 below unused" in found.text()


def test_a_sample_stands_for_the_sizes_and_all_images_for_the_identities(
    people: RecordImages,
) -> None:
    found = inspect_records(people, sample=4, seed=1)
    assert (found.sampled, sum(found.formats.values()), found.images) == (4, 4, 21)
    assert found.images_per_identity.most == 9
    assert "of a sample of 4 images:" in found.text()
    assert inspect_records(people, sample=4, seed=1) == found


@pytest.mark.parametrize("name", ["insightface_header", "two_value_labels", "im2rec_headerless"])
def test_files_of_the_public_layouts(name: str) -> None:
    found = inspect_records(RecordImages([FIXTURES / name / "train.rec"]))
    assert (found.images, found.identities, found.pixels) == (24, 6, ((112, 112, 24),))


def cells(grid: Image.Image) -> list[list[tuple[int, int, int]]]:
    """Return the colour in the middle of each cell."""
    pixels = np.asarray(grid)[CELL // 2 :: CELL, CELL // 2 :: CELL]
    return [[tuple(cell) for cell in row] for row in pixels.tolist()]


@pytest.mark.parametrize("seed", range(5))
def test_a_row_of_the_grid_is_one_identity(people: RecordImages, seed: int) -> None:
    grid = draw_grid(people, rows=4, columns=3, seed=seed)
    assert grid.size == (3 * CELL, 4 * CELL)
    owners = []
    for row in cells(grid):
        shown = [cell for cell in row if cell != (0, 0, 0)]
        assert len(set(shown)) == len(shown)  # no image twice
        owners.append({cell[0] // 10 for cell in shown})
    assert all(len(owner) == 1 for owner in owners)
    identities = [owner.pop() for owner in owners]
    assert set(identities[:3]) == {2, 3, 4}  # who can fill a row
    assert identities[3] in {0, 1}
    assert grid.tobytes() == draw_grid(people, rows=4, columns=3, seed=seed).tobytes()
    assert grid.tobytes() != draw_grid(people, rows=4, columns=3, seed=seed + 1).tobytes()


def test_a_grid_of_any_images_shows_each_once(people: RecordImages) -> None:
    grid = draw_grid(people, rows=9, columns=4, by_identity=False)
    assert grid.size == (4 * CELL, 6 * CELL)
    shown = [cell for row in cells(grid) for cell in row]
    expected = [coloured(i, n) for i, count in enumerate((1, 2, 3, 6, 9)) for n in range(count)]
    assert sorted(shown) == sorted([*expected, *[(0, 0, 0)] * 3])


def test_damaged_images_are_red(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(0, pack_record(0, 0, b"no image"))
    assert cells(draw_grid(RecordImages([tmp_path / "a.rec"]))) == [[(255, 0, 0)] + [(0, 0, 0)] * 7]


def test_what_makes_no_sense_is_refused(people: RecordImages, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sample is 0: expected at least 1"):
        inspect_records(people, sample=0)
    with pytest.raises(ValueError, match="a grid of 0 rows and 8 columns"):
        draw_grid(people, rows=0)
    (tmp_path / "train.idx").write_text("1\t3\n")
    with pytest.raises(RecordError, match=r"train\.idx, line 1"):
        RecordImages([tmp_path / "train.rec"])
