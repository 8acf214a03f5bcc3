"""Trains a face recognition network: `torchrun train.py --config configs/<name>.yaml`.

Parses the command line, builds every part of the run from the config, and hands them to
`Trainer.fit`. `python train.py` is the same as `torchrun` with one rank.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones import build_backbone, freeze_batch_norm, load_weights, read_weights
from data.augmentations.augment import Augmentation
from data.datasets.dataset import FaceDataset, open_dataset
from data.demo.generate import make_demo_data
from data.loading.choose_decoder import choose_decoder, measure
from data.loading.loader import Batch, Loader
from data.loading.tuning import cores_per_rank, plan_workers
from data.order.class_orders import ClassBalancedOrder, PKOrder
from data.order.orders import BlockOrder, FileOrder, GlobalOrder, SampleOrder
from data.progress import progress_bar
from data.records.locations import folder_of, is_url
from eval.verifier import Verifier
from recognition.checkpoint import Checkpoints, backbone_file, read_facts
from recognition.config import Config
from recognition.config_file import dump_config, load_config
from recognition.distributed import (
    World,
    barrier,
    choose_device,
    choose_threads,
    current,
    process_group,
    shard_range,
)
from recognition.failure import report_and_exit
from recognition.head import PartialFC, RowOptimizer, build_loss, build_row_optimizer
from recognition.optimizer import make_optimizer
from recognition.plan import make_plan, make_schedule
from recognition.precision import Precision
from recognition.telemetry import Telemetry, configure_logging
from recognition.trainer import Trainer
from recognition.version import __version__

log = logging.getLogger("train")

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; every failure ends the process with a message and a non-zero code."""
    options = parse(arguments)
    world = current()
    configure_logging(world)
    try:
        config = load_config(options.config, [*options.set, *options.output])
        if options.dry_run:
            dry_run(config, world)
            return
        device, reason = choose_device(config.train.device, world)
        check_batch(config, world)
        choose_decoder(config.data.decoder, device)  # refuses what is not installed
        check_output(config.output, options.resume)
        with process_group(device, config.train.timeout_seconds):
            barrier()  # nobody writes before everybody has checked
            threads, threads_reason = choose_threads(device, world)
            torch.set_num_threads(threads)
            log.info("%d rank(s), device %s, %s", world.size, reason, threads_reason)
            run(config, world, device, options.resume)
    except BaseException as error:
        report_and_exit(error, world)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="a YAML file of configs/")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="override one setting, e.g. head.sample_rate=0.2; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=lambda value: [f"output={value}"], default=[], metavar="FOLDER",
        help="the run folder, in place of the config's",
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


def check_output(output: Path, resume: str | None) -> None:
    """Raise `ValueError` for a run folder that another run has used, unless it is resumed."""
    used = output.exists() and any(output.iterdir())
    if used and resume is None:
        raise ValueError(
            f"{output} holds an earlier run: continue it with --resume auto, or choose another "
            "folder with --output"
        )


