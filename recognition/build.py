"""From the sections of a config to the parts of a run: backbone, head, optimizers, trainer.

What depends on the dataset comes in as numbers, so nothing here needs one.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from backbones import (
    WeightAverage,
    build_backbone,
    freeze_batch_norm,
    freeze_until,
    load_weights,
    read_weights,
)
from recognition import __version__
from recognition.batch_source import BatchSource
from recognition.checkpoint import Checkpoints, backbone_file
from recognition.config import Config, Optimizer
from recognition.config_file import config_values
from recognition.distributed import World, from_main, shard_range
from recognition.failure import StopSignals
from recognition.head import PartialFC, RowOptimizer, SeparateHeads, build_row_optimizer
from recognition.head.class_means import start_from_class_means
from recognition.head.online_softmax.settings import KEEP_BYTES, STAGE_BYTES, budget
from recognition.head.optim.storage import STORAGE, zero_rows
from recognition.head.published_centres import PublishedCentres
from recognition.head.separate_heads import head_seed
from recognition.optimizer import make_optimizer
from recognition.plan import Plan, make_backbone_schedule, make_sample_rate, make_schedule
from recognition.precision import HeadPrecision, Precision, choose_head_precision
from recognition.telemetry import Telemetry
from recognition.trainer import Trainer, Verify

log = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_network(config: Config) -> nn.Module:
    """Return the backbone, in training mode, on the CPU."""
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
    if isinstance(settings.freeze_until, str):
        freeze_until(backbone, settings.freeze_until)
    return backbone


def load_initial_weights(backbone: nn.Module, init_from: Path, weights: str = "raw") -> None:
    """Load what `init_from` means: a weight file, a checkpoint, or a run's latest checkpoint.

    Of these two, `weights` takes those that were trained, `raw`, or their moving average, `ema`.
    Raises `ValueError` if there is none, or if its weights are not those of this backbone.
    """
    if not os.path.exists(init_from):  # Path.exists raises an error for a name that is too long
        raise ValueError(
            f"init_from: {init_from} does not exist, expected a run folder, a checkpoint folder or "
            "a file of weights"
        )
    file = backbone_file(init_from, weights=weights)
    load_weights(backbone, read_weights(file), str(file))
    log.info("backbone weights from %s", file)


def optimizer_options(settings: Optimizer) -> dict[str, Any]:
    """Return the options that an optimizer has for backbone and class centres alike."""
    own: dict[str, dict[str, Any]] = {
        "sgd": {"momentum": settings.momentum, "nesterov": settings.nesterov},
        "adamw": {"betas": settings.betas},
    }
    return {"weight_decay": settings.weight_decay, **own[settings.name]}


def build_centre_optimizer(config: Config) -> RowOptimizer:
    """Return the optimizer of the class centres: the backbone's, row by row."""
    options = optimizer_options(config.optimizer)
    if config.optimizer.name == "sgd":
        options["momentum_dtype"] = STORAGE[config.head.momentum or config.head.storage]
    return build_row_optimizer(config.optimizer.name, **options)


def choose_products(
    config: Config, device: torch.device, saved: Mapping[str, Any] | None = None
) -> HeadPrecision:
    """Return the arithmetic of the head's products; `saved` is that of `build_trainer`."""
    known = (saved or {}).get("head_precision")
    return choose_head_precision(
        config.head.precision,
        device,
        samples=config.train.global_batch_size // config.train.accumulation,
        size=config.backbone.embedding_size,
        saved=known if isinstance(known, Mapping) else None,
    )


def agree_on_products(
    config: Config, device: torch.device, world: World, saved: Mapping[str, Any] | None
) -> str:
    """Return rank 0's choice of `choose_products`, `fp32` or `bf16`, and log it. Collective."""
    # What one core measures, another may not.
    choice = from_main(choose_products(config, device, saved) if world.is_main else None)
    assert choice is not None, "rank 0 chooses"
    log.info("head: matrix products in %s", choice.reason)
    if choice.slow and world.is_main:
        log.warning(
            "head.precision is bf16, which is slower on this CPU (%s): set it to auto, or to fp32",
            choice.reason,
        )
    return choice.name


