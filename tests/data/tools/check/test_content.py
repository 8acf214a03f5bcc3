import re
import struct
from pathlib import Path

import numpy as np
import pytest

from data.records.reader import RecordFile
from data.tools.check.run import check_records
from tests.data.tools.check.helpers import check, encoded, flip_magic, found, keys_of, write


def test_a_header_record_that_promises_more(faces: Path) -> None:
    offset = int(RecordFile(faces).scan()[-1])
    content = bytearray(faces.read_bytes())
    struct.pack_into("<f", content, offset + 8 + 24, 15.0)
    faces.write_bytes(content)
    findings = found(check(faces))
    assert keys_of(findings["no_image"]) == [13, 14]  # ranges, where images are promised
    struct.pack_into("<ff", content, offset + 8 + 24, 13.0, 15.0)
    faces.write_bytes(content)
    findings = found(check(faces))
    assert keys_of(findings["beyond_end"]) == [15, 16]
    assert keys_of(findings["range"]) == list(range(7, 13))


@pytest.mark.parametrize("stop", [1e18, 3e38])
def test_a_header_record_that_states_a_quintillion_images(faces: Path, stop: float) -> None:
    offset = int(RecordFile(faces).scan()[-1])
    content = bytearray(faces.read_bytes())
    struct.pack_into("<ff", content, offset + 8 + 24, stop, stop)
    faces.write_bytes(content)
    findings = found(check(faces, decode=False))
    if stop < 2**62:
        missing = findings["images_missing"]
        assert missing["count"] > 10**17
        assert [place["key"] for place in missing["places"]] == list(range(17, 10_017))
    else:  # no key can be so large: every record is an image or should be
        assert keys_of(findings["no_image"]) == [*range(13, 17), 0]


@pytest.mark.parametrize(
    ("labels", "keys"),
    [
        ((4.0, 8.0), [14, 7]),  # one image of the next identity, which is in its range, too
        ((4.0, 6.0), [6]),
        ((0.0, 4.0), [14, 4, 5, 6]),
        ((float("nan"), 7.0), [14, 4, 5, 6]),
        ((4.0, 99.0), [14, 4, 5, 6]),
    ],
)
def test_key_ranges_that_do_not_fit(
    faces: Path, labels: tuple[float, float], keys: list[int]
) -> None:
    offset = int(RecordFile(faces).scan()[13])
    content = bytearray(faces.read_bytes())
    struct.pack_into("<ff", content, offset + 8 + 24, *labels)
    faces.write_bytes(content)
    findings = found(check(faces))
    assert keys_of(findings["range"]) == keys
    assert set(findings) == {"range"}


def test_ranges_are_not_reported_when_the_header_record_is_lost(faces: Path) -> None:
    content = bytearray(faces.read_bytes())
    flip_magic(content, int(RecordFile(faces).scan()[-1]))
    faces.write_bytes(content)
    assert set(found(check(faces))) == {"damage", "index_lost"}


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (0.5, "0.5"),
        (-1.0, "-1"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (2.0**24, "16777216"),
    ],
)
def test_labels_that_are_not_a_class(tmp_path: Path, label: float, text: str) -> None:
    images = [(0.0, encoded(seed=1)), (label, encoded(seed=2)), (1.0, encoded(seed=3))]
    result = check(write(tmp_path / "x.rec", images))
    (place,) = found(result)["label"]["places"]
    assert place["key"] == 1
    assert re.match(rf".* {text}\b", place["detail"])
    assert (result.images, result.identities, result.clean) == (2, 2, False)


def test_gaps_in_the_labels_are_reported_in_runs(tmp_path: Path) -> None:
    images = [(label, encoded(seed=int(label))) for label in (2.0, 3.0, 5.0, 9.0)]
    result = check(write(tmp_path / "x.rec", images))
    finding = found(result)["label_gap"]
    assert finding["count"] == 6
    gaps = [re.findall(r"\d+", place["detail"]) for place in finding["places"]]
    assert gaps == [["0", "1", "0", "9"], ["4", "0", "9"], ["6", "8", "0", "9"]]


def test_labels_are_judged_over_all_files(tmp_path: Path) -> None:
    write(tmp_path / "a.rec", [(0, encoded(seed=1)), (2, encoded(seed=2))])
    write(tmp_path / "b.rec", [(1, encoded(seed=3)), (3, encoded(seed=2))])
    result = check_records([tmp_path / "a.rec", tmp_path / "b.rec"], workers=1)
    assert (result.records, result.identities) == (4, 4)
    findings = found(result)
    assert set(findings) == {"label_noise"}
    first, second = findings["label_noise"]["places"]
    assert (first["file"], first["key"]) == (str(tmp_path / "a.rec"), 1)
    assert re.match(rf"label 2, .* key 1 of {tmp_path / 'b.rec'}; .* 2, 3$", first["detail"])
    assert (second["file"], second["key"]) == (str(tmp_path / "b.rec"), 1)


def test_odd_sizes(tmp_path: Path) -> None:
    images = [(0.0, encoded(seed=number)) for number in range(4)]
    images += [(0.0, encoded((32, 40))), (0.0, encoded((48, 48), "PNG"))]
    findings = found(check(write(tmp_path / "x.rec", images)))
    assert set(findings) == {"odd_size"}
    assert keys_of(findings["odd_size"]) == [4, 5]
    sizes = [re.findall(r"\d+x\d+", place["detail"]) for place in findings["odd_size"]["places"]]
    assert sizes == [["32x40", "32x32"], ["48x48", "32x32"]]
    many = [(0.0, encoded((32, 30 + number))) for number in range(4)]
    result = check(write(tmp_path / "y.rec", many))
    assert set(found(result)) == {"many_sizes"}
    assert result.clean


@pytest.mark.parametrize("decode", [True, False])
def test_copies_of_one_identity_and_of_several(tmp_path: Path, decode: bool) -> None:
    one, two, three = (encoded(seed=seed) for seed in (1, 2, 3))
    images = [(0.0, one), (0.0, two), (0.0, one), (1.0, three), (0.0, one)]
    result = check(write(tmp_path / "x.rec", images), decode=decode)
    finding = found(result)["duplicate"]
    assert (finding["level"], finding["count"], result.clean) == ("note", 2, True)
    assert keys_of(finding) == [2, 4]
    assert re.match("label 0, .* key 0$", finding["places"][0]["detail"])
    result = check(write(tmp_path / "y.rec", [*images, (1.0, two)]), decode=decode)
    finding = found(result)["label_noise"]
    assert (finding["level"], finding["count"], result.clean) == ("warning", 2, False)
    assert keys_of(finding) == [1, 5]
    first, second = (place["detail"] for place in finding["places"])
    assert re.match("label 0, .* key 5; .* 0, 1$", first)
    assert re.match("label 1, .* key 1; .* 0, 1$", second)


def test_images_that_differ_in_one_byte_are_not_copies(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, 1000, np.uint8)
    images = [(0.0, image.tobytes())]
    for place in range(0, 1000, 7):
        changed = image.copy()
        changed[place] ^= 1
        images.append((0.0, changed.tobytes()))
    assert found(check(write(tmp_path / "x.rec", images), decode=False)) == {}
