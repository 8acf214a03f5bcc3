"""From the config's section `data` to the dataset, the order of samples, and the loader."""

import json
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from data.augmentations.augment import Augmentation
from data.datasets.dataset import FaceDataset, ImageDataset, open_dataset
from data.datasets.synthetic import SyntheticImages
from data.demo.generate import make_demo_data
from data.loading.choose_decoder import choose_decoder, measure
from data.loading.loader import Batch, Loader
from data.loading.tuning import plan_workers, usable_cores
from data.order.class_orders import ClassBalancedOrder, FirstImagesOrder, PKOrder
from data.order.orders import BlockOrder, FileOrder, GlobalOrder, SampleOrder
from data.progress import progress_bar
from data.records.locations import LocationKind, expand, folder_of, is_url, location_kind, shown
from data.tools.unpack import LIST as UNPACKED_LIST
from recognition.config import Augment, Config, Data
from recognition.distributed import World, barrier

log = logging.getLogger(__name__)

CLASS_IMAGES: Final = 20  # of an identity, for its mean: more hardly move it


def build_dataset(settings: Data, world: World) -> FaceDataset:
    """Return the training set, generated first if it is the demo's.

    Raises `ValueError` when the counts that the config states are not those of the dataset.
    """
    dataset = _open_dataset(settings, world)
    name = dataset_name(settings)
    found = {"num_classes": dataset.num_classes, "num_images": len(dataset)}
    for key, value in found.items():
        stated = getattr(settings, key)
        if stated not in (None, value):
            raise ValueError(
                f"data.{key} is {stated} in the config, but {name} has {value}: is it the right "
                f"dataset? Fix the number, or leave data.{key} out"
            )
    log.info("%s: %d images of %d identities", name, len(dataset), dataset.num_classes)
    return dataset


def separate_classes(dataset: FaceDataset) -> Mapping[str, int]:
    """Return the classes of each dataset that has a head of its own, by name; empty if none has."""
    return dataset.separate if isinstance(dataset, ImageDataset) else {}


def _open_dataset(settings: Data, world: World) -> FaceDataset:
    if settings.synthetic is not None:
        counts = settings.synthetic.model_dump()
        return SyntheticImages(**counts, image_size=settings.image_size)
    if settings.demo is not None:
        folder = Path(dataset_name(settings))  # a single one, with a demo
        if world.is_main:
            with progress_bar(f"making {folder}", "image") as progress:
                make_demo_data(folder, **settings.demo.model_dump(), progress=progress)
        barrier()
    return open_dataset(
        locations(settings),
        merge=settings.merge,
        remap_labels=settings.remap_labels,
        cache_folder=settings.index_cache,
        list_root=settings.list_root,
    )


def stated_numbers(settings: Data) -> tuple[int, int, str] | None:
    """Return what the config says of data that is not here: images, identities, and a remark.

    None where the data itself can be counted, or must be because the config states no numbers.
    """
    missing = [
        str(location)
        for location in locations(settings)
        if not is_url(location) and not Path(location).exists() and not expand(location)
    ]
    if missing and settings.demo is not None:
        return settings.demo.images, settings.demo.identities, ", to be generated"
    if missing and settings.num_images is not None and settings.num_classes is not None:
        return (
            settings.num_images,
            settings.num_classes,
            f", as the config states; {', '.join(missing)} is not here: neither data nor "
            "verification sets are checked",
        )
    return None


def class_mapping_file(dataset: FaceDataset) -> dict[str, str]:
    """Return `classes.json`, where classes are not simply the labels of one dataset: name and text.

    Whoever deploys the network needs to know which class is which label or folder.
    """
    if dataset.class_mapping is None:
        return {}
    return {"classes.json": json.dumps(dataset.class_mapping, indent=0)}


def dataset_name(settings: Data) -> str:
    """Return what the config calls the training data, for messages."""
    if settings.synthetic is not None:
        return "synthetic identities"
    return ", ".join(map(shown, locations(settings)))


def locations(settings: Data) -> list[Path | str]:
    """Return where the training images are; nowhere if they are made up."""
    train = settings.train
    return train if isinstance(train, list) else [] if train is None else [train]


def build_order(settings: Data, dataset: FaceDataset, seed: int) -> SampleOrder:
    """Return the stream of samples. Raises `ValueError` for more identities than there are."""
    if settings.sampler == "class_balanced":
        return ClassBalancedOrder(dataset.labels, seed)
    if settings.sampler == "p_k":
        assert settings.identities_per_batch is not None, "the config checks it with p_k"
        assert settings.images_per_identity is not None, "the config checks it with p_k"
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