def build_head(
    config: Config, classes: int | Mapping[str, int], device: torch.device, plan: Plan,
    precision: str, centres: PublishedCentres | None = None,
) -> PartialFC | SeparateHeads:  # fmt: skip
    """Return this rank's part of the classifier: one head, or one for each dataset by its name.

    Those of datasets differ in their number of classes, by which they divide the memory budgets of
    a rank, and in their seed. `precision` is that of the products, fp32 or bf16. `centres` are for
    one head, to start from.
    """
    settings = config.head
    optional = {
        "sample_rate": make_sample_rate(settings, plan),
        "rebuild_every": settings.rebuild_every,
        "hard_share": settings.hard_share,
        "block_bytes": None if settings.block_mib is None else settings.block_mib << 20,
    }
    stated: dict[str, Any] = {n: value for n, value in optional.items() if value is not None}
    keep_bytes = None if settings.keep_mib is None else settings.keep_mib << 20
    keep_bytes = budget(keep_bytes, KEEP_BYTES, device)

    def make(num_classes: int, total: int, number: int) -> PartialFC:
        return PartialFC(
            config.backbone.embedding_size,
            num_classes,
            placement=settings.placement,
            sampling=settings.sampling,
            loss=settings.loss.build(),
            scale=settings.scale,
            inter_class_filter=settings.inter_class_filter,
            storage=settings.storage,
            seed=head_seed(config.seed, number),
            optimizer=build_centre_optimizer(config),
            update=settings.update,
            keep_bytes=keep_bytes * num_classes // total,
            stage_bytes=STAGE_BYTES * num_classes // total,
            matmul_dtype=_DTYPES[precision],
            device=device,
            **stated,
        )

    if isinstance(classes, int):
        head = make(classes, classes, 0)
        if centres is not None:
            centres.load(head, config.seed)
        return head
    total = sum(classes.values())
    heads = {name: make(count, total, n) for n, (name, count) in enumerate(classes.items())}
    return SeparateHeads(heads, config.data.loss_weights)


def initial_centres(config: Config, classes: int | Mapping[str, int]) -> PublishedCentres | None:
    """Return the centres that `head.init_from` names, compared with the data; None without it.

    Raises `ValueError` if they are not of as many classes, or of other embeddings.
    """
    folder = config.head.init_from
    if folder is None:
        return None
    if not isinstance(classes, int):
        raise ValueError(
            "head.init_from is for one head, and data.merge: separate makes one for each dataset"
        )
    centres = PublishedCentres.open(folder)
    width = config.backbone.embedding_size * config.head.loss.build().centres_per_class
    centres.check(classes, width)
    return centres


def check_start(config: Config, classes: int | Mapping[str, int]) -> None:
    """Raise `ValueError` where a new run cannot start from what its config names.

    `classes` is as for `build_head`. The numbers of the centres are not looked at.
    """
    if config.init_from is not None:
        load_initial_weights(build_network(config), config.init_from, config.init_weights)
    initial_centres(config, classes)


