"""What a check can find, how serious it is, and what to do about it."""

from typing import Final

from data.tools.findings import Kind

_WRITE_AGAIN = "get the file again from its source; if there is none, write it again without them"
_INDEX_AGAIN = "get the .idx that belongs to this .rec, or delete it to have it rebuilt"
_LEAVE_OUT = "write the file again without them"

# Title and what to do, by name; in the order of the report.
_ERRORS = {
    "unreadable": (
        "pages of 4096 bytes that the disk cannot read",
        "the disk or its connection is failing: copy the file from its source to another one",
    ),
    "damage": ("byte ranges that belong to no whole record", _WRITE_AGAIN),
    "index_line": ("lines of the .idx that are not key<tab>offset", _INDEX_AGAIN),
    "index_repeated_key": ("keys that the .idx has more than once", _INDEX_AGAIN),
    "index_repeated_offset": ("records that the .idx has under more than one key", _INDEX_AGAIN),
    "index_outside": (
        "entries of the .idx beyond the end of the file",
        "the .rec is truncated, or the .idx is another file's: get both again",
    ),
    "index_elsewhere": ("entries of the .idx that point to where no record starts", _INDEX_AGAIN),
    "index_lost": ("entries of the .idx whose records are damaged", _WRITE_AGAIN),
    "index_missing": ("records that the .idx does not name, so nobody reads them", _INDEX_AGAIN),
    "images_missing": (
        "images that the header record promises and no key leads to", _WRITE_AGAIN,
    ),
    "no_header": ("records too short for the header of an image", _LEAVE_OUT),
    "no_image": ("records of images without an image", _LEAVE_OUT),
    "label": (
        "labels that are not a class number",
        "write the file again with whole numbers from 0 to 16,777,215 as labels",
    ),
    "label_gap": (
        "labels that no image has, below the largest",
        "set remap_labels to renumber the classes, or write the file again",
    ),
    "undecodable": (
        "images that cannot be decoded to the end",
        "replace these images, or write the file again without them",
    ),
}  # fmt: skip
_WARNINGS = {
    "other_id": (
        "records whose header has another id than their key in the .idx",
        "where most agree, these few entries may be swapped or out of date: delete the .idx to "
        "have it rebuilt, and check again",
    ),
    "beyond_end": (
        "records with keys beyond the end that the header record states, which are left out",
        "write the file again, so that its header record states the right numbers",
    ),
    "range": (
        "key ranges of identities that do not fit the images",
        "labels are taken from the images; other software may go by the ranges: write the file "
        "again, with the images sorted by identity",
    ),
    "property": (
        "property files with another number of identities than the images have",
        "take the number from this report, or find out which images are missing",
    ),
    "odd_size": (
        "images of another size than most",
        "they are resized when read, and stretched if not square: align them as the others were",
    ),
    "label_noise": (
        "identical images with different labels",
        "at most one of the labels is right: look at them, then remove the wrong ones or merge "
        "the identities",
    ),
}
_NOTES = {
    "no_index": (
        "files without an .idx",
        "nothing: the index is rebuilt in one pass over the file when it is opened",
    ),
    "many_sizes": (
        "sets of images with no usual size",
        "nothing, if these are photos to cut faces from: images are resized when read, and "
        "stretched if not square",
    ),
    "duplicate": (
        "further copies of an image with the same label",
        "nothing: they only give that image more weight; remove them to save time",
    ),
}

KINDS: Final[dict[str, Kind]] = {
    **{name: Kind("error", *texts) for name, texts in _ERRORS.items()},
    **{name: Kind("warning", *texts) for name, texts in _WARNINGS.items()},
    **{name: Kind("note", *texts) for name, texts in _NOTES.items()},
}
