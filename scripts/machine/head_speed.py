"""The head's step at size: time of each pass, distance from the machine's limit, memory, launches.

The limit is the longer of two times: that of the matrix products at this machine's own rate of
square products, and that of reading and writing the state once at its own rate of copying.
"""

import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from data.loading.tuning import usable_cores
from scripts.benchmarks.common.memory import PeakMemory, available_bytes
from scripts.benchmarks.head.cases import HeadCase, global_batch
from scripts.benchmarks.head.compare import most_classes
from scripts.benchmarks.head.methods import Method, build, needed_bytes
from scripts.benchmarks.head.rates import Rates, measure_rates
from scripts.machine.step import FULL, GOOD, QUICK, SLOW, TINY, Context, Verdict

MOST_TIMES_LIMIT = 1.6  # at 10 million classes and rate 1
CLASSES = {FULL: (1_000_000, 10_000_000), QUICK: (1_000_000,), TINY: (2_000,)}
BATCH = {FULL: 1024, QUICK: 1024, TINY: 16}
REPEATS = {FULL: 5, QUICK: 3, TINY: 1}
RESERVE = 6 << 30  # bytes for the embeddings, a step's blocks and the CUDA context
MIB = 1 << 20
TOP_KERNELS = 6


def run(context: Context) -> Verdict:
    """Measure sizes at rates 1 and 0.1, one by importance, the largest with bf16 momentum."""
    rates = measure_rates(("bf16",), context.device, usable_cores(), small=context.tiny)
    if context.cuda:
        context.record(bf16_TFLOP_per_s=rates.flops["bf16"] / 1e12, copy_GB_per_s=rates.copy / 1e9)
    builds: list[float] = []  # seconds per class that making a table took
    words, slow = [], False
    for case in cases(context):
        build_seconds = max(builds, default=0.0) * case.classes
        if build_seconds > context.left() - 5.0:
            words.append(f"{case.classes:,} classes left out: no time to make their centres")
            slow = True
            continue
        times = measure(context, case, rates, builds)
        gc.collect()  # a table and what moves its rows refer to each other
        if case.rate == 1.0:
            words.append(f"{times:.1f} times the limit at {case.classes:,} classes")
            slow |= case.classes >= 10_000_000 and times > MOST_TIMES_LIMIT
    if context.tiny:
        return Verdict(GOOD, "the head steps at toy sizes")
    expected = f"expected at most {MOST_TIMES_LIMIT} from 10,000,000 classes on"
    return Verdict(SLOW if slow else GOOD, f"rate 1: {', '.join(words)}; {expected}")


def cases(context: Context) -> list[HeadCase]:
    """Return what is measured and fits in the memory that is free now."""
    free = available_bytes(context.device)
    free = 0 if free is None else free - (0 if context.tiny else RESERVE)

    def sized(classes: int, rate: float = 1.0, method: str = "partial_fc") -> HeadCase:
        return HeadCase(
            method, classes, rate, "bf16", batch=BATCH[context.scale],
            dim=16 if context.tiny else 512, device=context.device.type,
        )  # fmt: skip

    found = [sized(classes, rate) for classes in CLASSES[context.scale] for rate in (1.0, 0.1)]
    found.append(sized(CLASSES[context.scale][0], 0.05, "importance"))
    if context.scale == FULL:
        largest = most_classes(lambda classes: [sized(classes, 1.0, "bf16_momentum")], free)
        found += [sized(largest, rate, "bf16_momentum") for rate in (1.0, 0.1)]
    return [case for case in found if needed_bytes(case) <= free]


def measure(context: Context, case: HeadCase, rates: Rates, builds: list[float]) -> float:
    """Record a case; return its time over the limit."""
    device = context.device
    started = time.perf_counter()
    method: Method[Any] = build(case, device)
    _synchronize(device)
    builds.append((time.perf_counter() - started) / case.classes)
    memory = PeakMemory(device)
    x, labels = (tensor.to(device) for tensor in global_batch(case, 0))
    x.requires_grad_()
    method.step(x, labels, case.lr)  # compiles kernels
    passes = [
        (seconds_of(lambda: method.gradients(x, labels), device),
         seconds_of(lambda: method.update(case.lr), device))
        for _ in range(REPEATS[context.scale])
    ]  # fmt: skip
    first, second = (statistics.median(times) for times in zip(*passes, strict=True))
    work = method.work()
    limit = max(work.flops / rates.flops["bf16"], work.state_bytes / rates.copy)
    times: float = (first + second) / limit
    figures: dict[str, Any] = {
        "classes": case.classes, "method": case.method, "rate": case.rate,
        "ms": 1e3 * (first + second),
        "forward_and_backward_ms": 1e3 * first, "update_ms": 1e3 * second,
        "limit_ms": 1e3 * limit, "times_limit": times,
        "beyond_state_MiB": memory.beyond() / MIB,
        "made_in_s": builds[-1] * case.classes,
    }  # fmt: skip
    if context.cuda:
        figures |= _launches(lambda: method.step(x, labels, case.lr), first + second)
    context.record(**figures)
    return times


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Return the time of an action on its device: on CUDA by events, else by the clock."""
    if device.type != "cuda":
        started = time.perf_counter()
        action()
        return time.perf_counter() - started
    event = partial(torch.cuda.Event, enable_timing=True)
    begin, end = event(), event()
    begin.record()
    action()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _launches(step: Callable[[], Tensor], seconds: float) -> dict[str, float]:
    """Return how many kernels a step launches, and how much of its time the GPU runs them.

    The most frequent kernel runs once or twice per block, so launches over its number tell the
    launches per block; the log has the times of all.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    counts: Counter[str] = Counter()
    busy: Counter[str] = Counter()
    for event in profiled.events() or []:
        if event.device_type == DeviceType.CUDA:
            counts[event.name] += 1
            busy[event.name] += event.time_range.elapsed_us()
    for name, microseconds in busy.most_common(TOP_KERNELS):
        print(f"  {microseconds / 1e3:9.2f} ms in {counts[name]:6,} x {name[:90]}")
    blocks = max(counts.values(), default=1)
    return {
        "launches": sum(counts.values()),
        "launches_per_block": sum(counts.values()) / blocks,
        "GPU_busy": sum(busy.values()) / 1e6 / seconds,
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
