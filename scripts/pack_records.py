"""Pack image files into records: a folder with one sub-folder per identity, or a list of images.

A list has lines `path<tab>label` or `path,label`, or is an MXNet list (.lst). After an interruption
the same command resumes and writes the same bytes.
"""

import argparse
from pathlib import Path

from data.progress import progress_bar
from data.tools.encoded_image import ENCODINGS
from data.tools.pack import SKIPPED, PackOptions, pack_records
from data.tools.record_set import LAYOUTS, Layout
from scripts.common.command import command, exit_with, make_parser
from scripts.common.record_options import add_remap, add_sharding, sharding_of

parser = make_parser(__doc__)
add = parser.add_argument
add("source", type=Path, help="the folder or the list")
add("output", type=Path, help="the folder to make")
add("--root", type=Path, help="folder that a list's paths are relative to (default: the list's)")
add("--size", type=int, help="resize images to this many pixels per side")
add("--encode", choices=ENCODINGS, help="re-encode every image (default: keep its bytes)")
add("--quality", type=int, default=95, help="JPEG quality")
add(
    "--layout",
    choices=LAYOUTS,
    help="identity: sorted, as the public sets are (the default); plain: in the list's order",
)
add("--shuffle", type=int, metavar="SEED", help="shuffle with this seed; needs --layout plain")
add_sharding(parser)
add_remap(parser)
add("--skip-bad", action="store_true", help=f"leave out bad images and list them in {SKIPPED}")
add(
    "--workers",
    type=int,
    help="processes to use (default: one per CPU if images are re-encoded, otherwise one)",
)


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Pack, and print what was written."""
    layout: Layout = options.layout or ("identity" if options.shuffle is None else "plain")
    pack = PackOptions(
        layout=layout,
        shuffle=options.shuffle,
        sharding=sharding_of(options),
        size=options.size,
        encoding=options.encode,
        quality=options.quality,
    )
    with progress_bar(str(options.output), "image") as progress:
        report = pack_records(
            options.source,
            options.output,
            pack,
            root=options.root,
            remap_labels=options.remap_labels,
            skip_bad=options.skip_bad,
            workers=options.workers,
            progress=progress,
        )
    done = f"{report.images} images of {report.classes} identities"
    if not report.made:
        print(f"{options.output} was packed before and is complete: {done}")
        return
    resumed = f", of them {report.resumed_at} by an earlier run" if report.resumed_at else ""
    skipped = f"; left out {report.skipped}, see {SKIPPED}" if report.skipped else ""
    print(f"{options.output} holds {done}{resumed}{skipped}")


if __name__ == "__main__":
    exit_with(main, "interrupted; the same command resumes where it stopped")
