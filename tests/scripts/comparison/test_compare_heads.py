import json
import re
import shutil
import sys
from pathlib import Path
from typing import get_args

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recognition.config import Head
from recognition.config_file import ConfigError, dump_config, load_config, read_settings
from scripts.compare_heads import main
from scripts.comparison.curves import mean_curve
from scripts.comparison.report import END, START, SharedSetup, insert, markdown, write_json
from scripts.comparison.runs import RunResult, SetFigures, finished
from scripts.comparison.settings import Comparison, MethodRun, make_runs

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture
def comparison(tiny_config: Path) -> Path:
    """Return a comparison of two methods on the tiny data, 12 steps each."""
    path = tiny_config.with_name("comparison.yaml")
    path.write_text(
        f"""
output: {tiny_config.parent / "comparison"}
run: {tiny_config.name}
settings:
  train: {{steps: 12}}
  verification: {{every_steps: null}}
  checkpoint: {{every_steps: 6}}
  log: {{every_steps: 3}}
quick:
  train: {{steps: 2}}
methods:
  full: {{sampling: all, sample_rate: null}}
  half: {{}}
"""
    )
    return path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def run(comparison: Path, *arguments: str) -> int:
    return main(["--config", str(comparison), *arguments])


def all_runs(comparison: Path) -> list[MethodRun]:
    return make_runs(
        read_settings(comparison, Comparison), comparison.parent, output=comparison.parent / "o",
        quick=False, methods=[],
    )  # fmt: skip


