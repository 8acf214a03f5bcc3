"""What `check_records` can find, how grave it is, and what to do about it."""

from typing import Final

from data.tools.findings import Kind

_WRITE_AGAIN = "get the file again from its source; if there is none, write it anew without them"
_INDEX_AGAIN = "get the .idx that belongs to this .rec, or delete it to have it rebuilt"

KINDS: Final[dict[str, Kind]] = {
    # the file
    "unreadable": Kind(
        "error",
        "stretches of bytes that the disk refuses to give",
        "the disk or its connection is failing: copy the file from its source to another one",
    ),
    "damage": Kind("error", "stretches of bytes that belong to no whole record", _WRITE_AGAIN),
    # the index
    "index_line": Kind("error", "lines of the .idx that are not key<tab>offset", _INDEX_AGAIN),
    "index_repeated_key": Kind("error", "keys that the .idx has more than once", _INDEX_AGAIN),
    "index_repeated_offset": Kind(
        "error", "records that the .idx has under more than one key", _INDEX_AGAIN
    ),
    "index_outside": Kind(
        "error",
        "entries of the .idx beyond the end of the file",
        "the .rec is cut short, or the .idx is another file's: get both again",
    ),
    "index_elsewhere": Kind(
        "error", "entries of the .idx that point to where no record starts", _INDEX_AGAIN
    ),
    "index_lost": Kind("error", "entries of the .idx whose records are damaged", _WRITE_AGAIN),
    "index_missing": Kind(
        "error", "records that the .idx does not name, so that nobody reads them", _INDEX_AGAIN
    ),
    "no_index": Kind(
        "note",
        "files without an .idx",
        "nothing: the index is rebuilt in one pass over the file when it is opened",
    ),
    "other_id": Kind(
        "warning",
        "records with another id in their header than their key in the .idx",
        "where most agree, these few entries may be swapped or out of date: "
        "delete the .idx to have it rebuilt, and see whether this is gone",
    ),
    # header record and key ranges
    "images_missing": Kind(
        "error", "images that the header record promises and no key leads to", _WRITE_AGAIN
    ),
    "beyond_end": Kind(
        "warning",
        "records with keys beyond the end that the header record states, which are left out",
        "write the file again, so that its header record states the right numbers",
    ),
    "range": Kind(
        "warning",
        "key ranges of identities that do not fit the images",
        "labels are taken from the images; other software may go by the ranges: write the file "
        "again, with the images sorted by identity",
    ),
    "property": Kind(
        "warning",
        "property files with another number of identities than the images have",
        "take the number from this report, or find out which images are missing",
    ),
    # records and labels
    "no_header": Kind(
        "error", "records too short for the header of an image", "write the file again without them"
    ),
    "no_image": Kind(
        "error", "records of images without an image", "write the file again without them"
    ),
    "label": Kind(
        "error",
        "labels that are no class number",
        "write the file again with whole numbers from 0 to 16,777,215 as labels",
    ),
    "label_gap": Kind(
        "error",
        "labels that no image has, below the largest",
        "set remap_labels to number the classes afresh, or write the file again",
    ),
    # images
    "undecodable": Kind(
        "error",
        "images that cannot be decoded to the end",
        "replace these images, or write the file again without them",
    ),
    "odd_size": Kind(
        "warning",
        "images of another size than most",
        "they are resized when read, and stretched if not square: align them as the others were",
    ),
    "many_sizes": Kind(
        "note",
        "sets of images with no usual size",
        "nothing, if these are photos to be cut out: images are resized when read, and stretched "
        "if not square",
    ),
    "label_noise": Kind(
        "warning",
        "identical images with different labels",
        "at most one of the labels is right: look at them, then remove the wrong ones or merge "
        "the identities",
    ),
    "duplicate": Kind(
        "note",
        "further copies of an image with the same label",
        "nothing: they only weigh that image more; remove them to save time",
    ),
}
