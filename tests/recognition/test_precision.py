from collections.abc import Callable, Iterator

import pytest
import torch

from recognition import precision
from recognition.precision import (
    HeadPrecision,
    LossScaler,
    Precision,
    choose_head_precision,
    product_rates,
)


def test_only_fp16_scales_the_loss() -> None:
    for name in ("fp32", "tf32", "bf16"):
        scaler = Precision(name, torch.device("cpu")).make_scaler()
        scaler.update(overflowed=False)
        assert scaler.scale == 1.0
    assert Precision("fp16", torch.device("cpu")).make_scaler().scale == 2.0**16


def test_only_fp16_on_a_cpu_is_cautioned_against() -> None:
    for name in ("fp32", "tf32", "bf16", "fp16"):
        assert Precision(name, torch.device("cuda")).caution is None
        assert (Precision(name, torch.device("cpu")).caution is not None) == (name == "fp16")


@pytest.fixture
def switches() -> Iterator[Callable[[], tuple[bool, bool, bool, bool]]]:
    """Return what reads torch's switches: TF32 in convolutions, in products, timing, repeatable."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def read() -> tuple[bool, bool, bool, bool]:
        return cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic

    before = read()
    yield read
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic = before


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_fp32_is_exact_and_only_tf32_is_not(
    switches: Callable[[], tuple[bool, bool, bool, bool]],
    name: str,
    device: str,
    deterministic: bool,
) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    Precision(name, torch.device(device)).set_switches(deterministic=deterministic)
    timed = device == "cuda" and not deterministic
    assert switches() == (name == "tf32", False, timed, deterministic)
    # What torch.compile looks at, by the new name where there is one.
    product = getattr(torch.backends.cuda.matmul, "fp32_precision", "ieee")
    assert product == "ieee"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_autocast_computes_in_the_named_type(name: str, dtype: torch.dtype) -> None:
    with Precision(name, torch.device("cpu")).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_the_scale_halves_on_overflow_and_doubles_after_good_steps() -> None:
    scaler = LossScaler(enabled=True, scale=8.0, growth_interval=3)
    scaler.update(overflowed=True)
    assert (scaler.scale, scaler.skipped_steps) == (4.0, 1)
    for _ in range(3):
        scaler.update(overflowed=False)
    assert scaler.scale == 8.0
    restored = LossScaler(enabled=True)
    restored.load_state_dict(scaler.state_dict())
    restored.growth_interval = 3
    assert restored == scaler


def test_endless_overflow_is_an_error() -> None:
    scaler = LossScaler(enabled=True, scale=2.0**-13)
    scaler.update(overflowed=True)
    with pytest.raises(ValueError, match="2\\^-14"):
        scaler.update(overflowed=True)


GPU, CPU = torch.device("cuda"), torch.device("cpu")


def choose(
    requested: str, device: torch.device, saved: tuple[str, str] | None = None
) -> HeadPrecision:
    before = None if saved is None else dict(zip(("name", "device"), saved, strict=True))
    return choose_head_precision(requested, device, samples=8, size=16, saved=before)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(precision, "product_rates")


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("requested", "capability", "expected"),
    [
        ("auto", (7, 5), "fp32"),
        ("auto", (8, 0), "bf16"),
        ("auto", (9, 0), "bf16"),
        ("fp32", (9, 0), "fp32"),
        ("bf16", (7, 5), "bf16"),
    ],
)
def test_a_gpu_goes_by_its_compute_capability(
    monkeypatch: pytest.MonkeyPatch, requested: str, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    choice = choose(requested, GPU, ("fp32", "cpu"))
    assert (choice.name, choice.slow) == (expected, False)
    assert choice.reason.startswith(expected)


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"),
    [(148, 55, "fp32"), (100, 100, "fp32"), (100, 119, "fp32"), (100, 121, "bf16")],
)
def test_a_cpu_takes_bf16_only_if_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float, expected: str
) -> None:
    monkeypatch.setattr(precision, "product_rates", lambda *_: {"fp32": fp32, "bf16": bf16})
    choice = choose("auto", CPU)
    assert choice.name == expected
    assert str(fp32) in choice.reason
    assert str(bf16) in choice.reason
    assert choose("auto", CPU, ("bf16", "cuda")).name == expected
    assert choose("auto", CPU, ("fp8", "cpu")).name == expected
    assert choose("bf16", CPU).slow == (fp32 == 148)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_cpu_keeps_what_the_checkpoint_had_and_does_not_measure(name: str) -> None:
    assert choose("auto", CPU, (name, "cpu")).name == name
    assert choose("fp32", CPU, (name, "cpu")).name == "fp32"


def test_measuring_leaves_threads_and_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rates = product_rates(300, 24)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert set(rates) == {"fp32", "bf16"}
    assert min(rates.values()) > 0
    assert torch.equal(torch.rand(2), expected)
