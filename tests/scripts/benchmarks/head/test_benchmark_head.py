import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from scripts.benchmark_head import PRESETS, groups, main, parser
from scripts.benchmarks.common.processes import ProcessError
from scripts.benchmarks.head.cases import HeadCase, global_batch
from scripts.benchmarks.head.compare import (
    CLASS_STEP,
    StepCounts,
    measure_group,
    most_classes,
    reference_of,
)
from scripts.benchmarks.head.methods import METHODS, BaselineMethod, build, comparable, needed_bytes
from scripts.benchmarks.head.processes import RunningCase, _Rank
from scripts.benchmarks.head.report import markdown
from tests.distributed_harness import run_ranks

pytestmark = pytest.mark.slow

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


def test_the_page_of_the_memory_preset_has_no_times(report: tuple[dict[str, Any], str]) -> None:
    page = markdown(report[0], times=False)
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == [
        "method", "classes", "rate", "dtype", "ranks", "batch",
        "beyond state MB", "of state", "state per class", "loss", "centres",
    ]  # fmt: skip
    assert len(table) == 2 + len(report[0]["rows"])
    assert "TFLOP/s" not in page
    for name in ("step ms", "beyond state MB", "over limit", "centres"):
        assert f"| {name} " in report[1]


def test_work_is_counted_by_the_rows_that_are_updated(report: tuple[dict[str, Any], str]) -> None:
    product = 2 * BATCH * CLASSES * DIM
    for row in report[0]["rows"]:
        state, active = row["state_bytes"], row["active_classes"]
        if row["method"] == "usual":
            assert row["flops"] == 3 * active * product // CLASSES
            assert row["state_traffic_bytes"] == 2 * state  # the whole table, whatever the rate
        else:
            assert row["flops"] == 3 * active * product // CLASSES  # products kept for few classes
            assert row["state_traffic_bytes"] == 2 * state * active // CLASSES
        if row["rate"] == 1.0:
            assert active == CLASSES


def test_both_reach_the_same_loss_and_centres_at_rate_1(
    report: tuple[dict[str, Any], str],
) -> None:
    rows = [row for row in report[0]["rows"] if row["method"] == "partial_fc"]
    for row in rows:
        if row["rate"] == 1.0:
            # The error of a float32 cosine is up to 2e-7, that of a logit 64 times as much.
            assert row["agreement"]["loss"] < 2e-5
            assert 0.0 < row["agreement"]["weight"] < 2e-5
        else:
            assert row["agreement"] is None  # they draw different negatives


def _baseline_steps(rate: float) -> tuple[list[float], torch.Tensor]:
    ranks = torch.distributed.get_world_size()
    case = HeadCase("usual", CLASSES, rate, batch=BATCH, dim=DIM, ranks=ranks)
    head = BaselineMethod(case, torch.device("cpu"))
    samples = BATCH // ranks
    start = torch.distributed.get_rank() * samples
    losses, gradient = [], torch.zeros(0)
    for step in range(2):
        x, labels = global_batch(case, step)
        local = x[start : start + samples].clone().requires_grad_()
        losses.append(head.step(local, labels[start : start + samples], LR).item())
        assert local.grad is not None
        gradient = local.grad
    centres = head.rows(torch.arange(CLASSES))[1]
    return losses, torch.cat([centres, gradient])


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_baseline_equals_its_dense_definition(ranks: int) -> None:
    found = run_ranks(_baseline_steps, ranks, 1.0)
    case = HeadCase("usual", CLASSES, batch=BATCH, dim=DIM)
    weight = BaselineMethod(case, torch.device("cpu")).rows(torch.arange(CLASSES))[1].double()
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


def test_the_baseline_selects_its_quota_and_updates_every_class() -> None:
    case = HeadCase("usual", CLASSES, 0.2, batch=BATCH, dim=DIM)
    head = BaselineMethod(case, torch.device("cpu"))
    x, labels = global_batch(case, 0)
    before = head.rows(torch.arange(CLASSES))[1].clone()
    assert math.isfinite(head.step(x.requires_grad_(), labels, LR))
    assert head.work().active == 18
    # A dense update: weight decay changes every centre, selected or not.
    after = head.rows(torch.arange(CLASSES))[1]
    assert (before != after).any(1).all()
    assert x.grad is not None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_every_method_steps_and_counts_its_work(method: str, rate: float) -> None:
    case = HeadCase(method, CLASSES, rate, batch=BATCH, dim=DIM)
    head = build(case, torch.device("cpu"))
    baseline = build(replace(case, method="usual"), torch.device("cpu"))
    for step in range(2):
        x, labels = global_batch(case, step)
        x = x.requires_grad_()
        loss = head.step(x, labels, LR)
        expected = baseline.step(x, labels, LR)
        assert loss.isfinite()
        if comparable(case):
            assert loss.item() == pytest.approx(expected.item(), rel=2e-5)
    work, state = head.work(), head.state_bytes()
    assert 0 < work.active <= CLASSES
    assert work.flops >= 2 * 3 * BATCH // 4 * work.active * DIM
    assert work.state_bytes <= 2 * state
    # Step counts and the like add a few bytes per class to the centres and their state.
    assert 0 <= state / CLASSES - METHODS[method].tables * 4 * DIM <= 8
    if comparable(case):
        found, centres = head.rows(torch.arange(CLASSES))
        assert torch.equal(found, torch.arange(CLASSES))
        expected_centres = baseline.rows(found)[1]
        error = (centres - expected_centres).abs().max() / expected_centres.abs().max()
        # A bfloat16 keeps 8 bits of the momentum, which is most of a centre's update.
        assert error < (2**-8 if method == "bf16_momentum" else 2e-5)