def run(config: Config, world: World, device: torch.device, resume: str | None) -> None:
    """Build every part of the run and train."""
    if world.is_main:
        config.output.mkdir(parents=True, exist_ok=True)
        (config.output / "config.yaml").write_text(dump_config(config))
    configure_logging(world, config.output / "log.txt")
    torch.manual_seed(config.seed)
    dataset = prepare_dataset(config, world)
    if world.is_main and dataset.class_mapping is not None:
        # Whoever deploys the network wants to know which class is which label or folder.
        (config.output / "classes.json").write_text(json.dumps(dataset.class_mapping, indent=0))
    plan = make_plan(config, len(dataset))
    verifier = make_verifier(config, world)
    checkpoints = Checkpoints(config.output, world=world, keep=config.checkpoint.keep)
    folder = None if resume is None else checkpoints.find(resume)
    backbone = make_backbone(config).to(memory_format=torch.channels_last).to(device)
    if config.init_from is not None and folder is None:
        file = backbone_file(config.init_from)
        load_weights(backbone, read_weights(file), str(file))
        log.info("backbone weights from %s", file)
    augmentation = Augmentation(**config.data.augment.model_dump(), seed=config.seed)

    def prepare(batch: Batch) -> tuple[Tensor, Tensor]:
        batch = batch.to(device)
        return augmentation(batch), batch.labels

    first_step = 0 if folder is None else int(read_facts(folder)["step"])
    with Telemetry(
        config.output, world=world, first_step=first_step, total_steps=plan.total_steps,
        progress=sys.stderr.isatty() or world.size == 1,
    ) as telemetry:  # fmt: skip
        trainer = Trainer(
            world=world,
            device=device,
            backbone=backbone,
            head=make_head(config, dataset, device),
            optimizer=make_optimizer(backbone, config.optimizer),
            schedule=make_schedule(config.schedule, config.optimizer.lr, plan),
            plan=plan,
            source=make_loader(config, dataset, world, device),
            prepare=prepare,
            verify=lambda embed: verifier(embed, device),
            precision=Precision(config.train.precision, device),
            checkpoints=checkpoints,
            telemetry=telemetry,
            global_batch_size=config.train.global_batch_size,
            accumulation=config.train.accumulation,
            clip_norm=config.optimizer.clip_norm,
            log_every=config.log.every_steps,
            seed=config.seed,
            compile_backbone=config.train.compile,
            identity=identity(config, dataset),
            facts={
                "config": config.model_dump(mode="json"),
                "versions": {"torch": torch.__version__, "partialfc": __version__},
            },
        )
        telemetry.text("config", dump_config(config))
        if folder is not None:
            trainer.restore(folder)
            log.info("resumed %s at step %d", folder, trainer.progress.step)
        elif resume is not None:
            log.info("nothing to resume in %s: starting anew", config.output)
        if config.verification.before_training and folder is None:
            trainer.run_verification()
        started = time.perf_counter()
        trainer.fit()
        log.info("done in %.0f s; the run is in %s", time.perf_counter() - started, config.output)


def prepare_dataset(config: Config, world: World) -> FaceDataset:
    """Return the training set, generated first if it is the demo's; check what the config states.

    Raises `ValueError` when the config's counts are not those of the dataset.
    """
    settings = config.data
    if settings.demo is not None:
        folder = Path(data_name(config))  # a single one, with a demo
        if world.is_main:
            with progress_bar(f"making {folder}", "image") as progress:
                make_demo_data(folder, **settings.demo.model_dump(), progress=progress)
        barrier()
    dataset = open_dataset(
        settings.train,
        merge=settings.merge,
        remap_labels=settings.remap_labels,
        cache_folder=settings.index_cache,
        list_root=settings.list_root,
    )
    name_of_data = data_name(config)
    stated = {"num_classes": settings.num_classes, "num_images": settings.num_images}
    found = {"num_classes": dataset.num_classes, "num_images": len(dataset)}
    for name, value in stated.items():
        if value is not None and value != found[name]:
            raise ValueError(
                f"data.{name} is {value} in the config, but {name_of_data} has {found[name]}: "
                f"is it the right dataset? Mend the number, or leave data.{name} out"
            )
    log.info("%s: %d images of %d identities", name_of_data, len(dataset), dataset.num_classes)
    return dataset


def data_name(config: Config) -> str:
    """Return what the config calls the training data, for messages."""
    train = config.data.train
    return ", ".join(map(str, train if isinstance(train, list) else [train]))


def check_batch(config: Config, world: World) -> None:
    """Raise `ValueError` when a micro-batch leaves a rank too few images to train on."""
    train = config.train
    smallest = train.global_batch_size // train.accumulation // world.size
    needed = 1 if config.backbone.frozen_batch_norm else 2
    if smallest < needed:
        raise ValueError(
            f"train.global_batch_size {train.global_batch_size} in {train.accumulation} "
            f"micro-batch(es) over {world.size} ranks leaves {smallest} image(s) to a rank: "
            f"batch norm needs at least {needed}; raise the batch size, lower "
            "train.accumulation, or start fewer ranks"
        )


