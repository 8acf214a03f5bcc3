"""Threads that work side by side through a table's rows, each on one core.

torch's own way on a CPU is to cut every operation over all cores: a thousand meetings a step, at
each of which the cores wait for the slowest, and none at all in operations that it does not cut.
Here each thread takes a part of the rows, from the matrix product to the update, and meets the
others once a pass. A core that other programs slow down then takes fewer parts.

The parts depend on the rows alone, and results are handed on in their order: so the number of
threads changes no bit of them, where there are parts enough for more than one.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Barrier
from typing import TypeVar

import torch

from recognition.head.kernels.build import block_ops
from recognition.head.kernels.reference import BlockOps
from recognition.head.kernels.workspace import Workspace
from recognition.head.rows import RowRange, RowSet

Result = TypeVar("Result")

_PARTS = 16  # that many at least, where blocks suffice: they level out what cores do unequally
_BLOCKS = 8  # of a part at most, so that the results of parts that wait for their turn stay few


@dataclass(frozen=True)
class Lane:
    """What one thread works with.

    Attributes:
        ops: the operations on a block.
        space: memory for temporaries, those of `ops` among them.
    """

    ops: BlockOps
    space: Workspace


class Lanes:
    """Runs a function on each part of a set of rows.

    Args:
        device: where blocks are computed.
        apart: whether parts may be worked on at the same time. On a CPU there are then as many
            lanes as torch has threads; elsewhere, and for one thread, one: the caller's.
    """

    def __init__(self, device: torch.device, *, apart: bool) -> None:
        self._device, self._apart = device, apart and device.type == "cpu"
        self._make_ops = block_ops(device)
        self._main = self._lane()
        self._idle: SimpleQueue[Lane] = SimpleQueue()
        self._pool: ThreadPoolExecutor | None = None
        self._threads = 0

    def __reduce__(
        self,
    ) -> tuple[Callable[[torch.device, bool], "Lanes"], tuple[torch.device, bool]]:
        return _lanes, (self._device, self._apart)

    @property
    def ops(self) -> BlockOps:
        """The operations of the caller's own lane."""
        return self._main.ops

    @property
    def space(self) -> Workspace:
        """The memory of the caller's own lane."""
        return self._main.space

    def map(
        self, function: Callable[[Lane, RowRange], Result], rows: RowSet, block_rows: int
    ) -> Iterator[Result]:
        """Yield `function(lane, part)` for each part of `rows`, in their order.

        Parts are whole blocks of `block_rows` rows, the last one what is left. The caller must
        take all results: what a part raises is raised at its turn, when no part is at work any
        more; those that were not begun are left out.
        """
        blocks = -(-rows.count // block_rows)
        of_part = max(1, min(_BLOCKS, blocks // _PARTS)) if self._apart else blocks
        parts = list(RowRange(rows, 0, rows.count, block_rows).cut(of_part))
        if not self._apart or torch.get_num_threads() < 2 or len(parts) < 2:
            for part in parts:
                yield function(self._main, part)
            return
        pool = self._side_by_side()

        def run(part: RowRange) -> Result:
            lane = self._idle.get()
            try:
                with torch.no_grad():
                    return function(lane, part)
            finally:
                self._idle.put(lane)

        futures: list[Future[Result]] = [pool.submit(run, part) for part in parts]
        futures.reverse()
        # What the caller does with the results must not wake torch's own threads: they would turn
        # in circles for their next task, on the lanes' cores.
        torch.set_num_threads(1)
        try:
            while futures:
                yield futures.pop().result()
        finally:
            torch.set_num_threads(self._threads)
            # After a failure too, no part may still write to rows that the caller goes on with.
            wait([future for future in futures if not future.cancel()])

    def _lane(self) -> Lane:
        space = Workspace()
        return Lane(self._make_ops(space), space)

    def _side_by_side(self) -> ThreadPoolExecutor:
        """Return the threads, each of which gives torch one core."""
        threads = torch.get_num_threads()
        if self._pool is not None and threads == self._threads:
            return self._pool
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="head")
        self._threads, self._idle = threads, SimpleQueue()
        for _ in range(threads):
            self._idle.put(self._lane())
        started = Barrier(threads)

        def settle() -> None:
            started.wait()  # so that every thread comes here once
            torch.get_num_threads()  # a thread takes torch's own number when it first asks for it
            torch.set_num_threads(1)

        for future in [self._pool.submit(settle) for _ in range(threads)]:
            future.result()
        # The number holds for the thread that sets it, and for those that begin later.
        torch.set_num_threads(threads)
        return self._pool


def _lanes(device: torch.device, apart: bool) -> Lanes:
    return Lanes(device, apart=apart)