def load_class_means(trainer: Trainer, batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> None:
    """Start the head of a new run from class means; see `start_from_class_means`. Collective."""

    def embed(images: Tensor) -> Tensor:
        with trainer.precision.autocast():
            embeddings: Tensor = trainer.backbone(images)
        return embeddings.float()

    started = time.perf_counter()
    trainer.backbone.eval()
    count = start_from_class_means(trainer.head, embed, batches, seed)
    trainer.backbone.train()
    log.info(
        "class centres of %d of %d classes from the means of embeddings, in %.1f s; the others "
        "are random", count, trainer.head.num_classes, time.perf_counter() - started,
    )  # fmt: skip


def run_identity(
    config: Config,
    order: str,
    num_classes: int,
    num_images: int,
    separate: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return what a checkpoint and the run that resumes it must have in common.

    `order` says which samples a step sees, given the seed and the batch size; `separate` has the
    classes of each dataset with a head of its own, by name.
    """
    until = config.backbone.freeze_until  # steps may change, like a learning rate
    return {
        "seed": config.seed,
        "train.global_batch_size": config.train.global_batch_size,
        "train.accumulation": config.train.accumulation,
        "backbone.name": config.backbone.name,
        "backbone.embedding_size": config.backbone.embedding_size,
        "data.image_size": config.data.image_size,
        "data.order and data.sampler": order,
        "optimizer.name": config.optimizer.name,
        "head.storage": config.head.storage,
        "head.momentum": config.head.momentum or config.head.storage,
        "head.loss.name": config.head.loss.name,
        "classes": num_classes,
        "images": num_images,
        "backbone.freeze_until": until if isinstance(until, str) else None,
        "heads": ", ".join(f"{name} of {count} classes" for name, count in separate.items())
        or None,
    }


def build_telemetry(config: Config, world: World, plan: Plan) -> Telemetry:
    """Return what writes the run's figures. Raises `ValueError` for a logger not installed."""
    return Telemetry(
        config.output,
        world=world,
        total_steps=plan.total_steps,
        loggers=config.log.loggers,
        settings=config_values(config),
    )


def build_trainer(
    config: Config,
    plan: Plan,
    *,
    world: World,
    device: torch.device,
    backbone: nn.Module,
    source: BatchSource,
    prepare: Callable[[Any], tuple[Tensor, Tensor]],
    verify: Verify,
    checkpoints: Checkpoints,
    telemetry: Telemetry,
    signals: StopSignals,
    identity: Mapping[str, Any],  # that of `run_identity`
    separate: Mapping[str, int] = MappingProxyType({}),  # as there
    saved: Mapping[str, Any] | None = None,  # metadata of the checkpoint that the run resumes
) -> Trainer:
    """Return the trainer, its head and optimizer built. Collective."""
    precision = Precision(config.train.precision, device)
    if precision.caution and world.is_main:
        log.warning(precision.caution)
    products = agree_on_products(config, device, world, saved)
    classes = separate or identity["classes"]
    centres = None if saved is not None else initial_centres(config, classes)
    return Trainer(
        world=world,
        device=device,
        backbone=backbone,
        # Refused before the head is built: drawing ten million centres takes minutes.
        schedule=make_schedule(config.schedule, config.optimizer.lr, plan),
        backbone_schedule=make_backbone_schedule(config, plan),
        head=build_head(config, classes, device, plan, products, centres),
        optimizer=make_optimizer(
            config.optimizer.name,
            backbone,
            lr=config.optimizer.lr,
            fused=device.type == "cuda",
            **optimizer_options(config.optimizer),
        ),
        sample_rate=make_sample_rate(config.head, plan),
        plan=plan,
        source=source,
        prepare=prepare,
        verify=verify,
        precision=precision,
        checkpoints=checkpoints,
        telemetry=telemetry,
        signals=signals,
        global_batch_size=config.train.global_batch_size,
        accumulation=config.train.accumulation,
        clip_norm=config.optimizer.clip_norm,
        log_every=config.log.every_steps,
        histograms_every=config.log.histograms_every,
        seed=config.seed,
        compile_backbone=config.train.compile,
        identity=identity,
        metadata=_run_metadata(config, products, device),
        average=None if config.train.ema is None else WeightAverage(backbone, config.train.ema),
        best_figure=config.checkpoint.best,
    )


def _run_metadata(config: Config, products: str, device: torch.device) -> dict[str, Any]:
    return {
        "config": config_values(config),
        "head_precision": {"name": products, "device": device.type},
        "versions": {"torch": torch.__version__, "partialfc": __version__},
    }


def describe_model(
    config: Config, classes: int | Mapping[str, int], world: World, device: torch.device
) -> dict[str, str]:
    """Return backbone and head in words, with their sizes, for `--dry-run`.

    `classes` is as for `build_head`.
    """
    with torch.device("meta"):
        weights = list(build_network(config).parameters())
    parameters = sum(weight.numel() for weight in weights)
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    by_dataset = {"": classes} if isinstance(classes, int) else classes
    num_classes = sum(by_dataset.values())
    shards = [shard_range(count, world.size, 0) for count in by_dataset.values()]
    is_whole = config.head.placement == "replicated"
    rows = num_classes if is_whole else sum(last - first for first, last in shards)
    width = config.backbone.embedding_size * config.head.loss.build().centres_per_class
    storage = config.head.storage
    tensors = build_centre_optimizer(config).state(rows, width, "meta")
    tensors |= zero_rows("weight", rows, width, STORAGE[storage], "meta")
    size = sum(tensor.nbytes for tensor in tensors.values())
    ema = config.train.ema
    average = "" if ema is None else f", and their moving average with decay {ema:g}"
    stage = config.backbone.freeze_until
    frozen = f", {trained:,} trained: frozen until {stage}" if isinstance(stage, str) else ""
    return {
        "backbone": f"{config.backbone.name}: {parameters:,} parameters{frozen}{average}",
        "head": f"{rows:,} of {num_classes:,} class centres per rank in {storage}, "
        f"{size / 2**20:,.1f} MiB with the optimizer's state, {size // max(rows, 1):,} bytes per "
        f"class, {config.head.placement}; matrix products in "
        + choose_products(config, device).reason,
        **_describe_heads(config, {} if isinstance(classes, int) else classes),
    }


def _describe_heads(config: Config, separate: Mapping[str, int]) -> dict[str, str]:
    if not separate:
        return {}
    weights = config.data.loss_weights or [1.0] * len(separate)
    heads = [
        f"{name} ({count:,} identities, weight {weight:g})"
        for (name, count), weight in zip(separate.items(), weights, strict=True)
    ]
    return {"heads": ", ".join(heads)}