def make_order(config: Config, dataset: FaceDataset) -> SampleOrder:
    """Return the stream of samples. Raises `ValueError` for more identities than there are."""
    settings, seed = config.data, config.seed
    if settings.sampler == "class_balanced":
        return ClassBalancedOrder(dataset.labels, seed)
    if settings.sampler == "p_k":
        assert settings.identities_per_batch is not None, "the config states it with p_k"
        assert settings.images_per_identity is not None, "the config states it with p_k"
        return PKOrder(
            dataset.labels,
            seed,
            identities_per_batch=settings.identities_per_batch,
            images_per_identity=settings.images_per_identity,
        )
    if settings.order == "global":
        return GlobalOrder(len(dataset), seed)
    stored = dataset.storage_order()
    if settings.order == "none":
        return FileOrder(len(dataset), stored)
    return BlockOrder(
        len(dataset),
        seed,
        block_records=settings.block_records,
        mixing_blocks=settings.mixing_blocks,
        stored=stored,
    )


def describe_order(config: Config) -> str:
    """Return in words what decides, with seed and batch size, which samples a step sees."""
    settings = config.data
    if settings.sampler == "p_k":
        return f"p_k, {settings.identities_per_batch} x {settings.images_per_identity}"
    if settings.sampler == "class_balanced":
        return "class_balanced"
    if settings.order == "blocks":
        return f"blocks of {settings.block_records} records, {settings.mixing_blocks} mixed"
    return settings.order


