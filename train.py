"""Trains a face recognition network: `torchrun train.py --config configs/<name>.yaml`.

Parses the command line, starts the ranks, builds every part of the run from the config
(`recognition/build.py`, `data/build.py`, `eval/build.py`), and hands them to `Trainer.fit`.
`python train.py` is the same as `torchrun` with one rank.
"""

# ruff: noqa: E402
import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
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
        default=[], metavar="FOLDER", help="the run folder, instead of the config's",
    )  # fmt: skip
    parser.add_argument(
        "--resume", metavar="auto|PATH",
        help="auto: continue from the run folder's latest checkpoint, if any; or a path of one",
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
    class_batches,
    class_mapping_file,
    dataset_name,
    describe_order,
    separate_classes,
    stated_numbers,
)
from data.datasets.dataset import FaceDataset
from data.loading.choose_decoder import choose_decoder
from eval.build import build_verifier
from recognition.build import (
    build_network,
    build_telemetry,
    build_trainer,
    check_start,
    describe_model,
    load_class_means,
    load_initial_weights,
    run_identity,
)
from recognition.checkpoint import Checkpoints, latest, read_metadata
from recognition.config import Config
from recognition.config_file import config_values, dump_config, load_config
from recognition.distributed import (
    World,
    choose_device,
    choose_threads,
    current,
    process_group,
)
from recognition.failure import StopSignals, report_and_exit
from recognition.plan import check_batch, describe_plan, make_plan
from recognition.precision import Precision
from recognition.run_folder import RunFolder, changed_settings
from recognition.telemetry import configure_logging
from recognition.trainer import Trainer

log = logging.getLogger("train")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; every failure ends the process with a message and a non-zero code."""
    options = parse(arguments)
    world = current()
    configure_logging(world)
    with StopSignals(world) as signals:
        try:
            start(options, world, signals)
        except BaseException as error:
            report_and_exit(error, world)


def start(options: argparse.Namespace, world: World, signals: StopSignals) -> None:
    """Check what needs no data, join the other ranks, lock the run folder, and run."""
    config = load_config(options.config, [*options.set, *options.output])
    device, reason = choose_device(config.train.device, world)
    check_batch(config, world)
    choose_decoder(config.data.decoder, device)  # refuses what is not installed
    if options.dry_run:
        dry_run(config, world, device, reason, options.resume)
        return
    with process_group(device, config.train.timeout_seconds):
        threads, threads_reason = choose_threads(world)
        torch.set_num_threads(threads)
        precision = Precision(config.train.precision, device)
        precision.set_switches(deterministic=config.train.deterministic)
        log.info("%d rank(s), device %s, %s", world.size, reason, threads_reason)
        log.info("backbone in %s", precision.description)
        with RunFolder(config.output, world, options.resume) as folder:
            run(config, world, device, folder, signals)


def run(
    config: Config, world: World, device: torch.device, folder: RunFolder, signals: StopSignals
) -> None:
    """Build every part of the run and train. Nothing is written before all of it is checked."""
    output = config.output
    torch.manual_seed(config.seed)
    dataset = build_dataset(config.data, world)
    separate = separate_classes(dataset)
    plan = make_plan(config, len(dataset))
    verifier = build_verifier(config, world)
    checkpoints = Checkpoints(output, world=world, keep=config.checkpoint.keep)
    found = None if folder.resume is None else checkpoints.find(folder.resume)
    backbone = build_network(config).to(memory_format=torch.channels_last).to(device)
    if config.init_from is not None and found is None:
        load_initial_weights(backbone, config.init_from, config.init_weights)
    telemetry = build_telemetry(config, world, plan)
    saved = None if found is None else read_metadata(found)
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
        signals=signals,
        identity=run_identity(
            config, describe_order(config.data), dataset.num_classes, len(dataset), separate
        ),
        separate=separate,
        saved=saved,
    )
    if found is not None:
        trainer.restore(found)
        telemetry.first_step = trainer.progress.step
    signals.peers = folder.begin(
        {"config.yaml": dump_config(config), **class_mapping_file(dataset)}, device
    )
    with telemetry:
        telemetry.text("config", dump_config(config))
        if saved is not None:
            log.info("resumed %s at step %d", found, trainer.progress.step)
            for change in changed_settings(saved.get("config", {}), config_values(config)):
                log.info("since the checkpoint, %s", change)
        elif folder.resume is not None:
            log.info("nothing to resume in %s: starting anew", output)
        if found is None:
            begin(config, world, device, dataset, trainer)
        started = time.perf_counter()
        with signals.deferred():
            trainer.fit()
        log.info("done in %.0f s; the run is in %s", time.perf_counter() - started, output)


def begin(
    config: Config, world: World, device: torch.device, dataset: FaceDataset, trainer: Trainer
) -> None:
    """Do what a new run does before its first step."""
    if config.head.init == "class_means":
        load_class_means(trainer, class_batches(config, dataset, world, device), config.seed)
    if config.verification.before_training:
        trainer.run_verification()


def dry_run(
    config: Config, world: World, device: torch.device, reason: str, resume: str | None
) -> None:
    """Check all that is there without starting it; print the resolved config and the plan."""
    images, classes, remark = stated_numbers(config.data) or (0, 0, "")
    separate: Mapping[str, int] = {}
    if not remark:
        dataset = build_dataset(config.data, world)
        images, classes = len(dataset), dataset.num_classes
        separate = separate_classes(dataset)
        build_order(config.data, dataset, config.seed)
        build_verifier(config, world)
    if resume is None or (resume == "auto" and latest(config.output / "checkpoints") is None):
        check_start(config, separate or classes)  # a run that resumes reads none of it
    precision = Precision(config.train.precision, device)
    lines = {
        "device": f"{device.type} ({reason}); {world.size} rank(s)",
        "precision": precision.caution or precision.description,
        "data": f"{dataset_name(config.data)}: {images:,} images of {classes:,} identities{remark}",
        "order": describe_order(config.data),
        **describe_plan(config, images, world),
        **describe_model(config, separate or classes, world, device),
    }
    print(dump_config(config))
    print("\n".join(f"{name:<15} {text}" for name, text in lines.items()))


if __name__ == "__main__":
    main()
