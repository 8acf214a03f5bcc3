"""The model card of an export: `README.md` in the form that model hubs read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final

import yaml

from recognition.inference.description import Description, Threshold
from recognition.inference.measured import FARS, Measurements

TO_FILL_IN: Final = "TO BE FILLED IN"

# What of a run's config someone needs to train the same network.
_RECIPE: Final = ("backbone", "head", "optimizer", "schedule", "train", "seed")
# Probabilities; without one, the strength of a change means nothing.
_AUGMENTATIONS: Final = (
    "flip", "mask", "crop", "colour", "grey", "blur", "low_resolution", "jpeg", "cutout"
)  # fmt: skip


@dataclass(frozen=True)
class Card:
    """What a card states besides its fixed words."""

    name: str
    description: Description
    differences: Mapping[str, float]  # of a file's embeddings from the network's, relative
    measured: Mapping[str, Measurements] = field(default_factory=dict)  # by file
    config: Mapping[str, Any] | None = None  # of the run; None for bare weights
    facts: Mapping[str, Any] = field(default_factory=dict)  # step, classes and so on

    def text(self) -> str:
        """Return the card as Markdown with a head of YAML."""
        head = yaml.safe_dump(self._head(), sort_keys=False, allow_unicode=True)
        parts = [f"---\n{head}---\n\n# {self.name}\n", *self._parts()]
        return "\n".join(parts)

    def _head(self) -> dict[str, Any]:
        head: dict[str, Any] = {
            "library_name": "partialfc",
            "pipeline_tag": "image-feature-extraction",
            "tags": ["face-recognition", "face-verification", "onnx", "safetensors"],
            # Whoever publishes the files replaces both by what the training data allows.
            "license": "other",
            "license_name": TO_FILL_IN,
        }
        if names := self._data():
            head["datasets"] = names
        if results := [one for one in self._first().sets if one.accuracy is not None]:
            entries = [
                {
                    "task": {"type": "face-verification", "name": "Face verification"},
                    "dataset": {"type": one.set, "name": one.set},
                    "metrics": [{"type": "accuracy", "value": one.accuracy}],
                }
                for one in results
            ]
            head["model-index"] = [{"name": self.name, "results": entries}]
        return head

    def _first(self) -> Measurements:
        return next(iter(self.measured.values()), Measurements((), (), flip=False))

    def _data(self) -> list[str]:
        """Return the names of the training data, without the folders that they lie in."""
        train = (self.config or {}).get("data", {}).get("train")
        locations = train if isinstance(train, list) else [train] if train else []
        return [PurePath(str(location)).name for location in locations]

    def _parts(self) -> Iterator[str]:
        own = self.description
        yield (
            f"A {own.backbone} that turns aligned faces of {own.image_size}x{own.image_size} "
            f"pixels into embeddings of {own.embedding_size} numbers. The cosine of two "
            "embeddings says how likely the faces are one person's.\n"
        )
        yield _section("Intended use", _INTENDED)
        yield _section("Licence", _LICENCE.format(data=", ".join(self._data()) or TO_FILL_IN))
        yield _section("Preprocessing", _preprocessing(own))
        yield _section("How to use", _USE)
        yield _section("Files", _table(("file", "difference", "SHA-256"), self._files()))
        yield _section("Training", self._training())
        yield _section("Results", self._results())
        yield _section("Thresholds", self._thresholds())

    def _files(self) -> Iterator[Sequence[str]]:
        for name, file in self.description.files.items():
            found = self.differences.get(name)
            yield f"`{name}`", "none" if found is None else f"{found:.1g}", f"`{file.sha256[:16]}…`"

    def _training(self) -> str:
        if self.config is None:
            return f"The weights were exported from a file without a recipe: {TO_FILL_IN}."
        recipe = {name: self.config[name] for name in _RECIPE if name in self.config}
        recipe["data"] = {"train": self._data(), **_augmentations(self.config)}
        lines = [f"- {name}: {value}" for name, value in self.facts.items()]
        text = yaml.safe_dump(_without_nothing(recipe), sort_keys=False, allow_unicode=True)
        return "\n".join([*lines, "", "```yaml", text + "```"])

    def _results(self) -> str:
        if not self._first().sets:
            return "Not measured."
        heads = ("file", "set", "accuracy", *(f"TAR at FAR {far:g}" for far in FARS))
        first = {one.set: one for one in self._first().sets}
        rows = [
            (
                f"`{name}`",
                one.set,
                _figure(one.accuracy, first[one.set].accuracy),
                *(_figure(one.tar[far], first[one.set].tar[far]) for far in FARS),
            )
            for name, measured in self.measured.items()
            for one in measured.sets
        ]
        flip = "with" if self._first().flip else "without"
        return (
            f"Of embeddings {flip} the mirror image's; in brackets the difference to the first "
            f"file. A dash: the set has too few pairs.\n\n{_table(heads, rows)}"
        )

    def _thresholds(self) -> str:
        files = {name: file.thresholds for name, file in self.description.files.items()}
        if not any(files.values()):
            return "Not measured: choose one on pairs of your own."
        together: dict[tuple[Threshold, ...], list[str]] = {}
        for name, thresholds in files.items():
            together.setdefault(thresholds, []).append(f"`{name}`")
        rows = [
            (", ".join(names), f"{one.far:g}", _cosine(one), one.set or "—", _pairs(one))
            for thresholds, names in together.items()
            for one in thresholds
        ]
        heads = ("files", "FAR", "accept above the cosine", "measured on", "impostor pairs")
        flip = "with" if self.description.flip else "without"
        return (
            f"For embeddings {flip} the mirror image's. They hold for faces like those of the set: "
            f"measure on faces of your own before you rely on one.\n\n{_table(heads, rows)}"
        )


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text.strip()}\n"


def _table(heads: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(value: float | None, first: float | None) -> str:
    if value is None:
        return "—"
    change = "" if first is None or value == first else f" ({value - first:+.4f})"
    return f"{value:.4f}{change}"


def _cosine(threshold: Threshold) -> str:
    if threshold.cosine is None:
        return f"none: {threshold.reason}"
    return f"{threshold.cosine:.4f}"


def _pairs(threshold: Threshold) -> str:
    return "—" if threshold.impostor_pairs is None else f"{threshold.impostor_pairs:,}"


def _augmentations(config: Mapping[str, Any]) -> dict[str, Any]:
    augment = config.get("data", {}).get("augment", {})
    used = {name: augment[name] for name in _AUGMENTATIONS if augment.get(name)}
    return {"augment": used} if used else {}


def _without_nothing(value: Any) -> Any:
    """Return settings without those that are not set, and without paths of the machine."""
    if isinstance(value, Mapping):
        return {
            name: _without_nothing(item)
            for name, item in value.items()
            if item is not None and name != "init_from"
        }
    return value


def _preprocessing(own: Description) -> str:
    pixels = own.pixels
    return (
        f"Align each face to the standard five-point template of 112x112 pixels, at "
        f"{own.image_size}x{own.image_size}; channels in the order {pixels.channels.upper()}; "
        f"(pixel − {pixels.mean:g}) / {pixels.std:g} of pixels from 0 to 255. The input is "
        f"float32 [n, 3, {own.image_size}, {own.image_size}] for any n, the output float32 "
        f"[n, {own.embedding_size}], which is not normalised."
    )


_INTENDED: Final = f"""
To compare faces of people who know of it and agreed to it, with a threshold that was measured on
faces like those of the application. Not for decisions about people by this network alone, nor for
guesses of anything but identity. Error rates differ between groups of people: {TO_FILL_IN}.
"""

_LICENCE: Final = f"""
Licence of the training data ({{data}}), and what it allows of networks trained on them:
{TO_FILL_IN}. Many public face datasets allow research alone.
"""

_USE: Final = """
```python
from recognition import FaceEmbedder

embedder = FaceEmbedder.load("model.onnx")  # or this folder
embeddings = embedder.embed(["a.jpg", "b.jpg"])  # aligned faces; float32, of length 1
print(embeddings[0] @ embeddings[1])  # the cosine
```

`model.onnx` is a recognition model for the package insightface:

```python
from insightface.model_zoo.arcface_onnx import ArcFaceONNX

embedding = ArcFaceONNX("model.onnx").get_feat(bgr_image)
```
"""
