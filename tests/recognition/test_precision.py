from collections.abc import Callable, Iterator

import pytest
import torch

from recognition.precision import LossScaler, Precision, choose_head_precision


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


@pytest.mark.parametrize(
    ("requested", "device", "capability", "expected"),
    [
        ("auto", "cpu", None, "fp32"),
        ("auto", "cuda", (7, 5), "fp32"),
        ("auto", "cuda", (8, 0), "bf16"),
        ("auto", "cuda", (9, 0), "bf16"),
        ("fp32", "cuda", (9, 0), "fp32"),
        ("bf16", "cpu", None, "bf16"),
    ],
)
def test_auto_is_bf16_where_the_device_is_fast_at_it(
    monkeypatch: pytest.MonkeyPatch,
    requested: str,
    device: str,
    capability: tuple[int, int] | None,
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    precision, reason = choose_head_precision(requested, torch.device(device))
    assert precision == expected
    assert reason.startswith(expected)
