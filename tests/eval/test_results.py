"""Tests of `eval.results`: what is in the file is plain, complete and finite."""

import json
import math
from dataclasses import replace

import pytest

from eval.protocols.tinyface import TinyFaceResult
from eval.results import FORMAT, Counts, HashedFile, Results, Run, SetResult


def results(rank_1: float = 0.5) -> Results:
    run = Run("a command", "2025-01-31T00:00:00Z", "cpu", 2, {"torch": "2"}, None, 1000, 0, {})
    found = SetResult(
        model="a",
        set="tinyface",
        protocol="tinyface",
        settings={"flip": "yes"},
        files=(HashedFile("probe.mat", "ab"),),
        counts=Counts(7, None, None, None, None, None, 0, 0),
        warnings=("one",),
        tinyface=TinyFaceResult(3, 2, 1, 4, {1: rank_1}, 0.25),
    )
    return Results(run, (), (found,))


def test_everything_is_there_as_plain_values() -> None:
    values = results().to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["format"] == FORMAT
    (found,) = values["sets"]
    assert found["tinyface"]["rank"] == {"1": 0.5}
    assert found["files"] == [{"path": "probe.mat", "sha256": "ab"}]
    assert found["verification"] is None
    assert found["counts"]["subjects"] is None
    assert set(values) == {"format", "run", "models", "sets", "calibration", "comparisons"}


def test_what_is_no_number_is_refused_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"results\.sets\.0\.tinyface\.rank\.1") as error:
        results(rank_1=math.nan).to_json()
    assert "nan" in str(error.value)
    assert replace(results(), sets=()).to_json()["sets"] == []
