import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from scripts.benchmark_head import PRESETS, groups, main, parse
from scripts.benchmarks.head.cases import Case, global_batch
from scripts.benchmarks.head.compare import Plan, measure_group
from scripts.benchmarks.head.methods import METHODS, Usual, build, comparable
from scripts.benchmarks.head.processes import CaseError, Running
from tests.distributed_harness import run_ranks

CLASSES, DIM, BATCH, LR = 90, 16, 8, 0.02


def _run(folder: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    output, page = folder / "figures.json", folder / "tables" / "head.md"
    small = ["--dim", DIM, "--batch", BATCH, "--steps", 2, "--threads", 1, "--device", "cpu"]
    files = ["--json", output, "--markdown", page]
    assert main([str(one) for one in [*arguments, *small, *files]]) == 0
    report: dict[str, Any] = json.loads(output.read_text())
    return report, page.read_text()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("report")
    return _run(folder, "--classes", CLASSES, "--rates", 1, 0.5, "--ranks", 1, 2)


def test_the_report_has_every_figure(report: tuple[dict[str, Any], str]) -> None:
    figures, page = report
    assert figures["machine"]["versions"]["torch"] == torch.__version__
    assert figures["rates"]["flops"]["fp32"] > 0
    assert figures["rates"]["copy"] > 0
    keys = ("method", "rate", "ranks")
    found = [tuple(row[key] for key in keys) for row in figures["rows"]]
    assert found == [
        (method, rate, ranks)
        for rate in (1.0, 0.5)
        for ranks in (1, 2)
        for method in ("usual", "partial_fc")
    ]
    for row in figures["rows"]:
        assert row["problem"] is None
        assert len(row["step_seconds"]["all"]) == len(row["reference_seconds"]["all"]) == 2
        assert row["step_seconds"]["min"] <= row["step_seconds"]["median"]
        ratio = row["reference_seconds"]["median"] / row["step_seconds"]["median"]
        assert row["times_faster"] == pytest.approx(ratio)
        assert row["state_bytes_per_class"] == 2 * 4 * DIM
        limit = max(
            row["flops"] / figures["rates"]["flops"]["fp32"],
            row["state_traffic_bytes"] / figures["rates"]["copy"],
        )
        assert row["times_limit"] == pytest.approx(row["step_seconds"]["median"] / limit)
    assert page.count("\n| partial_fc ") == page.count("\n| usual ") == 4
    assert f"torch {torch.__version__}" in page


def test_both_count_the_work_of_their_rule(report: tuple[dict[str, Any], str]) -> None:
    product = 2 * BATCH * CLASSES * DIM
    for row in report[0]["rows"]:
        state, active = row["state_bytes"], row["active_classes"]
        if row["method"] == "usual":
            assert row["flops"] == 3 * active * product // CLASSES
            assert row["state_traffic_bytes"] == 2 * state  # the whole table, whatever the rate
        else:
            assert row["flops"] == 3 * active * product // CLASSES  # kept, at so few classes
            assert row["state_traffic_bytes"] == 2 * state * active // CLASSES
        if row["rate"] == 1.0:
            assert active == CLASSES


def test_both_reach_the_same_loss_and_centres_at_rate_1(
    report: tuple[dict[str, Any], str],
) -> None:
    rows = [row for row in report[0]["rows"] if row["method"] == "partial_fc"]
    for row in rows:
        if row["rate"] == 1.0:
            # A float32 cosine is off by up to some 2e-7, a logit by 64 times that.
            assert row["agreement"]["loss"] < 2e-5
            assert 0.0 < row["agreement"]["weight"] < 2e-5
        else:
            assert row["agreement"] is None  # they draw other negatives


def _usual_steps(rate: float) -> tuple[list[float], torch.Tensor]:
    ranks = torch.distributed.get_world_size()
    case = Case("usual", CLASSES, rate, batch=BATCH, dim=DIM, ranks=ranks)
    head = Usual(case, torch.device("cpu"))
    share = BATCH // ranks
    start = torch.distributed.get_rank() * share
    losses, gradient = [], torch.zeros(0)
    for step in range(2):
        x, labels = global_batch(case, step)
        mine = x[start : start + share].clone().requires_grad_()
        losses.append(head.step(mine, labels[start : start + share], LR).item())
        assert mine.grad is not None
        gradient = mine.grad
    centres = head.rows(torch.arange(CLASSES))[1]
    return losses, torch.cat([centres, gradient])


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_usual_approach_is_its_dense_definition(ranks: int) -> None:
    found = run_ranks(_usual_steps, ranks, 1.0)
    case = Case("usual", CLASSES, batch=BATCH, dim=DIM)
    weight = Usual(case, torch.device("cpu")).rows(torch.arange(CLASSES))[1].double()
    weight.requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=LR, momentum=0.9, weight_decay=5e-4)
    gradient = torch.zeros(0)
    for step in range(2):
        x, labels = global_batch(case, step)
        x = x.double().requires_grad_()
        cosine = F.normalize(x) @ F.normalize(weight).T
        loss = F.cross_entropy(64.0 * (cosine - 0.4 * F.one_hot(labels, CLASSES)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        assert x.grad is not None
        gradient = x.grad
        for losses, _ in found:
            assert losses[step] == pytest.approx(loss.item(), rel=2e-5)
    rows = CLASSES // ranks
    centres = torch.cat([tensor[:rows] for _, tensor in found])
    gradients = torch.cat([tensor[rows:] for _, tensor in found])
    torch.testing.assert_close(centres.double(), weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients.double(), gradient, rtol=1e-3, atol=1e-6)


def test_the_usual_approach_picks_its_quota_and_the_batch() -> None:
    case = Case("usual", CLASSES, 0.2, batch=BATCH, dim=DIM)
    head = Usual(case, torch.device("cpu"))
    x, labels = global_batch(case, 0)
    before = head.rows(torch.arange(CLASSES))[1].clone()
    assert math.isfinite(head.step(x.requires_grad_(), labels, LR))
    assert head.work().active == 18
    # Its decay reaches every centre, drawn or not: what a dense update is.
    after = head.rows(torch.arange(CLASSES))[1]
    assert (before != after).any(1).all()
    assert x.grad is not None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_every_method_steps_and_counts_its_work(method: str, rate: float) -> None:
    case = Case(method, CLASSES, rate, batch=BATCH, dim=DIM)
    head = build(case, torch.device("cpu"))
    usual = build(replace(case, method="usual"), torch.device("cpu"))
    for step in range(2):
        x, labels = global_batch(case, step)
        x = x.requires_grad_()
        loss = head.step(x, labels, LR)
        expected = usual.step(x, labels, LR)
        assert loss.isfinite()
        if comparable(case):
            assert loss.item() == pytest.approx(expected.item(), rel=2e-5)
    work, state = head.work(), head.state_bytes()
    assert 0 < work.active <= CLASSES
    assert work.flops >= 2 * 3 * BATCH // 4 * work.active * DIM
    assert work.state_bytes <= 2 * state
    # Step counts and the like are a few bytes a class beside centres and their state.
    assert 0 <= state / CLASSES - METHODS[method].tables * 4 * DIM <= 8
    if comparable(case):
        found, centres = head.rows(torch.arange(CLASSES))
        assert torch.equal(found, torch.arange(CLASSES))
        expected_centres = usual.rows(found)[1]
        error = (centres - expected_centres).abs().max() / expected_centres.abs().max()
        # A bfloat16 keeps 8 bits of the momentum, which is most of what moved a centre.
        assert error < (2**-8 if method == "bf16_momentum" else 2e-5)


def test_too_large_a_case_is_told_and_not_run() -> None:
    huge = Case("usual", 10**12)
    rows = measure_group([huge, Case("partial_fc", 10**12)], Plan(1, 1), lambda text: None)
    assert [row.case.method for row in rows] == ["usual", "partial_fc"]
    for row in rows:
        assert row.problem is not None
        assert "GB are free" in row.problem
        assert row.account is None


def test_a_failure_in_a_process_is_told() -> None:
    with (
        pytest.raises(CaseError, match=r"expected one of .*partial_fc"),
        Running(Case("nothing", CLASSES, batch=BATCH, dim=DIM)),
    ):
        pass


def test_presets_are_the_points_that_are_promised() -> None:
    cpu = groups(parse(["--preset", "cpu"]), "cpu", 2)
    points = {(case.classes, case.rate, case.dtype) for group in cpu for case in group}
    assert points == {
        (classes, rate, dtype)
        for classes, rate in ((200_000, 1.0), (1_000_000, 0.1))
        for dtype in ("fp32", "bf16")
    }
    narrowed = groups(parse(["--preset", "memory", "--classes", "1000000"]), "cpu", 2)
    assert [(group[0].classes, group[0].rate) for group in narrowed] == [
        (1_000_000, 1.0),
        (1_000_000, 0.1),
    ]
    for sizes in PRESETS.values():
        assert {name for size in sizes for name in size.methods} <= set(METHODS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "0"], "classes: 0 found"),
        (["--rates", "1.5"], "rate: 1.5 found"),
        (["--batch", "7", "--ranks", "2"], "batch: 7 found for 2 ranks"),
        (["--steps", "0"], "steps: 0 found"),
        (["--preset", "cpu", "--classes", "3"], "expected some of"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--device", "cpu"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error
