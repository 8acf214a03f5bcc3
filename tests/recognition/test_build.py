from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recognition import build
from recognition.build import build_head, describe_model, load_initial_weights, run_identity
from recognition.checkpoint import CheckpointError, Checkpoints, State
from recognition.checkpoint.progress import check_identity
from recognition.config import Config
from recognition.config_file import load_config
from recognition.distributed import World, current
from recognition.head import PartialFC, SeparateHeads
from recognition.optimizer import reads_skip
from recognition.plan import Plan
from tests.distributed_harness import run_ranks

PLAN, CPU = Plan(1.0, 40, 40, 40), torch.device("cpu")


@pytest.mark.parametrize("name", ["typo.pt", "runs/typo", "x" * 300])
def test_initial_weights_that_do_not_exist_are_called_that(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"init_from.*{name} does not exist"):
        load_initial_weights(torch.nn.Linear(1, 1), tmp_path / name)


def test_initial_weights_may_be_those_of_a_wrapped_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved, loaded = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    weights = {f"module.{name}": value for name, value in saved.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "w.pt")
    load_initial_weights(loaded, tmp_path / "w.pt")
    assert torch.equal(loaded.weight, saved.weight)


def test_initial_weights_may_be_an_average(tmp_path: Path) -> None:
    saved, loaded = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    average = {name: tensor + 1 for name, tensor in saved.state_dict().items()}
    state = State(saved.state_dict(), {"one": torch.ones(1)}, {}, {}, average)
    Checkpoints(tmp_path, world=World(), keep=1).save(1, state, best=False)
    load_initial_weights(loaded, tmp_path, "ema")
    assert torch.equal(loaded.weight, average["weight"])
    load_initial_weights(loaded, tmp_path)
    assert torch.equal(loaded.weight, saved.weight)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Return what sets the GFLOP/s of a core in fp32 and in bf16."""

    def set_rates(fp32: float, bf16: float) -> None:
        rates = {"fp32": fp32, "bf16": bf16}
        monkeypatch.setattr("recognition.precision.product_rates", lambda *_: rates)

    return set_rates


def built(config: Config, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """Return the parts that `build_trainer` gives its trainer."""
    made: dict[str, Any] = {}
    monkeypatch.setattr(build, "Trainer", lambda **parts: made.update(parts))
    none: Any = None
    build.build_trainer(
        config, PLAN, **{
            "world": World(), "device": CPU, "backbone": torch.nn.Linear(1, 1), "source": none,
            "prepare": none, "verify": none, "checkpoints": none, "telemetry": none,
            "signals": none, "identity": {"classes": 13}, **options,
        },
    )  # fmt: skip
    return made


def test_the_heads_precision_is_what_is_fast_and_the_config_keeps_the_word(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, core: Callable[[float, float], None]
) -> None:
    config = load_config(tiny_config, ["head.precision=auto"])
    for rates, expected in (((150, 55), "float32"), ((90, 200), "bfloat16")):
        core(*rates)
        parts = built(config, monkeypatch)
        assert f"matmul_dtype=torch.{expected}" in repr(parts["head"])
        assert parts["metadata"]["config"]["head"]["precision"] == "auto"
        for rate in rates:  # --dry-run shows both
            assert f" {rate} " in describe_model(config, 13, World(), CPU)["head"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    gpu = torch.device("cuda")
    assert " bf16:" in describe_model(config, 13, World(), gpu)["head"]


def _rank_builds(path: Path) -> tuple[str, bool]:
    """Return the choice of a rank on which only bf16 is fast, save on rank 0."""
    world = current()
    with pytest.MonkeyPatch.context() as patch:
        rates = {"fp32": 100.0, "bf16": 200.0 if world.rank else 50.0}
        patch.setattr("recognition.precision.product_rates", lambda *_: rates)
        parts = built(load_config(path, ["head.precision=auto"]), patch, world=world)
    name: str = parts["metadata"]["head_precision"]["name"]
    return name, "matmul_dtype=torch.float32" in repr(parts["head"])


@pytest.mark.slow
def test_all_ranks_take_the_precision_of_rank_0(tiny_config: Path) -> None:
    assert run_ranks(_rank_builds, 2, tiny_config) == [("fp32", True)] * 2


def test_a_resumed_run_keeps_the_heads_precision_whatever_it_measures(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, core: Callable[[float, float], None]
) -> None:
    config = load_config(tiny_config, ["head.precision=auto"])
    core(90, 200)
    saved = built(config, monkeypatch)["metadata"]
    core(150, 55)
    again = built(config, monkeypatch, saved=saved)
    assert "matmul_dtype=torch.bfloat16" in repr(again["head"])
    assert again["metadata"]["head_precision"] == saved["head_precision"]
    stated = built(load_config(tiny_config), monkeypatch, saved=saved)
    assert "matmul_dtype=torch.float32" in repr(stated["head"])


def test_bf16_is_warned_of_where_it_is_slower(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, core: Callable[[float, float], None],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    config = load_config(tiny_config, ["head.precision=bf16"])
    for rates, warned in (((90, 200), False), ((100, 90), False), ((150, 55), True)):
        core(*rates)
        caplog.clear()
        assert "matmul_dtype=torch.bfloat16" in repr(built(config, monkeypatch)["head"])
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert any("head.precision" in text and "150" in text for text in warnings) == warned


def test_a_schedule_is_refused_before_the_head_is_built(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(tiny_config, ["schedule.warmup_steps=41"])
    monkeypatch.setattr(build, "build_head", None)
    with pytest.raises(ValueError, match="step 41 of 40"):
        built(config, monkeypatch)


@pytest.mark.parametrize(
    ("settings", "kept", "size"),
    [
        ([], ["fp32", "fp32"], 8),
        (["head.momentum=bf16"], ["fp32", "bf16"], 6),
        (["head.storage=bf16"], ["bf16", "bf16"], 4),
        (["head={storage: int8, momentum: fp32}"], ["int8", "fp32"], 5 + 4 / 16),
        (["head.storage=int8"], ["int8", "int8"], 2 + 8 / 16),
        (["head.storage=int8", "optimizer={name: adamw, lr: 0.1}"], ["int8", "int8"], 9 + 8 / 16),
    ],
    ids=str,
)
def test_centres_and_momentum_are_kept_as_written(
    tiny_config: Path, settings: list[str], kept: list[str], size: float
) -> None:
    config, cpu = load_config(tiny_config, settings), torch.device("cpu")
    head = build_head(config, 13, cpu, PLAN, "fp32")
    assert isinstance(head, PartialFC)
    state = sum(tensor.nbytes for tensor in head.state_tensors().values())
    assert state == 13 * 16 * size
    assert f"{16 * size:,.0f} bytes" in describe_model(config, 13, World(), cpu)["head"]
    identity = run_identity(config, "", 13, 91)
    assert [identity["head.storage"], identity["head.momentum"]] == kept


def test_separate_heads_share_settings_and_divide_the_budgets(tiny_config: Path) -> None:
    data = "data={train: [x, y], merge: separate, loss_weights: [1, 0.5]}"
    config = load_config(tiny_config, [data, "head.keep_mib=8", "head.scale=20"])
    classes, cpu = {"x": 6, "y": 2}, torch.device("cpu")
    heads = build_head(config, classes, cpu, PLAN, "fp32")
    assert isinstance(heads, SeparateHeads)
    assert heads.weights == [1.0, 0.5]
    for head, mib in zip(heads.by_dataset.values(), [6, 2], strict=True):
        assert f"keep_bytes={mib << 20}," in repr(head)
        assert "scale=20" in repr(head)
    x, y = heads.by_dataset.values()
    assert (x.num_classes, y.num_classes) == (6, 2)
    assert not torch.equal(x.weight[:2], y.weight)  # each has a seed of its own
    described = describe_model(config, classes, World(0, 3), cpu)
    assert described["head"].startswith("3 of 8 class centres")
    assert described["heads"] == "x (6 identities, weight 1), y (2 identities, weight 0.5)"


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        ({"x": 6, "y": 2}, {"y": 2, "x": 6}),
        ({"x": 6, "y": 2}, {"x": 6, "z": 2}),
        ({"x": 6, "y": 2}, {"x": 5, "y": 3}),
        ({"x": 6, "y": 2}, {}),
        ({}, {"x": 8}),
    ],
)
def test_a_checkpoint_of_other_datasets_is_refused_with_both_lists(
    tiny_config: Path, saved: dict[str, int], resumed: dict[str, int]
) -> None:
    config = load_config(tiny_config)
    identity, own = (run_identity(config, "", 8, 9, classes) for classes in (saved, resumed))
    check_identity(Path("x"), {"identity": identity}, identity)
    with pytest.raises(CheckpointError) as raised:
        check_identity(Path("x"), {"identity": identity}, own)
    for classes in (saved, resumed):
        listed = ", ".join(f"{name} of {count} classes" for name, count in classes.items())
        assert (listed or "None") in str(raised.value)
    # A checkpoint from before there were several heads is one of a single head.
    del identity["heads"]
    check_identity(Path("x"), {"identity": identity}, run_identity(config, "", 8, 9))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_a_gpu_gets_the_fused_optimizer(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(build, "build_head", lambda *_: None)
    made = built(load_config(tiny_config), monkeypatch, device=torch.device(device))
    assert reads_skip(made["optimizer"]) == (device == "cuda")