def cells(text: str, method: str) -> list[list[str]]:
    """Return the cells after a method's name, of each table that has the method."""
    lines = [line for line in text.splitlines() if line.startswith(f"| `{method}` ")]
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines]


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_trains_every_method_and_continues_where_it_stopped(
    comparison: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(comparison) == 0
    output = comparison.parent / "comparison"
    full, half = (output / "runs" / name / "seed_0" for name in ("full", "half"))
    _, figures = check_report(output)
    capsys.readouterr()

    # One run is lost, the other was stopped after its first checkpoint.
    shutil.rmtree(full)
    (half / "result.json").unlink()
    shutil.rmtree(half / "checkpoints" / "step_00000012")
    assert run(comparison) == 0
    assert "2 runs, 0 " in capsys.readouterr().out
    assert "step_00000006" in (half / "log.txt").read_text()
    assert [r["step"] for r in records(half) if r["event"] == "train"] == [3, 6, 9, 12]
    again, figures_again = check_report(output)
    for before, after in zip(figures, figures_again, strict=True):
        assert before["sets"] == after["sets"]
        assert before["curve"] == after["curve"]

    page = comparison.with_name("page.md")
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    untouched = [(folder / "metrics.jsonl").stat().st_mtime_ns for folder in (full, half)]
    assert run(comparison, "--docs", str(page)) == 0
    assert "2 runs, 2 " in capsys.readouterr().out
    assert [(folder / "metrics.jsonl").stat().st_mtime_ns for folder in (full, half)] == untouched
    assert check_report(output)[0] == again
    assert (comparison.parent / "page_cosine.png").is_file()
    assert page.read_text().startswith(f"before\n{START}\n\n{again}")
    assert page.read_text().endswith(f"(page_cosine.png)\n\n{END}\nafter\n")

    change(comparison, "half: {}", "half: {scale: 8}")
    assert run(comparison) == 1
    assert re.search(r"head\.scale .*16\.0 .*8\.0", capsys.readouterr().err)


def check_report(output: Path) -> tuple[str, list[dict[str, object]]]:
    """Compare what a comparison wrote with the metrics of its runs."""
    text = (output / "results.md").read_text()
    runs = json.loads((output / "results.json").read_text())["runs"]
    assert [(one["method"], one["seed"]) for one in runs] == [("full", 0), ("half", 0)]
    for one in runs:
        found = records(output / "runs" / one["method"] / "seed_0")
        verified = [record for record in found if record["event"] == "verification"]
        logs = [record for record in found if record["event"] == "train"]
        assert one["sets"]["pairs"]["accuracy"] == verified[-1]["accuracy"]
        assert one["curve"] == [[log["step"], log["cosine_positive"]] for log in logs]
        assert one["step_seconds"] > 0
        accuracy = f"{100 * one['sets']['pairs']['accuracy']:.1f}"
        assert cells(text, one["method"])[0] == ["1", accuracy, accuracy]
        board = EventAccumulator(str(output / "tensorboard" / one["method"] / "seed_0")).Reload()
        curve = board.Scalars("compare/cosine_positive")
        assert [[event.step, pytest.approx(event.value)] for event in curve] == one["curve"]
        assert board.Scalars("final/accuracy_mean")[-1].step == 12
        assert "_hparams_/experiment" in board.PluginTagToContent("hparams")
    assert runs[0]["active_classes"] == 13
    assert runs[1]["active_classes"] < 13
    assert (output / "cosine.png").read_bytes()[:4] == b"\x89PNG"
    return text, runs


def test_a_run_that_fails_is_named_and_the_others_are_trained(
    comparison: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(comparison, "full:", "broken: {scale: 1.0e+38}\n  full:")
    assert run(comparison, "--quick", "--methods", "broken", "half") == 1
    printed = capsys.readouterr()
    assert "[1/2] broken/seed_0: " in printed.err
    output = comparison.parent / "comparison_quick"
    terminal = output / "runs" / "broken" / "seed_0" / "terminal.txt"
    assert terminal.read_text().splitlines()[-1] in printed.err
    assert "broken/seed_0" in printed.err.splitlines()[-1]
    text = (output / "results.md").read_text()
    assert len(cells(text, "half")) > 0
    assert "2 steps of 21 images" in text
    assert "broken" not in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("half: {}", "half: {sampel_rate: 1}", r"method half: .*\n.*sampel_rate.* sample_rate\b"),
        ("half: {}", "half: {sample_rate: 2}", r"method half: .*\n.*head\.sample_rate"),
        ("half: {}", "half/2: {}", r"methods\.half/2"),
        ("half: {}", "half: {}\nseeds: [1, 1]", r"full .*\[1, 1\]"),
        ("half: {}", "half: {}\nmore_seeds: {hlf: [1]}", r"more_seeds: hlf .* full, half"),
        ("half: {}", "half: {}\nseed: 1", r"\bseed: .* seeds\b"),
        ("steps: 12}", "steps: 0}", r"train\.steps"),
        ("settings:", "settings:\n  seed: 3", r"settings\.seed\b"),
        ("steps: null}", "steps: null, sets: []}", r"tiny\.yaml: verification\.sets\b"),
        ("run: tiny", "run: tny", r"tny\.yaml: .*tiny\.yaml"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_trained(
    comparison: Path, old: str, new: str, message: str
) -> None:
    change(comparison, old, new)
    with pytest.raises(ConfigError, match=message):
        all_runs(comparison)
    assert run(comparison) == 1
    assert not (comparison.parent / "comparison").exists()


def test_an_unknown_method_and_a_missing_package_are_named(
    comparison: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(comparison, "--methods", "hal") == 1
    assert re.search(r"--methods hal: .* full, half", capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(comparison) == 1
    assert ".[plots]" in capsys.readouterr().err
    assert not (comparison.parent / "comparison").exists()


def test_dry_run_prints_commands_that_train(
    comparison: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(comparison, "half: {}", "half: {}\nranks: 2\nmore_seeds: {half: [4]}")
    assert run(comparison, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("--nproc-per-node=2" in line and line.endswith("--resume auto") for line in lines)
    assert "--set seed=4" in lines[2]
    assert run(comparison, "--dry-run", "--quick") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def result(method: str, seed: int, accuracy: float, tar: float | None) -> RunResult:
    """Return a run's figures: this accuracy and TAR on `lfw`, always 50% on `cfp`."""
    sets = {
        "lfw": SetFigures(
            pairs=400, accuracy=accuracy, accuracy_no_flip=0.5,
            tar_at_far={"1e-2": tar, "1e-3": None},
        ),
        "cfp": SetFigures(
            pairs=100, accuracy=0.5, accuracy_no_flip=0.5, tar_at_far={"1e-2": None}
        ),
    }  # fmt: skip
    return RunResult(
        method=method, seed=seed, ranks=1, head={}, steps=8, sets=sets, loss=1.5,
        step_seconds=0.25, selection_seconds=0.001 * seed, memory_gib=2.0, active_classes=1234,
        curve=[(4, 0.25 * seed), (8, 0.5 * seed)],
    )  # fmt: skip


@pytest.fixture
def setup(comparison: Path) -> SharedSetup:
    config = all_runs(comparison)[0].config
    return SharedSetup(config, identities=2000, images=20000, ranks=1)


def test_the_report_has_mean_and_deviation_over_seeds(setup: SharedSetup, tmp_path: Path) -> None:
    runs = [result("a", 1, 0.9, 0.4), result("a", 2, 0.92, 0.5), result("b", 1, 0.88, None)]
    text = markdown(setup, runs)
    assert "20,000 images of 2,000 identities" in text
    assert "| method | seeds |" in text
    # Two values a distance d apart have the standard deviation d / sqrt(2): 1.41, 0.71 and 7.07.
    assert cells(text, "a") == [
        ["2", "91.0 ± 1.4", "50.0 ± 0.0", "70.5 ± 0.7"], ["45.0 ± 7.1"],
        ["250.0", "1.50", "2,048", "1,234", "0.750", "1.500"],
    ]  # fmt: skip
    assert cells(text, "b")[:2] == [["1", "88.0", "50.0", "69.0"], ["–"]]
    assert re.search(r"\| method \| +lfw @ 1e-2 \|\n", text)
    # sqrt(0.9 * 0.1 / 400) = 0.015 and sqrt(0.5 * 0.5 / 100) = 0.05
    assert "lfw 1.50, cfp 5.00" in text
    assert "difference to" not in text  # no method shares two seeds with `a`
    assert mean_curve(runs[:2]) == ([4, 8], [0.375, 0.75])

    write_json(tmp_path / "results.json", setup, runs)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["differences"] == {"baseline": "a", "mean_accuracy_points": {}}
    assert found["methods"]["a"]["seeds"] == [1, 2]
    accuracy, tar = (found["methods"]["a"][key] for key in ("accuracy_percent", "tar_percent"))
    assert accuracy["lfw"] == pytest.approx({"mean": 91.0, "deviation": 2**0.5})
    assert accuracy["mean"] == pytest.approx({"mean": 70.5, "deviation": 0.5**0.5})
    assert tar["lfw @ 1e-2"] == pytest.approx({"mean": 45.0, "deviation": 50**0.5})
    assert tar["cfp @ 1e-2"] is None
    assert found["methods"]["b"]["accuracy_percent"]["mean"] == {"mean": 69.0, "deviation": None}


def test_the_report_has_differences_to_the_first_method(setup: SharedSetup, tmp_path: Path) -> None:
    accuracies = {
        "a": {1: 0.90, 2: 0.92, 3: 0.80},
        "b": {1: 0.92, 2: 0.96},  # +2 and +4 points on lfw, +1 and +2 in the mean of both sets
        "c": {3: 0.74, 4: 0.10, 2: 0.88, 1: 0.88},  # -1, -2 and -3 in the mean of seeds 1, 2, 3
        "d": {1: 0.99, 4: 0.99},  # one common seed
    }
    runs = [
        result(method, seed, accuracy, None)
        for method, seeds in accuracies.items()
        for seed, accuracy in seeds.items()
    ]
    text = markdown(setup, runs)
    assert re.search(r"\| method \| difference to `a` \| standard error \| +seeds \|", text)
    # b: sqrt(0.5) / sqrt(2); c: 1 / sqrt(3) = 0.577
    assert cells(text, "b")[-1] == ["+1.50", "0.50", "1, 2"]
    assert cells(text, "c")[-1] == ["-2.00", "0.58", "1, 2, 3"]
    assert len(cells(text, "a")) == len(cells(text, "d")) == len(cells(text, "b")) - 1
    write_json(tmp_path / "results.json", setup, runs)
    found = json.loads((tmp_path / "results.json").read_text())["differences"]
    assert found["baseline"] == "a"
    points = found["mean_accuracy_points"]
    assert list(points) == ["b", "c"]
    assert points["b"].pop("seeds") == [1, 2]
    assert points["b"] == pytest.approx({"mean": 1.5, "standard_error": 0.5})


def test_a_page_without_the_marks_is_refused(
    comparison: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = comparison.with_name("page.md")
    page.write_text(f"{END}\n{START}\n")
    assert run(comparison, "--docs", str(page)) == 1
    error = capsys.readouterr().err
    assert all(value in error for value in ("page.md", START, END))
    assert not (comparison.parent / "comparison").exists()
    shutil.copyfile(CONFIGS.parent / "docs" / "methods.md", page)
    insert(page, "the report")
    assert f"{START}\n\nthe report\n\n{END}\n" in page.read_text()


def test_ten_seeds_of_the_demo_differ_from_it_in_what_changes_no_figure() -> None:
    runs = all_runs(CONFIGS / "demo_seeds.yaml")
    demo = load_config(CONFIGS / "demo.yaml")
    assert [run.seed for run in runs] == list(range(10))
    for run in runs:
        others = {"output", "seed", "verification", "checkpoint"}
        assert run.config.model_dump(exclude=others) == demo.model_dump(exclude=others)
        assert run.config.verification.sets == demo.verification.sets


def test_the_shipped_comparison_can_be_started() -> None:
    runs = all_runs(CONFIGS / "compare.yaml")
    demo = runs[0].config.data.demo
    assert demo is not None
    assert demo.identities >= 2000
    heads = {run.method: run.config.head for run in runs}
    for name in ("full", "pfc_0.5", "pfc_0.2", "pfc_0.1", "pfc_0.05", "random_all_0.1"):
        assert name in heads
    seeds = {name: [run.seed for run in runs if run.method == name] for name in heads}
    assert next(iter(heads)) == "full"  # the baseline
    five = ("full", "importance_0.1", "importance_0.1_int8", "pfc_0.1", "pfc_0.1_frozen")
    assert {name for name in seeds if len(seeds[name]) > 1} == set(five)
    assert all(seeds[name] == [0, 1, 2, 3, 4] for name in five)
    samplings = {head.sampling for head in heads.values()}
    assert samplings == set(get_args(Head.model_fields["sampling"].annotation))
    dissected = [head for head in heads.values() if head.loss.name == "d_softmax"]
    assert len(dissected) == 3
    assert len({head.model_dump_json() for head in heads.values()}) == len(heads)
    for method, head in heads.items():
        words = method.split("_")
        assert head.sample_rate is None or f"{head.sample_rate:g}" in words
        assert head.storage == "fp32" or head.storage in words
        assert ("frozen" in words) == (head.update == "frozen")


def test_a_url_signed_again_is_no_other_setting(comparison: Path, tiny_data: Path) -> None:
    data = f"data: {{train: 'https://host/x.rec?sig=1'}}\n  verification: {{folder: {tiny_data}, "
    change(comparison, "verification: {", data)
    first = all_runs(comparison)[0]
    first.folder.mkdir(parents=True)
    (first.folder / "config.yaml").write_text(dump_config(first.config))
    change(comparison, "sig=1", "sig=2")
    again = all_runs(comparison)[0]
    assert again.config != first.config
    assert finished(again, 1) is None  # not a `RunError`