def test_a_case_too_large_for_memory_is_reported_and_not_run() -> None:
    huge = HeadCase("usual", 10**12)
    cases = [huge, HeadCase("partial_fc", 10**12)]
    results = measure_group(cases, StepCounts(1, 1), lambda text: None)
    assert [result.case for result in results] == cases
    for result in results:
        assert result.problem is not None
        assert result.case.method in result.problem
        assert result.usage is None


def test_a_failure_in_a_process_is_reported() -> None:
    with (
        pytest.raises(ProcessError, match=r"'nothing'.*partial_fc"),
        RunningCase(HeadCase("nothing", CLASSES, batch=BATCH, dim=DIM)),
    ):
        pass


def test_on_a_gpu_of_139_gib_the_baseline_is_compared_where_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = 139 << 30
    monkeypatch.setattr("scripts.benchmark_head.free_bytes", lambda device, ranks: free)
    compared, ten, largest = groups(parser.parse_args(["--preset", "h200"]), "cuda", 16)
    baseline, *others = compared
    assert reference_of(compared) is baseline
    assert (baseline.method, baseline.dtype) == ("usual", "bf16")
    assert all(needed_bytes(baseline) + needed_bytes(case) <= free for case in others)
    larger = [replace(case, classes=case.classes + CLASS_STEP) for case in compared]
    assert max(map(needed_bytes, larger[1:])) + needed_bytes(larger[0]) > free
    assert 1_000_000 < baseline.classes < 10_000_000
    # A line of the table says that it needs more than there is; the others run without it.
    assert [case.method for case in ten] == ["usual", "partial_fc", "kept"]
    assert needed_bytes(ten[0]) > free > max(map(needed_bytes, ten[1:]))
    assert largest[0].classes == 29_000_000


def test_a_baseline_that_is_not_measured_takes_no_memory() -> None:
    free = 139 << 30

    def group(classes: int) -> list[HeadCase]:
        return [HeadCase("bf16_momentum", classes, dtype="bf16", batch=1024)]

    classes = most_classes(group, free)
    assert needed_bytes(group(classes)[0]) <= free < needed_bytes(group(classes + CLASS_STEP)[0])
    assert classes > 29_000_000


def test_the_baseline_in_fp32_is_the_reference_if_it_is_measured() -> None:
    cases = groups(parser.parse_args(["--preset", "cpu"]), "cpu", 2)[0]
    assert [case.dtype for case in cases if case.method == "usual"] == ["fp32", "bf16"]
    assert reference_of(cases).dtype == "fp32"


def test_every_rank_computes_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **options: None)
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)  # type: ignore[attr-defined]
    for name in ("build", "PeakMemory"):
        monkeypatch.setattr(f"scripts.benchmarks.head.processes.{name}", lambda *args: None)
    monkeypatch.setattr(_Rank, "_load_libraries", lambda rank: None)
    for rank in range(2):
        _Rank(HeadCase("usual", CLASSES, ranks=2, device="cuda"), rank, store.port)
    assert devices == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_presets_have_the_documented_sizes() -> None:
    cpu = groups(parser.parse_args(["--preset", "cpu"]), "cpu", 2)
    points = {(case.classes, case.rate, case.dtype) for group in cpu for case in group}
    assert points == {
        (classes, rate, dtype)
        for classes, rate in ((200_000, 1.0), (1_000_000, 0.1))
        for dtype in ("fp32", "bf16")
    }
    narrowed = groups(parser.parse_args(["--preset", "memory", "--classes", "1000000"]), "cpu", 2)
    assert [(group[0].classes, group[0].rate) for group in narrowed] == [
        (1_000_000, 1.0),
        (1_000_000, 0.1),
    ]
    for sizes in PRESETS.values():
        assert {name for size in sizes for name in size.methods} <= set(METHODS)


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--classes", "0"], ["classes: 0"]),
        (["--rates", "1.5"], ["rate: 1.5"]),
        (["--batch", "7", "--ranks", "2"], ["batch: 7", "2 ranks"]),
        (["--steps", "0"], ["steps: 0"]),
        (["--preset", "cpu", "--classes", "3"], ["--classes [3]", "(200000, 1.0)"]),
    ],
)
def test_mistakes_are_reported_in_one_line(
    arguments: list[str], values: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--device", "cpu"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert all(value in error for value in values)
    assert "\n" not in error
