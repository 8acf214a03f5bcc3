"""Work that goes on next to the backbone's forward pass: on a thread and a stream of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class Background:
    """Runs tasks one by one while the caller goes on.

    On a GPU a task's operations go to a stream of their own, so that a task may wait for its own
    results: neither the caller nor the caller's stream waits. On a CPU, which has no time to spare,
    a task is done at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.parallel = device.type == "cuda"  # whether the caller goes on meanwhile
        self._pool: ThreadPoolExecutor | None = None
        self._stream: torch.cuda.Stream | None = None

    def __reduce__(self) -> tuple[type["Background"], tuple[Any, ...]]:
        return Background, (self._device,)

    def start(self, task: Callable[[], Result], inputs: Sequence[Tensor]) -> Callable[[], Result]:
        """Begin a task; return a function that waits for it and returns or raises what it does.

        The task sees all that the caller's stream was given so far, and that stream, when the
        function is called, what the task has done. `inputs` are the caller's tensors that the task
        uses; of those that it makes, the caller calls `record` for what it uses.
        """
        if not self.parallel:
            result = task()
            return lambda: result
        if self._pool is None or self._stream is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="sampling")
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream, given = self._stream, torch.cuda.Event()  # type: ignore[no-untyped-call]
        given.record(torch.cuda.current_stream(self._device))
        record(inputs, stream)

        def run() -> Result:
            with torch.no_grad(), torch.cuda.stream(stream):
                stream.wait_event(given)
                return task()

        future = self._pool.submit(run)

        def join() -> Result:
            result = future.result()
            torch.cuda.current_stream(self._device).wait_stream(stream)
            return result

        return join


def record(tensors: Sequence[Tensor], stream: torch.cuda.Stream) -> None:
    """Keep the memory of tensors on a GPU until the stream has done what uses them."""
    for tensor in tensors:
        if tensor.device.type == "cuda":
            tensor.record_stream(stream)
