"""Weight files: reading them, loading them into a backbone, and finding the backbone they fit."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.build import BACKBONES, build_backbone
from backbones.families import as_published, likely_family
from backbones.plain_pickle import Call, WeightFileError
from backbones.weight_file import WeightFile, open_weight_file

log = logging.getLogger(__name__)

_CONTAINERS = ("state_dict", "model_state_dict", "model", "backbone")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")
_MAX_DEPTH = 3  # of containers in one another
_MAX_NAME = 200  # characters
_SHOWN = 3  # differences of each kind in a message


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file written by `torch.save`, with its tensors on the CPU.

    It may lie in one of `_CONTAINERS` of a training checkpoint, and all of its names may begin with
    one of `_PREFIXES`, or some with `backbone.`: a line in the log says what was left out. Reading
    calls nothing that the file asks for, and takes at most its size in memory. A flipped bit is
    found, except in files of torch before 1.6, which have no checksums.

    Raises `ValueError` if there is no such file, if it is damaged, or if it holds no weights.
    """
    try:
        if not path.exists():
            raise WeightFileError("it does not exist")
        if not path.is_file():
            raise WeightFileError("it is not a file")
        with open_weight_file(path) as file:
            items, origin = _find_state_dict(file.content)
            weights = {name: _read_tensor(file, name, item) for name, item in items.items()}
            has_checksums = file.has_checksums
    except WeightFileError as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or str(error)
    except Exception as error:  # damage causes many kinds of errors, in zipfile, pickle and torch
        kind, words = type(error).__name__, " ".join(str(error)[:200].split())
        reason = f"it is damaged ({kind}{': ' if words else ''}{words})"
    else:
        if origin:
            log.info("%s: weights taken from %s", path, origin)
        if not has_checksums:
            log.warning("%s has no checksums, which torch writes since 1.6: not verified", path)
        return weights
    raise ValueError(
        f"{path} cannot be read as weights: {reason}; expected a state dict written by torch.save"
    )


def _find_state_dict(content: object) -> tuple[dict[str, object], str]:
    """Return the state dict in a file's content under its plain names, and where it was.

    That is in words, and empty if the content is the state dict itself.
    """
    path: list[str] = []
    while isinstance(content, dict) and len(path) < _MAX_DEPTH:
        key = next((key for key in _CONTAINERS if isinstance(content.get(key), dict)), None)
        if key is None:
            break
        content = content[key]
        path.append(key)
    if not isinstance(content, dict) or not content:
        found = "nothing" if content == {} else f"a {type(content).__name__}"
        raise WeightFileError(f"it holds {found}")
    weights, prefix = _without_prefix(content)
    origin = [f"its entry {'.'.join(path)}"] if path else []
    if prefix:
        origin.append(f"{len(weights)} of {len(content)} names, which begin with {prefix}")
    return weights, ", ".join(origin)


def _without_prefix(weights: dict[str, object]) -> tuple[dict[str, object], str]:
    """Return weights without the prefixes that wrappers add to their names, and these."""
    stripped = ""
    while True:
        for prefix in _PREFIXES:
            inner = {
                name.removeprefix(prefix): item
                for name, item in weights.items()
                if name.startswith(prefix)
            }
            # A network with a head has names of both.
            if inner and (len(inner) == len(weights) or prefix == "backbone."):
                weights, stripped = inner, stripped + prefix
                break
        else:
            return weights, stripped


def _read_tensor(file: WeightFile, name: str, item: object) -> Tensor:
    if len(name) > _MAX_NAME or not name.isprintable():
        raise WeightFileError(f"no layer can have its name {name[:40]!r}")
    if not file.is_tensor(item):
        kind = item.function if isinstance(item, Call) else type(item).__name__
        raise WeightFileError(
            f"{name!r} is {str(kind)[:80]}, expected a tensor: save only backbone.state_dict()"
        )
    return file.tensor(item)


