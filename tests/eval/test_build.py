from pathlib import Path

import numpy as np
import pytest

from data.pairs.bin_file import write_pair_file
from eval.build import BEST_FIGURES, build_verifier
from eval.verification import verify_embeddings
from recognition.config import Config
from recognition.distributed import World
from recognition.telemetry import named_figures

NEGATIVES = 1000


def config(tmp_path: Path, best: str, ema: float | None = None) -> Config:
    if not (tmp_path / "pairs.bin").exists():
        same = [i % 2 == 0 for i in range(2 * NEGATIVES)]
        write_pair_file(tmp_path / "pairs.bin", [b"image"] * 2 * len(same), same)
    return Config.model_validate(
        {
            "output": tmp_path / "run",
            "data": {"train": tmp_path},
            "train": {"global_batch_size": 2, "steps": 1, "ema": ema},
            "verification": {"sets": ["pairs"], "folder": tmp_path},
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
        ("pairs/acuracy", ["'pairs/acuracy'", "accuracy_no_flip", "tar_at_far/1e-3"]),
        ("pairs/embedding_norm", ["embedding_norm"]),
        ("lfw/accuracy", ["'lfw/accuracy'", "pairs"]),
        ("accuracy", ["'accuracy'"]),
        ("", ["''"]),
        ("pairs/tar_at_far/1e-4", ["10,000", "1,000", "pairs.bin"]),
    ],
)
def test_a_figure_that_no_verification_will_have_is_refused(
    tmp_path: Path, best: str, named: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.best") as raised:
        build_verifier(config(tmp_path, best), World())
    for text in named:
        assert text in str(raised.value)


def test_every_figure_that_may_be_named_is_recorded() -> None:
    """With enough negative pairs for the lowest rate."""
    same = np.arange(20_000) % 2 == 0
    embeddings = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    rows = np.tile(np.array([0, 1]), len(same))
    result = verify_embeddings("pairs", embeddings, None, same, rows)
    assert {f"pairs/{figure}" for figure in BEST_FIGURES} <= named_figures([result]).keys()
    found = named_figures([result], averaged=True)
    assert found["ema/pairs/accuracy"] == result.accuracy
