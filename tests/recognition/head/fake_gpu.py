"""A GPU that is not there: fake tensors, streams that do nothing, counters of copies and waits."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from recognition.head.kernels.reference import BlockOps
from recognition.head.online_softmax import threads
from recognition.head.placement import build, transfer
from recognition.head.sampling import background, selection


class Stream:
    """Replaces a stream, or an event, of a GPU."""

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


class InlineThreads:
    """Replaces the threads: fake tensors are for one."""

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *args: object) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future


class CountingGpu(FakeTensorMode):
    """Fake tensors that count bytes of pinned memory and copies to the host by dtype."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pinned, self.to_host = 0, dict[torch.dtype, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        source = {aten._to_copy.default: args[:1], aten.copy_.default: args[1:2]}.get(func)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if isinstance(result, Tensor) and result.device.type == "cpu":
            if source and source[0].device.type == "cuda":
                self.to_host[source[0].dtype] = self.to_host.get(source[0].dtype, 0) + 1
            if (kwargs or {}).get("pin_memory"):
                self.pinned += result.nbytes
        return result


def patch_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have streams and events that do nothing."""
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())


def _initial_centres(start: int, stop: int, width: int, seed: int, device: torch.device) -> Tensor:
    return torch.empty(stop - start, width, device=device)


@contextmanager
def fake_gpu_mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingGpu]:
    """Have fake tensors on a GPU that is not there, in one thread, with the operations in torch."""
    patch_streams(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    for module in (transfer, background):
        monkeypatch.setattr(module, "ThreadPoolExecutor", InlineThreads)
    monkeypatch.setattr(background, "record", lambda tensors, stream: None)
    monkeypatch.setattr(selection, "record", lambda tensors, stream: None)
    # These look for the memory of tensors, and share them between threads.
    monkeypatch.setattr(build, "prefer_huge_pages", lambda tensor: tensor, raising=False)
    monkeypatch.setattr(build, "initial_centres", _initial_centres)
    monkeypatch.setattr(threads, "block_ops", lambda device: BlockOps)
    with CountingGpu() as mode:
        yield mode