def load_weights(backbone: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy `weights` into `backbone`: all of them or, if anything does not match, none.

    Weights of the families in `backbones.families` are renamed first. Raises `ValueError` with
    `source`, the first differences in names and shapes, the embedding sizes if they differ, and
    which backbone's they are.
    """
    weights = _as_published(weights, source)
    _check_match(backbone.state_dict(), weights, source)
    backbone.load_state_dict(weights)


def _check_match(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str
) -> None:
    """Raise `ValueError` unless two state dicts have the same names and shapes."""
    differences = {
        "missing": [name for name in expected if name not in weights],
        "unknown": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {list(weights[name].shape)} instead of {list(expected[name].shape)}"
            for name in expected
            if name in weights and weights[name].shape != expected[name].shape
        ],
        "of another type": [
            f"{name} {weights[name].dtype} instead of {expected[name].dtype}"
            for name in expected
            if name in weights
            and weights[name].is_floating_point() != expected[name].is_floating_point()
        ],
    }
    if any(differences.values()):
        size, expected_size = _embedding_size(weights), _embedding_size(expected)
        sizes = f"; embedding_size is {size}, expected {expected_size}"
        advice = "build the backbone of these weights"
        found = [text for texts in differences.values() for text in texts]
        if len(found) == 1 and found[0].startswith("fc.weight [") and size == expected_size:
            advice += " for their image size (--image-size of a command, data.image_size of a run)"
        raise ValueError(
            f"{source} does not match this backbone: {_summary(differences)}"
            f"{sizes if size != expected_size else ''}; {_what_they_are(weights, expected)}{advice}"
        )


def build_for_weights(
    weights: Mapping[str, Tensor], source: str, *, image_size: int = 112
) -> tuple[str, nn.Module]:
    """Return the backbone whose state dict has the names in `weights`: its name, and it loaded.

    The embedding size follows from the shapes. Weights of the families in `backbones.families` are
    renamed, and their first layer turned to RGB. Raises `ValueError` with `source` if no backbone
    has these names, or if the shapes do not match `image_size`.
    """
    weights = _as_published(weights, source)
    name = _backbone_of(weights)
    if name is None:
        family = likely_family(weights)
        raise ValueError(
            f"{source} does not have the weights of any of {', '.join(BACKBONES)}"
            f"{f': they look like {family}' if family else ''}: "
            f"its {len(weights)} names begin with {', '.join(list(weights)[:_SHOWN]) or 'nothing'}"
        )
    build = partial(
        build_backbone, name, embedding_size=_embedding_size(weights), image_size=image_size
    )
    # Without memory first: one false shape in a small file could ask for many gigabytes.
    with torch.device("meta"):
        _check_match(build().state_dict(), weights, source)
    backbone = build()
    load_weights(backbone, weights, source)
    return name, backbone


def _as_published(weights: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
    found, words = as_published(weights, source)
    if words:
        log.info("%s: %s", source, words)
    return found


def _backbone_of(weights: Mapping[str, Tensor]) -> str | None:
    """Return the name of the backbone whose state dict has the names of weights, if any."""
    for name in BACKBONES:
        with torch.device("meta"):
            names = build_backbone(name).state_dict().keys()
        if names == weights.keys():
            return name
    return None


def _what_they_are(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    if weights.keys() == expected.keys():
        return ""  # the same backbone with other sizes
    name = _backbone_of(weights)
    if name is not None:
        return f"these are of {name}; "
    family = likely_family(weights)
    return f"they look like {family}; " if family else ""


def _embedding_size(weights: Mapping[str, Tensor]) -> int:
    """Return the size of the last layer, a batch norm in every backbone; 0 if there is none."""
    name = _backbone_of(weights)
    if name is not None:  # in its order: a file of safetensors has its names sorted
        with torch.device("meta"):
            weights = {key: weights[key] for key in build_backbone(name).state_dict()}
    sizes = [value.numel() for name, value in weights.items() if name.endswith(".running_mean")]
    return sizes[-1] if sizes else 0


def _summary(differences: Mapping[str, list[str]]) -> str:
    parts = []
    for kind, items in differences.items():
        if items:
            more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            parts.append(f"{len(items)} {kind}: {', '.join(items[:_SHOWN])}{more}")
    return "; ".join(parts)
