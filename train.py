"""Trains a face recognition network: `torchrun train.py --config configs/<name>.yaml`.

Parses the command line, starts the ranks, builds every part of the run from the config
(`recognition/build.py`, `data/build.py`, `eval/build.py`), and hands them to `Trainer.fit`.
`python train.py` is the same as `torchrun` with one rank.
"""

# ruff: noqa: E402
import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="a YAML file of configs/")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="override one setting, e.g. head.sample_rate=0.2; repeatable",
    )  # fmt: skip
    parser.add_argument(
        # As a JSON text, which YAML reads as it is: 2025 and #1 are folders too.
        "--output", type=lambda value: [f"output={json.dumps(value, ensure_ascii=False)}"],
        default=[], metavar="FOLDER", help="the run folder, in place of the config's",
    )  # fmt: skip
    parser.add_argument(
        "--resume", metavar="auto|PATH",
        help="continue: from the run folder's latest checkpoint, if it has one, or from a path",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="check everything, print the resolved config and the plan, and stop",
    )  # fmt: skip
    return parser.parse_args(arguments)


if __name__ == "__main__":
    parse()  # answers --help and a mistake at once: the imports below take seconds

import torch

from data.build import (
    build_dataset,
    build_loader,
    build_order,
    build_prepare,
    dataset_name,
    describe_order,
    stated_numbers,
    write_class_mapping,
)
from data.loading.choose_decoder import choose_decoder
from eval.build import build_verifier
from recognition.build import (
    build_network,
    build_trainer,
    describe_model,
    load_initial_weights,
    run_identity,
)
from recognition.checkpoint import Checkpoints, read_metadata, refuse_used_folder
from recognition.config import Config
from recognition.config_file import dump_config, load_config
from recognition.distributed import (
    World,
    barrier,
    choose_device,
    choose_threads,
    current,
    process_group,
)
from recognition.failure import report_and_exit
from recognition.plan import check_batch, describe_plan, make_plan
from recognition.precision import Precision
from recognition.telemetry import Telemetry, configure_logging

log = logging.getLogger("train")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; every failure ends the process with a message and a non-zero code."""
    options = parse(arguments)
    world = current()
    configure_logging(world)
    try:
        config = load_config(options.config, [*options.set, *options.output])
        device, reason = choose_device(config.train.device, world)
        check_batch(config, world)
        choose_decoder(config.data.decoder, device)  # refuses what is not installed
        if options.dry_run:
            dry_run(config, world, f"{device.type} ({reason}); {world.size} rank(s)")
            return
        if options.resume is None:
            refuse_used_folder(config.output)
        with process_group(device, config.train.timeout_seconds):
            barrier()  # nobody writes before everybody has checked
            threads, threads_reason = choose_threads(device, world)
            torch.set_num_threads(threads)
            log.info("%d rank(s), device %s, %s", world.size, reason, threads_reason)
            run(config, world, device, options.resume)
    except BaseException as error:
        report_and_exit(error, world)


def run(config: Config, world: World, device: torch.device, resume: str | None) -> None:
    """Build every part of the run and train."""
    output = config.output
    if world.is_main:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(dump_config(config))
    configure_logging(world, output / "log.txt")
    torch.manual_seed(config.seed)
    dataset = build_dataset(config.data, world)
    if world.is_main:
        write_class_mapping(dataset, output)
    plan = make_plan(config, len(dataset))
    verifier = build_verifier(config, world)
    checkpoints = Checkpoints(output, world=world, keep=config.checkpoint.keep)
    folder = None if resume is None else checkpoints.find(resume)
    backbone = build_network(config).to(memory_format=torch.channels_last).to(device)
    if config.init_from is not None and folder is None:
        load_initial_weights(backbone, config.init_from)
    with Telemetry(
        output, world=world,
        first_step=0 if folder is None else int(read_metadata(folder)["step"]),
        total_steps=plan.total_steps, progress=sys.stderr.isatty() or world.size == 1,
    ) as telemetry:  # fmt: skip
        trainer = build_trainer(
            config,
            plan,
            world=world,
            device=device,
            backbone=backbone,
            source=build_loader(config, dataset, world, device),
            prepare=build_prepare(config, device),
            verify=lambda embed: verifier(embed, device),
            checkpoints=checkpoints,
            telemetry=telemetry,
            identity=run_identity(
                config, describe_order(config.data), dataset.num_classes, len(dataset)
            ),
        )
        telemetry.text("config", dump_config(config))
        if folder is not None:
            trainer.restore(folder)
            log.info("resumed %s at step %d", folder, trainer.progress.step)
        elif resume is not None:
            log.info("nothing to resume in %s: starting anew", output)
        if config.verification.before_training and folder is None:
            trainer.run_verification()
        started = time.perf_counter()
        trainer.fit()
        log.info("done in %.0f s; the run is in %s", time.perf_counter() - started, output)


def dry_run(config: Config, world: World, device: str) -> None:
    """Check all that is there without starting it; print the resolved config and the plan."""
    images, classes, remark = stated_numbers(config.data) or (0, 0, "")
    if not remark:
        dataset = build_dataset(config.data, world)
        images, classes = len(dataset), dataset.num_classes
        build_order(config.data, dataset, config.seed)
        build_verifier(config, world)
    precision = Precision(config.train.precision, choose_device(config.train.device, world)[0])
    lines = {
        "device": device,
        "precision": precision.caution or precision.name,
        "data": f"{dataset_name(config.data)}: {images:,} images of {classes:,} identities{remark}",
        "order": describe_order(config.data),
        **describe_plan(config, images, world),
        **describe_model(config, classes, world),
    }
    print(dump_config(config))
    print("\n".join(f"{name:<15} {text}" for name, text in lines.items()))


if __name__ == "__main__":
    main()
