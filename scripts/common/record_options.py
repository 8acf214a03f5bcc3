"""Options and results that the commands for records share."""

import argparse
from pathlib import Path

from data.records.shards import RECORDS, find_records
from data.tools.record_set import Sharding, parse_bytes


def add_record_files(parser: argparse.ArgumentParser) -> None:
    """Add `records`, which names one or more files of one dataset."""
    help_text = f"the files of one dataset, each {RECORDS}"
    parser.add_argument("records", type=Path, nargs="+", help=help_text)


def record_files(options: argparse.Namespace) -> list[Path]:
    """Return the files that `records` names; raises `DatasetError`."""
    return [file for location in options.records for file in find_records(location)]


def add_sharding(parser: argparse.ArgumentParser) -> None:
    """Add `--shards` and `--shard-size`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--shards", type=int, help="split into this many files train-00000.rec …")
    group.add_argument(
        "--shard-size", metavar="SIZE", help="split into files of at most this size, such as 2G"
    )


def sharding_of(options: argparse.Namespace) -> Sharding:
    """Return what the options of `add_sharding` ask for; raises `ValueError` for a bad size."""
    size = None if options.shard_size is None else parse_bytes(options.shard_size)
    return Sharding(options.shards, size)


def add_remap(parser: argparse.ArgumentParser) -> None:
    """Add `--remap-labels`."""
    parser.add_argument(
        "--remap-labels", action="store_true", help="renumber the classes if the labels have gaps"
    )


def print_written(output: Path, counts: tuple[int, int], remark: str) -> None:
    """Say that `output` holds so many images and classes, and end with `remark`."""
    print(f"{output} holds {counts[0]} images of {counts[1]} identities{remark}")
