from collections.abc import Sequence
from pathlib import Path

import pytest

from data.pairs.bin_file import write_pair_file
from eval.build import build_verifier
from recognition.config import Config
from recognition.distributed import World
from tests.eval.suites.made_sets import photo, write_folder

NEGATIVES = 1000


def config(
    tmp_path: Path, best: str | None, ema: float | None = None, sets: Sequence[str] = ("pairs",)
) -> Config:
    if not (tmp_path / "pairs.bin").exists():
        same = [i % 2 == 0 for i in range(2 * NEGATIVES)]
        images = [photo(0, i % 2) for i in range(2 * len(same))]
        write_pair_file(tmp_path / "pairs.bin", images, same)
    return Config.model_validate(
        {
            "output": tmp_path / "run",
            "data": {"train": tmp_path},
            "train": {"global_batch_size": 2, "steps": 1, "ema": ema},
            "verification": {"sets": list(sets), "folder": tmp_path},
            "checkpoint": {"best": best},
        }
    )


@pytest.mark.parametrize("figure", ["accuracy", "accuracy_no_flip", "tar_at_far/1e-3"])
def test_a_figure_that_the_set_supports_may_choose_the_best_checkpoint(
    tmp_path: Path, figure: str
) -> None:
    build_verifier(config(tmp_path, f"pairs/{figure}"), World())
    build_verifier(config(tmp_path, f"ema/pairs/{figure}", ema=0.9), World())


@pytest.mark.parametrize(
    ("best", "named"),
    [
        ("pairs/acuracy", ["'pairs/acuracy'", "pairs/accuracy_no_flip", "pairs/tar_at_far/1e-3"]),
        ("pairs/embedding_norm", ["embedding_norm"]),
        ("lfw/accuracy", ["'lfw/accuracy'", "pairs"]),
        ("accuracy", ["'accuracy'"]),
        ("", ["''"]),
        ("pairs/tar_at_far/1e-4", ["needs 10000 impostor pairs, the set has 1000"]),
        ("pairs/accuracy/1e-3", ["'pairs/accuracy/1e-3'"]),
    ],
)
def test_a_figure_that_no_verification_will_have_is_refused(
    tmp_path: Path, best: str, named: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.best") as raised:
        build_verifier(config(tmp_path, best), World())
    for text in named:
        assert text in str(raised.value)


SUITE = """
folder: {folder}
fars: [0.1, 0.03, 0.000001]
pairs:
  made: {{format: folder, file: faces}}
"""


def test_suites_and_names_stand_in_one_list(tmp_path: Path) -> None:
    write_folder(tmp_path / "faces")
    suite = tmp_path / "mine.yaml"
    suite.write_text(SUITE.format(folder=tmp_path))
    verifier = build_verifier(
        config(tmp_path, "made/tar_at_far/3e-2", sets=[str(suite), "pairs"]), World()
    )
    assert [item.name for _, item in verifier.sets] == ["made", "pairs"]
    with pytest.raises(ValueError, match=r"checkpoint\.best") as raised:
        build_verifier(config(tmp_path, "made/tar_at_far/1e-6", sets=[str(suite)]), World())
    message = str(raised.value)
    assert "needs 1000000 impostor pairs" in message
    for name in ("made/tar_at_far/1e-1", "made/tar_at_far/3e-2", "made/auc"):
        assert name in message
    for name in ("made/accuracy", "eer"):  # there are no folds, and less of the other is better
        assert name not in message
    suite.write_text(SUITE.format(folder=tmp_path).replace("made", "pairs"))
    with pytest.raises(ValueError, match=r"pairs .* 2 times"):
        build_verifier(config(tmp_path, None, sets=[str(suite), "pairs"]), World())
    with pytest.raises(ValueError, match=r"absent\.yaml"):
        build_verifier(config(tmp_path, None, sets=[str(tmp_path / "absent.yaml")]), World())