def make_loader(config: Config, dataset: FaceDataset, world: World, device: torch.device) -> Loader:
    """Return this rank's source of micro-batches."""
    settings, train = config.data, config.train
    cores = cores_per_rank(world.local_size)
    decoder = choose_decoder(settings.decoder, device)
    worker_plan = plan_workers(
        settings.workers,
        settings.prefetch,
        measure(decoder, dataset, settings.image_size),
        device_type=device.type,
        cores=cores,
        batch_size=-(-train.global_batch_size // (train.accumulation * world.size)),
        image_size=settings.image_size,
    )
    log.info(worker_plan.reason)
    return Loader(
        dataset,
        image_size=settings.image_size,
        global_batch_size=train.global_batch_size,
        accumulation=train.accumulation,
        order=make_order(config, dataset),
        rank=world.rank,
        world_size=world.size,
        workers=worker_plan.workers,
        prefetch=worker_plan.prefetch,
        pin_memory=device.type == "cuda",
        cores=cores,
        replacement_seed=config.seed if settings.on_bad_record == "skip" else None,
        max_bad_share=settings.max_bad_share,
        decoder=decoder,
    )


def make_backbone(config: Config) -> nn.Module:
    """Return the network, in training mode, on the CPU."""
    settings = config.backbone
    backbone = build_backbone(
        settings.name,
        embedding_size=settings.embedding_size,
        dropout=settings.dropout,
        image_size=config.data.image_size,
        activation_checkpointing=settings.activation_checkpointing,
    )
    if settings.frozen_batch_norm:
        freeze_batch_norm(backbone)
    return backbone


def make_row_optimizer(config: Config) -> RowOptimizer:
    """Return the optimizer of the class centres: the backbone's, row by row."""
    update = config.optimizer
    if update.name == "sgd":
        own = {
            "momentum": update.momentum,
            "nesterov": update.nesterov,
            "momentum_dtype": _DTYPES[config.head.momentum],
        }
    else:
        own = {"betas": update.betas}
    return build_row_optimizer(update.name, weight_decay=update.weight_decay, **own)


def make_head(config: Config, dataset: FaceDataset, device: torch.device) -> PartialFC:
    """Return this rank's part of the classifier."""
    settings = config.head
    return PartialFC(
        config.backbone.embedding_size,
        dataset.num_classes,
        placement=settings.placement,
        sampling=settings.sampling,
        sample_rate=settings.sample_rate or 1.0,
        rebuild_every=settings.rebuild_every or 100,
        hard_share=settings.hard_share or 0.5,
        loss=build_loss(settings.loss.name, **settings.loss.options()),
        scale=settings.scale,
        inter_class_filter=settings.inter_class_filter,
        seed=config.seed,
        optimizer=make_row_optimizer(config),
        dense_update=settings.dense_update,
        block_bytes=None if settings.block_mib is None else settings.block_mib << 20,
        keep_bytes=None if settings.keep_mib is None else settings.keep_mib << 20,
        matmul_dtype=_DTYPES[settings.precision],
        device=device,
    )


def make_verifier(config: Config, world: World) -> Verifier:
    """Return the verification sets. Raises `ValueError` for one that does not exist."""
    settings = config.verification
    folder, train = settings.folder, config.data.train
    if folder is None:
        first = train[0] if isinstance(train, list) else train
        folder = None if is_url(first) else folder_of(first)
    return Verifier(
        settings.sets,
        folder=folder,
        image_size=config.data.image_size,
        batch_size=settings.batch_size,
        world=world,
    )


def identity(config: Config, dataset: FaceDataset) -> dict[str, Any]:
    """Return what a checkpoint and the run that resumes it must have in common."""
    return {
        "seed": config.seed,
        "train.global_batch_size": config.train.global_batch_size,
        "train.accumulation": config.train.accumulation,
        "backbone.name": config.backbone.name,
        "backbone.embedding_size": config.backbone.embedding_size,
        "data.image_size": config.data.image_size,
        "data.order and data.sampler": describe_order(config),
        "optimizer.name": config.optimizer.name,
        "head.momentum": config.head.momentum,
        "head.loss.name": config.head.loss.name,
        "classes": dataset.num_classes,
        "images": len(dataset),
    }


def dry_run(config: Config, world: World) -> None:
    """Check the whole run without starting it; print the resolved config and the plan."""
    device, reason = choose_device(config.train.device, world)
    check_batch(config, world)
    settings = config.data
    choose_decoder(settings.decoder, device)
    source = data_name(config)
    if settings.demo is not None and not Path(source).exists():
        images, classes = settings.demo.images, settings.demo.identities
        source += ", to be generated"
    else:
        dataset = prepare_dataset(config, world)
        images, classes = len(dataset), dataset.num_classes
        make_order(config, dataset)
        make_verifier(config, world)
    plan = make_plan(config, images)
    schedule = make_schedule(config.schedule, config.optimizer.lr, plan)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in make_backbone(config).parameters())
    batch = config.train.global_batch_size // config.train.accumulation
    first, last = shard_range(classes, world.size, 0)
    rows = classes if config.head.placement == "replicated" else last - first
    width = config.backbone.embedding_size * (config.head.loss.k or 1)
    state = make_row_optimizer(config).state(rows, width, "meta").values()
    mebibytes = (rows * width * 4 + sum(tensor.nbytes for tensor in state)) / 2**20
    points = sorted({0, schedule.warmup_steps, *(plan.total_steps * i // 10 for i in range(10))})
    lines = {
        "device": f"{device.type} ({reason}); {world.size} rank(s)",
        "data": f"{source}: {images:,} images of {classes:,} identities",
        "order": describe_order(config),
        "steps": f"{plan.total_steps:,} ({plan.steps_per_epoch:,.1f} an epoch)",
        "batch": f"{config.train.global_batch_size} images a step: {config.train.accumulation} "
        f"micro-batch(es) of {batch}, {-(-batch // world.size)} a rank",
        "verification": f"every {plan.verify_every:,} steps and at the end: "
        f"{', '.join(config.verification.sets) or 'no sets'}",
        "checkpoints": f"every {plan.save_every:,} steps and at the end",
        "backbone": f"{config.backbone.name}: {parameters:,} parameters",
        "head": f"{rows:,} of {classes:,} class centres a rank, {mebibytes:,.1f} MiB with "
        f"the optimizer's state, {config.head.placement}",
        "learning rate": ", ".join(f"{schedule.lr_at(at):.4g} at step {at:,}" for at in points),
    }
    print(dump_config(config))
    print("\n".join(f"{name:<15} {text}" for name, text in lines.items()))


if __name__ == "__main__":
    main()
