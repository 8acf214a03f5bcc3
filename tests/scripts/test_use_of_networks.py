"""Tests of `scripts/embed_faces.py`, `compare_faces.py` and `search_faces.py`."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recognition import FaceEmbedder
from recognition.inference.description import CONFIG, Description, ExportedFile, Threshold, sha256
from recognition.inference.safetensors_file import write_safetensors
from scripts import compare_faces, embed_faces, pack_records, search_faces
from scripts.faces import gallery, parts
from scripts.faces.gallery import Gallery
from tests.recognition.inference.small_run import EMBEDDING, SIZE, faces, write_run

COUNT = 10


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five people with two faces each, and the second of each nearly as the first."""
    folder = tmp_path_factory.mktemp("photos")
    for number, face in enumerate(faces(COUNT // 2)):
        (folder / f"p{number}").mkdir()
        Image.fromarray(face).save(folder / f"p{number}" / "a.png")
        Image.fromarray(face ^ np.uint8(1)).save(folder / f"p{number}" / "b.png")
    return folder


def export(run: Path, folder: Path, *thresholds: Threshold) -> Path:
    """Write a folder as `export_model` does, with safetensors alone."""
    module = FaceEmbedder.load(run, device="cpu").network.module
    assert module is not None
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", module.state_dict())
    file = ExportedFile(sha256(folder / "model.safetensors"), thresholds)
    files = {"model.safetensors": file}
    description = Description("rtiny", EMBEDDING, SIZE, flip=True, files=files)
    (folder / CONFIG).write_text(description.to_json())
    return folder


def embed(source: Path, output: Path, run: Path, *more: str) -> int:
    return embed_faces.main([str(source), str(output), "--model", str(run), *DEVICE, *more])


DEVICE = ("--device", "cpu")


def test_a_folder_becomes_a_file(run: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "gallery.npz"
    assert embed(photos, output, run) == 0
    found = Gallery.read(output)
    names = [f"p{number}/{name}.png" for number in range(5) for name in "ab"]
    assert found.names.tolist() == names
    assert found.labels.tolist() == [name[:2] for name in names]
    expected = FaceEmbedder.load(run, device="cpu").embed([photos / name for name in names])
    assert found.embeddings.dtype == np.float32
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-6)
    assert [item.name for item in tmp_path.iterdir()] == ["gallery.npz"]


@pytest.fixture
def parts_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", 4)


@pytest.mark.usefixtures("parts_of_four")
def test_an_interrupted_job_goes_on(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole, output = tmp_path / "whole.npz", tmp_path / "gallery.npz"
    assert embed(photos, whole, run) == 0
    original, calls = gallery.unit_embeddings, []

    def fail_at_second(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise ValueError("stopped")
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(gallery, "unit_embeddings", fail_at_second)
    assert embed(photos, output, run) == 1
    assert not output.exists()
    assert embed(photos, output, run, "--flip") == 1  # another job
    assert "another job" in capsys.readouterr().err
    assert embed(photos, output, run) == 0
    assert len(calls) == 4  # of three parts, the first one was there already
    assert "4 of them by an earlier try" in capsys.readouterr().out
    assert np.array_equal(Gallery.read(output).embeddings, Gallery.read(whole).embeddings)
    assert embed(photos, output, run) == 1  # exists


@pytest.mark.usefixtures("parts_of_four")
def test_faces_that_change_between_two_tries_are_embedded_again(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies, output = tmp_path / "copies", tmp_path / "gallery.npz"
    shutil.copytree(photos, copies)
    (copies / "p4" / "b.png").write_bytes(b"damaged")  # of the third part
    assert embed(copies, output, run) == 1
    shutil.copy2(photos / "p4" / "b.png", copies / "p4" / "b.png")
    shutil.copy2(photos / "p3" / "a.png", copies / "p0" / "a.png")  # of the first one
    assert embed(copies, output, run) == 0
    assert "4 of them by an earlier try" in capsys.readouterr().out
    names = [f"p{number}/{name}.png" for number in range(5) for name in "ab"]
    expected = FaceEmbedder.load(run, device="cpu").embed([copies / name for name in names])
    np.testing.assert_allclose(Gallery.read(output).embeddings, expected, atol=1e-6)


def test_records_that_change_between_two_tries_are_another_job(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data, output = tmp_path / "data", tmp_path / "gallery.npz"
    assert pack_records.main([str(photos), str(data)]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(gallery, "unit_embeddings", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            embed(data, output, run)
    for file in data.glob("*.rec"):
        os.utime(file, ns=(1, 1))
    assert embed(data, output, run) == 1
    assert "another job" in capsys.readouterr().err


def test_what_is_no_aligned_face_is_not_embedded(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "whole").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "whole" / "photo.jpg")
    assert embed(tmp_path / "whole", tmp_path / "gallery.npz", run) == 1
    assert "photo.jpg is [48, 64]: expected an aligned face" in capsys.readouterr().err


def test_a_damaged_network_makes_no_gallery(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = FaceEmbedder.load(run, device="cpu").network.module
    assert module is not None
    weights = module.state_dict()
    weights["fc.weight"] *= float("nan")
    torch.save(weights, tmp_path / "net.pt")
    more = ("--image-size", str(SIZE))
    assert embed(photos, tmp_path / "gallery.npz", tmp_path / "net.pt", *more) == 1
    assert "not finite" in capsys.readouterr().err
    pair = [str(photos / "p0" / "a.png"), str(photos / "p1" / "a.png")]
    assert compare_faces.main([*pair, "--model", str(tmp_path / "net.pt"), *DEVICE, *more]) == 2
    assert "not finite" in capsys.readouterr().err


def test_the_sheet_shows_what_was_searched_or_nothing(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies, output = tmp_path / "copies", tmp_path / "gallery.npz"
    shutil.copytree(photos, copies)
    assert embed(copies, output, run) == 0
    shutil.copy(photos / "p1" / "a.png", copies / "p3" / "b.png")
    query, sheet = str(photos / "p3" / "a.png"), tmp_path / "sheet.png"
    search = [query, str(output), "--model", str(run), *DEVICE, "--top", "2"]
    assert search_faces.main([*search, "--sheet", str(sheet)]) == 1
    assert "has changed since the gallery was made" in capsys.readouterr().err
    assert not sheet.exists()


def test_search_finds_the_other_face_of_a_person(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, sheet = tmp_path / "gallery.npz", tmp_path / "sheet.png"
    embed(photos, output, run, "--flip")
    capsys.readouterr()
    arguments = [str(photos / "p3" / "a.png"), str(output), "--model", str(run), *DEVICE]
    assert search_faces.main([*arguments, "--top", "3", "--sheet", str(sheet)]) == 0
    first, second, third, _ = capsys.readouterr().out.splitlines()
    assert first.split() == ["1", "1.0000", "p3", "p3/a.png"]
    assert second.split()[2:] == ["p3", "p3/b.png"]
    assert float(third.split()[1]) <= float(second.split()[1])
    pixels = np.asarray(Image.open(sheet))
    query = Image.fromarray(faces(5)[3]).resize((112, 112), Image.Resampling.LANCZOS)
    for column in (0, 1):  # the query, and itself as the nearest
        x = 6 + column * 118
        assert np.array_equal(pixels[6:118, x : x + 112], np.asarray(query))
    assert search_faces.main([*arguments, "--top", "100"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == COUNT
    other = write_run(tmp_path / "other", seed=1)
    arguments[3] = str(other)
    assert search_faces.main(arguments) == 1
    assert "another network" in capsys.readouterr().err
    (tmp_path / "text.npz").write_text("none")
    assert search_faces.main([arguments[0], str(tmp_path / "text.npz"), *arguments[2:]]) == 1


@pytest.mark.parametrize(
    ("cosine", "verdict"), [(0.9, "the same person"), (0.99999999, "different people")]
)
def test_a_verdict_is_by_the_threshold_of_the_card(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    cosine: float, verdict: str,
) -> None:  # fmt: skip
    thresholds = Threshold(1e-4, cosine, None, "lfw", 300_000), Threshold(1e-5, None, "too few")
    model = export(run, tmp_path / "model", *thresholds)
    pair = [str(photos / "p0" / "a.png"), str(photos / "p0" / "b.png")]
    assert compare_faces.main([*pair, "--model", str(model), *DEVICE]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert 0.9 < float(first.removeprefix("cosine ")) < 1
    assert second.startswith(f"{verdict}, at one false accept in 10,000")
    for more, reason in (
        (["--far", "1e-5"], "too few"),
        (["--far", "0.5"], "0.0001, 1e-05"),
        (["--no-flip"], "--flip"),
    ):
        assert compare_faces.main([*pair, "--model", str(model), *DEVICE, *more]) == 1
        assert reason in capsys.readouterr().out


def test_without_a_threshold_there_is_no_verdict(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(photos / "p0" / "a.png"), str(photos / "p1" / "a.png")]
    assert compare_faces.main([*pair, "--model", str(run), *DEVICE]) == 1
    assert "no verdict" in capsys.readouterr().out
    assert compare_faces.main([*pair, "--model", "absent"]) == 2


def test_faces_of_a_dataset_have_numbers_and_the_names_of_their_people(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = tmp_path / "data", tmp_path / "gallery.npz"
    assert pack_records.main([str(photos), str(data)]) == 0
    assert embed(data, output, run) == 0
    found = Gallery.read(output)
    assert found.names.tolist() == [str(number) for number in range(COUNT)]
    assert found.labels.tolist() == [f"p{number}" for number in range(5) for _ in "ab"]
    assert found.about["flip"] is False
    (data / "classes.json").unlink()
    assert embed(data, tmp_path / "plain.npz", run) == 0
    labels = Gallery.read(tmp_path / "plain.npz").labels.tolist()
    assert labels == [label for label in "01234" for _ in "ab"]
