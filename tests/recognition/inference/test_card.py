"""Tests of `recognition.inference.card` and of `recognition.inference.measured`."""

from typing import Any

import pytest
import yaml

from recognition.inference.card import TO_FILL_IN, Card
from recognition.inference.description import Description, ExportedFile, Threshold
from recognition.inference.measured import FARS, ResultsError, measurements


def _row(far: float, threshold: float | None) -> dict[str, Any]:
    reason = None if threshold is not None else f"needs {round(1 / far)} impostor pairs"
    tar = None if threshold is None else 0.9
    return {"point": {"far": far, "threshold": threshold, "tar": tar, "reason": reason}}


def _set(name: str, impostors: int, *thresholds: float | None) -> dict[str, Any]:
    rows = [_row(far, one) for far, one in zip(FARS[1:], thresholds, strict=False)]
    return {
        "model": "net",
        "set": name,
        "settings": {"flip": "yes"},
        "counts": {"impostor": impostors},
        "ten_fold": {"accuracy": 0.99},
        "verification": {"rows": rows},
    }


def _results(*sets: dict[str, Any]) -> dict[str, Any]:
    files = {"path": "net.pt", "sha256": "ab"}
    return {"models": [{"name": "net", "file": files}], "sets": list(sets)}


def test_a_threshold_is_of_the_largest_set_that_supports_it() -> None:
    results = _results(_set("lfw", 3000, 0.2, None), _set("ijbc", 20_000, 0.3, 0.4))
    found = measurements(results, sha256="ab")
    assert found.flip
    assert [one.set for one in found.sets] == ["lfw", "ijbc"]
    assert found.sets[0].tar == {1e-2: None, 1e-3: 0.9, 1e-4: None, 1e-5: None}
    _, first, second, third = found.thresholds
    assert first == Threshold(1e-3, 0.3, None, "ijbc", 20_000)
    assert second == Threshold(1e-4, 0.4, None, "ijbc", 20_000)
    assert third == Threshold(1e-5, None, "it was not measured")
    (_, _, none, _) = measurements(_results(_set("lfw", 300, 0.2, None)), name="net").thresholds
    assert none == Threshold(1e-4, None, "needs 10000 impostor pairs", "lfw", 300)


def test_results_of_something_else_are_refused() -> None:
    with pytest.raises(ResultsError, match=r"net \(net\.pt\)"):
        measurements(_results(_set("lfw", 300, 0.2)), sha256="cd")
    with pytest.raises(ResultsError, match="KeyError"):
        measurements({"figures": 1}, sha256="ab")
    mixed = _set("cfp", 300, 0.2)
    mixed["settings"]["flip"] = "no"
    with pytest.raises(ResultsError, match="mirror"):
        measurements(_results(_set("lfw", 300, 0.2), mixed), sha256="ab")


def _card(**options: Any) -> str:
    thresholds = (Threshold(1e-3, 0.3125, None, "lfw", 3000), Threshold(1e-4, None, "too few"))
    files = {name: ExportedFile("ab" * 32, thresholds) for name in ("model.onnx", "model.pt2")}
    description = Description("r50", 512, 112, flip=True, files=files)
    return Card("net", description, {"model.onnx": 2e-7}, **options).text()


def test_the_head_is_what_model_hubs_read() -> None:
    config = {
        "data": {"train": ["/secret/place/ms1mv3", "s3://bucket/glint"], "augment": {"flip": 0.5}},
        "backbone": {"name": "r50"},
        "head": {"init_from": "/secret/head", "sampling": "all"},
        "init_from": None,
    }
    measured = {"model.onnx": measurements(_results(_set("lfw", 3000, 0.2)), name="net")}
    text = _card(config=config, measured=measured, facts={"classes": "93,431"})
    _, head, body = text.split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["library_name"] == "partialfc"
    assert (values["license"], values["license_name"]) == ("other", TO_FILL_IN)
    assert values["datasets"] == ["ms1mv3", "glint"]
    ((result,),) = [entry["results"] for entry in values["model-index"]]
    assert result["dataset"]["name"] == "lfw"
    assert result["metrics"] == [{"type": "accuracy", "value": 0.99}]
    assert "secret" not in text
    assert "93,431" in body
    assert "sampling: all" in body
    assert body.count(TO_FILL_IN) == 2


def test_thresholds_have_a_number_or_a_reason() -> None:
    text = _card()
    assert "| `model.onnx`, `model.pt2` | 0.001 | 0.3125 | lfw | 3,000 |" in text
    assert "| `model.onnx`, `model.pt2` | 0.0001 | none: too few | — | — |" in text
    bare = Card("net", Description("r50", 512, 112), {}).text()
    assert "model-index" not in bare
    assert bare.count("Not measured") == 2