def describe_order(settings: Data) -> str:
    """Return in words what decides, with seed and batch size, which samples a step sees."""
    if settings.sampler == "p_k":
        return f"p_k, {settings.identities_per_batch} x {settings.images_per_identity}"
    if settings.sampler == "class_balanced":
        return "class_balanced"
    if settings.order == "blocks":
        return f"blocks of {settings.block_records} records, {settings.mixing_blocks} mixed"
    return settings.order


def build_loader(
    config: Config, dataset: FaceDataset, world: World, device: torch.device,
    order: SampleOrder | None = None,
) -> Loader:  # fmt: skip
    """Return this rank's source of micro-batches; it measures how many threads decoding needs.

    `order` is by default that of training.
    """
    settings, train = config.data, config.train
    cores = max(1, usable_cores() // world.local_size)  # of this machine, for each of its ranks
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
        order=order or build_order(settings, dataset, config.seed),
        rank=world.rank,
        world_size=world.size,
        workers=worker_plan.workers,
        prefetch=worker_plan.prefetch,
        pin_memory=device.type == "cuda",
        cores=cores,
        replacement_seed=config.seed if settings.on_bad_record == "skip" else None,
        max_bad_share=settings.max_bad_share,
        decoder=decoder,
        pack_hint=pack_hint(settings),
    )


def class_batches(
    config: Config, dataset: FaceDataset, world: World, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the first `CLASS_IMAGES` images of each identity, class by class, without augmentation.

    This rank's part of each batch, as `build_prepare` has it; the ranks' parts follow each other. A
    label is -1 where the image is not one of these: one that takes the place of a bad record, or
    that fills the last batch. Ranks have equally many batches.
    """
    order = FirstImagesOrder(dataset.labels, images_per_class=CLASS_IMAGES)
    loader = build_loader(config, dataset, world, device, order)
    plain = config.data.model_copy(update={"augment": Augment(flip=0.0)})
    prepare = build_prepare(config.model_copy(update={"data": plain}), device)
    steps = -(-order.count // config.train.global_batch_size)
    pieces = [(step, micro) for step in range(steps) for micro in range(config.train.accumulation)]
    with progress_bar("class means", "batch") as progress:
        for done, (piece, batch) in enumerate(zip(pieces, loader.batches(0, steps), strict=True)):
            is_first = torch.from_numpy(loader.spec(*piece).indices) == batch.indices
            labels = batch.labels.where(is_first & (batch.epochs == 0), -1)
            yield prepare(replace(batch, labels=labels))
            progress(done + 1, len(pieces))


def pack_hint(settings: Data) -> str:
    """Return how to write the training data once at `data.image_size`: commands, and a setting."""
    size, places = settings.image_size, locations(settings)
    if not places:
        return f"lower data.image_size, which is {size}: images are made when they are read"
    if any(map(is_url, places)) or (len(places) > 1 and settings.merge == "by_name"):
        # Packed one by one, datasets that share names would no longer share classes.
        return f"write the data once with scripts/pack_records.py --size {size} (docs/data.md)"
    remap = ["--remap-labels"] if settings.remap_labels else []
    commands, packed = [], []
    for location in places:
        kind, path = location_kind(location), Path(location)
        base = path.with_suffix("") if path.is_file() else folder_of(path)
        base = base if base.name.strip(".") else Path(os.path.abspath(base))
        source = Path(location)
        if kind is LocationKind.RECORDS:
            images = base.with_name(f"{base.name}-images")
            commands.append(["scripts/unpack_records.py", source, images, *remap])
            source = images / UNPACKED_LIST
        is_rooted = kind is LocationKind.LIST and settings.list_root is not None
        root = ["--root", settings.list_root] if is_rooted else []
        packed.append(base.with_name(f"{base.name}-{size}"))
        commands.append(
            ["scripts/pack_records.py", source, packed[-1], "--size", size, *root, *remap]
        )
    lines = " && ".join(shlex.join(["python", *map(str, command)]) for command in commands)
    names = ", ".join(map(str, packed))
    value = names if len(packed) == 1 else f"[{names}]"
    return f"pack them once at {size}x{size}: {lines}; then set data.train: {value}"


def build_prepare(config: Config, device: torch.device) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Return what turns a batch on the host into augmented images and labels on `device`.

    Images become float32 [b, 3, S, S] in [-1, 1], labels int64 [b].
    """
    augmentation = Augmentation(**config.data.augment.model_dump(), seed=config.seed)

    def prepare(batch: Batch) -> tuple[Tensor, Tensor]:
        batch = batch.to(device)
        return augmentation(batch), batch.labels

    return prepare
