"""Runs of `train.py` on the demo: its data, its accuracies, ranks under torchrun, a resume."""

import json
import math
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from data.demo.generate import make_demo_data
from scripts.benchmarks.common.machine import ROOT
from scripts.machine.step import FAILED, FULL, GOOD, QUICK, SLOW, TINY, Context, Verdict

# identities, images, people of a verification set
DEMO = {FULL: (2000, 20_000, 300), QUICK: (200, 2000, 40), TINY: (12, 48, 20)}
LEAST_ACCURACY = {"lfw": 0.94, "cfp_fp": 0.87, "agedb_30": 0.91}  # README's, less 3 points
WAITED = 0.1  # fraction of the time spent waiting for data, above which a run is slow

_SHORT = [
    "train.epochs=null", "verification.every_epochs=null", "verification.before_training=false",
    "checkpoint.every_epochs=null", "schedule.warmup_epochs=null", "schedule.warmup_steps=1",
]  # fmt: skip
RUNS = {
    FULL: [],
    QUICK: [*_SHORT, "train.steps=150", "log.every_steps=25"],
    TINY: [*_SHORT, "train.steps=2", "train.global_batch_size=4", "log.every_steps=1",
           "data.image_size=32", "verification.sets=[lfw]"],
}  # fmt: skip
RANKS = {FULL: (60, 90), TINY: (2, 3)}  # steps until the checkpoint, and of the resumed run


def demo_data(context: Context) -> Path:
    """Return the folder with the demo's data, made unless another step has done so."""
    identities, images, people = DEMO[context.scale]
    folder = context.folder / "demo"
    make_demo_data(
        folder, identities=identities, images=images, people_per_set=people,
        processes=1 if context.tiny else None,
    )  # fmt: skip
    return folder


def data(context: Context) -> Verdict:
    """Make the demo's data on all cores."""
    started = time.perf_counter()
    demo_data(context)
    seconds, images = time.perf_counter() - started, DEMO[context.scale][1]
    context.record(images=images, s=seconds, images_per_s=images / seconds)
    return Verdict(GOOD, f"{images:,} images of the demo made in {seconds:.0f} s")


def bf16(context: Context) -> Verdict:
    """Train the demo in bf16, the head's products too."""
    return _demo(context, "bf16", "train.precision=bf16", "head.precision=bf16")


def fp16(context: Context) -> Verdict:
    """Train the demo in fp16, with a loss scale."""
    return _demo(context, "fp16", "train.precision=fp16")


def _demo(context: Context, name: str, *settings: str) -> Verdict:
    output = context.folder / name
    # As the command, in this process, which has imported all that it needs.
    sys.argv = ["train.py", *_arguments(context, output, [*RUNS[context.scale], *settings])]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    lines = _metrics(output)
    steps = [line for line in lines if line["event"] == "train"]
    last = steps[-1]
    rates = sorted(line["images_per_second"] for line in steps[1:] or steps)
    context.record(
        steps=last["step"], loss=last["loss"], images_per_s=rates[len(rates) // 2],
        data_wait=last["data_wait"], skipped_steps=last["skipped_steps"],
    )  # fmt: skip
    found = {line["set"]: line["accuracy"] for line in lines if line["event"] == "verification"}
    for set_name, accuracy in found.items():  # the last one of each set
        context.record(set=set_name, accuracy=accuracy)
    if not found or not math.isfinite(last["loss"]):
        return Verdict(FAILED, f"a loss of {last['loss']} and {len(found)} sets verified")
    words = ", ".join(f"{set_name} {accuracy:.3f}" for set_name, accuracy in found.items())
    if context.scale != FULL:
        return Verdict(GOOD, f"trained {last['step']} steps and verified: {words}")
    low = [one for one, least in LEAST_ACCURACY.items() if found.get(one, 0.0) < least]
    if low:
        return Verdict(FAILED, f"{words}; expected at least {LEAST_ACCURACY}")
    if last["data_wait"] > WAITED:
        return Verdict(SLOW, f"{words}; {last['data_wait']:.0%} of the time waits for data")
    return Verdict(GOOD, f"{words}, as expected")


def ranks(context: Context) -> Verdict:
    """Train on every GPU under torchrun, and resume from the checkpoint."""
    count = torch.cuda.device_count() if context.cuda else 1
    until, total = RANKS[context.scale]
    output = context.folder / "ranks"
    settings = [*RUNS[TINY if context.tiny else QUICK], f"checkpoint.every_steps={until}"]
    for steps, resume in ((until, []), (total, ["--resume", "auto"])):
        lengths = [f"train.steps={steps}", "verification.sets=[]", "log.every_steps=1"]
        command = [
            "--standalone", f"--nproc-per-node={count}", str(ROOT / "train.py"),
            *_arguments(context, output, [*settings, *lengths]), *resume,
        ]  # fmt: skip
        try:
            torchrun(command)
        except ChildFailedError as error:
            what = "the resumed run" if resume else "the run"
            code = error.get_first_failure()[1].exitcode
            return Verdict(FAILED, f"{what} on {count} rank(s) ended with {code}")
    lines = [line for line in _metrics(output) if line["event"] == "train"]
    if [line["step"] for line in lines] != list(range(1, total + 1)):
        return Verdict(FAILED, f"{len(lines)} steps in metrics.jsonl, expected {total}")
    backend = "NCCL" if context.cuda else "gloo"
    context.record(
        ranks=count, backend=backend, steps=total, loss=lines[-1]["loss"],
        images_per_s=lines[-1]["images_per_second"],
    )  # fmt: skip
    return Verdict(GOOD, f"{count} rank(s) train with {backend}, and resume at step {until}")


def _arguments(context: Context, output: Path, settings: list[str]) -> list[str]:
    identities, images, people = DEMO[context.scale]
    demo = f"{{identities: {identities}, images: {images}, people_per_set: {people}}}"
    given = [
        f"data.train={demo_data(context)}", f"data.demo={demo}",
        f"train.device={context.device.type}", *settings,
    ]  # fmt: skip
    return [
        "--config", str(ROOT / "configs" / "demo.yaml"), "--output", str(output),
        *(part for setting in given for part in ("--set", setting)),
    ]  # fmt: skip


def _metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
