"""Threads that take parts of a table's rows in parallel, each on one core.

On a CPU torch itself splits every operation over all cores: a thousand synchronisations per step,
at each of which the cores wait for the slowest, and one busy core in operations that it does not
split. Here each thread takes a part of the rows, from the matrix product to the update, and the
threads synchronise once per pass. A core that other programs slow down takes fewer parts.

The parts depend on the rows alone, and results are handed on in their order: the number of
threads changes no bit of them, where there is more than one part.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from functools import partial
from queue import SimpleQueue
from threading import Barrier
from typing import Any, TypeVar

import torch

from recognition.head.kernels.build import block_ops
from recognition.head.kernels.reference import BlockOps
from recognition.head.rows import Bounds

Result = TypeVar("Result")

_PARTS = 16  # at least, where blocks suffice: they even out the cores' unequal speeds
_BLOCKS = 8  # of a part at most, so that few results of parts wait for their turn


class Threads:
    """Calls a function on each part of a sequence of blocks.

    Args:
        device: where blocks are computed.
        parallel: whether parts may be worked on at the same time. On a CPU there are then as many
            threads as torch has; otherwise the caller's alone.
        by_torch: whether the block operations are torch's, where there are no others.
    """

    def __init__(self, device: torch.device, *, parallel: bool, by_torch: bool = False) -> None:
        self._device, self._parallel = device, parallel and device.type == "cpu"
        self._by_torch = by_torch
        self._on_cuda = device.type == "cuda"
        self._make_ops = BlockOps if by_torch else block_ops(device)
        self.ops = self._make_ops()  # of the caller's thread; every other has its own
        self._of_pool: list[BlockOps] = []
        self._idle: SimpleQueue[BlockOps] = SimpleQueue()
        self._pool: ThreadPoolExecutor | None = None
        self._count = 0  # of the pool's threads
        self._asleep = 0  # torch's threads in `alone`; 0 elsewhere

    def __reduce__(self) -> tuple[Callable[[], "Threads"], tuple[Any, ...]]:
        settings = {"parallel": self._parallel, "by_torch": self._by_torch}
        return partial(Threads, self._device, **settings), ()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Leave all cores to the threads here: in it torch does its work in the caller's alone.

        After each task torch's own threads busy-wait for the next one. Of a step over 200,000
        classes with importance that took a tenth of the time.
        """
        if not self._parallel or self._asleep:
            yield
            return
        self._asleep = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(self._asleep)
            self._asleep = 0

    def workspace_bytes(self) -> int:
        """Return the bytes of the temporaries of all threads."""
        return sum(ops.space.nbytes() for ops in (self.ops, *self._of_pool))

    def map(
        self, function: Callable[[BlockOps, Bounds], Result], blocks: Bounds
    ) -> Iterator[Result]:
        """Yield `function(ops, part)` for each part of `blocks`, in their order.

        The caller must take all results. What a part raises is raised in its turn, once no part is
        being worked on; parts that have not begun are dropped.
        """
        size = max(1, min(_BLOCKS, len(blocks) // _PARTS)) if self._parallel else len(blocks) or 1
        parts = [blocks[start : start + size] for start in range(0, len(blocks), size)]
        count = self._asleep or torch.get_num_threads()
        if not self._parallel or count < 2 or len(parts) < 2:
            for part in parts:
                # Triton launches on the current device, whatever device its tensors are on.
                guarded = self._on_cuda and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
                with torch.cuda.device(self._device) if guarded else nullcontext():
                    result = function(self.ops, part)
                yield result
            return
        pool = self._start(count)

        def run(part: Bounds) -> Result:
            ops = self._idle.get()
            try:
                with torch.no_grad():
                    return function(ops, part)
            finally:
                self._idle.put(ops)

        futures: list[Future[Result]] = [pool.submit(run, part) for part in parts]
        futures.reverse()
        try:
            with self.alone():  # what the caller does with the results too
                while futures:
                    yield futures.pop().result()
        finally:
            # After a failure too, no part may still write to rows that the caller goes on to use.
            wait([future for future in futures if not future.cancel()])

    def _start(self, count: int) -> ThreadPoolExecutor:
        """Return the pool, started if need be, each of its threads with one core for torch."""
        if self._pool is not None and count == self._count:
            return self._pool
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="head")
        self._count, self._idle = count, SimpleQueue()
        self._of_pool = [self._make_ops() for _ in range(count)]
        for ops in self._of_pool:
            self._idle.put(ops)
        started = Barrier(count)

        def settle() -> None:
            started.wait()  # so that every thread comes here once
            torch.get_num_threads()  # the first call sets torch's default for the thread
            torch.set_num_threads(1)

        for future in [self._pool.submit(settle) for _ in range(count)]:
            future.result()
        # The number holds for the thread that sets it, and for those that begin later.
        torch.set_num_threads(1 if self._asleep else count)
        return self._pool
