"""Which checkpoint of a run is the best: `checkpoint.best`."""

from pathlib import Path
from typing import Any

import pytest

from recognition.plan import Plan
from recognition.trainer import Trainer
from tests.recognition.small_trainer import small_trainer


class Accuracy:
    """A result of one set with two figures."""

    def __init__(self, name: str, accuracy: float, other: float | None) -> None:
        self.name, self.accuracy, self.other = name, accuracy, other

    def to_json(self) -> dict[str, Any]:
        return {"set": self.name, "accuracy": self.accuracy, "rates": {"1e-3": self.other}}

    def summary(self) -> str:
        return ""


SCORES = [
    # Of sets a and b, raw and averaged, at each step: accuracy and another figure.
    (((0.5, 0.9), (0.9, 0.1)), ((0.6, None), (0.1, 0.1))),  # mean accuracy 0.7
    (((0.7, 0.8), (0.6, 0.2)), ((0.8, None), (0.1, 0.1))),  # 0.65
    (((0.6, 0.7), (0.9, 0.1)), ((0.7, None), (0.1, 0.1))),  # 0.75
    (((0.7, 0.9), (0.7, 0.1)), ((0.8, None), (0.1, 0.1))),  # 0.7
]


def best_trainer(folder: Path, figure: str | None, first: int = 0) -> Trainer:
    """Return a trainer that verifies and saves at each step, with `SCORES` from `first` on."""
    pending = [figures for of_step in SCORES[first:] for figures in of_step]

    def verify(_: Any) -> list[Any]:
        figures = pending.pop(0)
        return [Accuracy(name, *pair) for name, pair in zip("ab", figures, strict=True)]

    trainer = small_trainer(folder, late=False, ema=0.9, verify=verify, best_figure=figure)
    trainer.plan = Plan(1.0, len(SCORES), verify_every=1, save_every=1)
    return trainer


def best_of(folder: Path) -> str:
    return (folder / "checkpoints" / "best").read_text().strip()


@pytest.mark.parametrize(
    ("figure", "step"),
    [(None, 3), ("a/accuracy", 2), ("b/rates/1e-3", 2), ("a/rates/1e-3", 1), ("ema/a/accuracy", 2)],
)
def test_the_best_checkpoint_has_most_of_the_named_figure(
    tmp_path: Path, figure: str | None, step: int
) -> None:
    best_trainer(tmp_path, figure).fit()
    assert best_of(tmp_path) == f"step_{step:08d}"


def test_no_checkpoint_is_the_best_by_a_figure_without_a_value(tmp_path: Path) -> None:
    best_trainer(tmp_path, "ema/a/rates/1e-3").fit()
    assert not (tmp_path / "checkpoints" / "best").exists()


@pytest.mark.parametrize(
    ("figure", "step"), [(None, 3), ("a/accuracy", 4)], ids=["as before", "another figure"]
)
def test_a_resumed_run_compares_only_what_is_of_the_same_figure(
    tmp_path: Path, figure: str | None, step: int
) -> None:
    best_trainer(tmp_path, None).fit()
    resumed = best_trainer(tmp_path, figure, first=3)
    resumed.restore(tmp_path / "checkpoints" / "step_00000003")
    resumed.fit()
    assert best_of(tmp_path) == f"step_{step:08d}"
