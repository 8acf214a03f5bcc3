"""What a suite is: the sets, how each is read and judged, and the settings of all figures.

A suite is a YAML file as strict as a run's config. Sets are named, below the protocol that they
belong to; a name occurs once. Paths are relative to `folder`, and it to the working directory.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data.alignment import CropMethod
from eval.protocols.ijb_verification import MODES
from eval.protocols.megaface import Noise
from eval.protocols.rates import FARS
from recognition.config.base import CountOrZero, LocalPath, Section, Seed
from recognition.config_file import read_settings

Rate = Annotated[float, Field(gt=0, le=1)]
ListFormat = Literal["bin", "lfw", "calfw", "cplfw", "cfp_ff", "cfp_fp", "agedb", "csv", "folder"]


class PairSet(Section):
    """Pairs of aligned images."""

    format: ListFormat = "bin"
    """The form of `file`: a `.bin`, an official list, a CSV of pairs, or a folder per identity."""
    file: LocalPath
    """The `.bin` file, the list, the folder `Protocol` of CFP, or the folder of identities."""
    images: LocalPath | None = None
    """The folder that a list's paths start from."""
    same: CountOrZero | None = None
    """How many pairs of one person a folder makes; by default all."""
    different: CountOrZero | None = None
    """How many pairs of two people a folder makes; by default all."""
    people: LocalPath | None = None
    """A CSV of `image,subject` with columns `group` and `quality` where they are known. `image` is
    the path in the list, or the number of the image in a `.bin`, from 0."""
    group_far: Rate = 1e-3
    """The false accept rate over all pairs at which groups are compared."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        listed = self.format not in ("bin", "folder")
        if listed != (self.images is not None):
            raise ValueError(
                f"format is {self.format}: expected {'a' if listed else 'no'} folder `images`"
            )
        if self.format != "folder" and (self.same, self.different) != (None, None):
            raise ValueError(f"format is {self.format}: `same` and `different` are for `folder`")
        return self


class IjbSet(Section):
    """IJB-B or IJB-C."""

    meta: LocalPath
    """The folder of the lists."""
    images: LocalPath
    """The folder of the loose crops."""
    modes: list[str] = Field(default=["N1D1F1"])
    """Modes of 1:1; searches are in the first."""
    crop: CropMethod = "published"
    """How faces are cropped by their landmarks."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = [str(mode) for mode in MODES]
        if not self.modes or not set(self.modes) <= set(known):
            raise ValueError(f"modes are {self.modes}: expected some of {', '.join(known)}")
        if len(set(self.modes)) < len(self.modes):
            raise ValueError(f"modes are {self.modes}: expected each once")
        return self


class MegaFaceSet(Section):
    """Probe photos among distractors, both aligned."""

    probes: LocalPath
    """The list of probe photos, `facescrub_features_list.json`."""
    probe_images: LocalPath
    """The folder that its paths start from."""
    distractors: list[LocalPath]
    """Lists of distractors, `megaface_features_list.json_<size>_1`, each a size."""
    distractor_images: LocalPath
    """The folder that their paths start from."""
    probe_noise: LocalPath | None = None
    """The list of noisy probe photos."""
    distractor_noise: LocalPath | None = None
    """The list of noisy distractors."""
    noise: list[Noise] = Field(default=["as_listed"])
    """What is done with noisy photos; each gives figures of its own."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.distractors or not self.noise:
            raise ValueError("`distractors` or `noise` is empty: expected at least one of each")
        unlisted = self.probe_noise is None or self.distractor_noise is None
        if unlisted and set(self.noise) != {"as_listed"}:
            raise ValueError(
                f"noise is {self.noise} without both lists of noise: expected `probe_noise` and "
                "`distractor_noise`, or noise [as_listed]"
            )
        return self


class TinyFaceSet(Section):
    """Faces of low resolution."""

    probes: LocalPath
    """`probe_img_ID_pairs.mat`."""
    probe_images: LocalPath
    """The folder `Probe`."""
    gallery: LocalPath
    """`gallery_match_img_ID_pairs.mat`."""
    gallery_images: LocalPath
    """The folder `Gallery_Match`."""
    distractor_images: LocalPath
    """The folder `Gallery_Distractor`; all of its images count."""


class CalibrationSettings(Section):
    """A threshold that is chosen on one set of pairs and applied to all others."""

    chosen_on: str
    """The name of the set."""
    far: Rate
    """The false accept rate that it promises."""


class Suite(Section):
    """Sets, and the settings of all figures."""

    folder: LocalPath = Path()
    """What the paths are relative to."""
    flip: bool = True
    """Whether embeddings of the mirrored images are added, as published figures have it."""
    fars: list[Rate] = Field(default=sorted(FARS, reverse=True))
    """False accept rates of the 1:1 tables."""
    replicates: Annotated[CountOrZero, Field(le=100_000)] = 1000
    """Replicates of each bootstrap; 0 leaves out all intervals."""
    seed: Seed = 0
    """Decides what the bootstrap draws."""
    pairs: dict[str, PairSet] = Field(default={})
    """Sets of pairs."""
    ijb: dict[str, IjbSet] = Field(default={})
    """Sets of templates."""
    megaface: dict[str, MegaFaceSet] = Field(default={})
    """Identification among distractors."""
    tinyface: dict[str, TinyFaceSet] = Field(default={})
    """Identification at low resolution."""
    calibration: CalibrationSettings | None = None
    """By default no threshold is carried from set to set."""

    @property
    def names(self) -> list[str]:
        """The names of all sets, in the order in which they are evaluated."""
        return [*self.pairs, *self.ijb, *self.megaface, *self.tinyface]

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice or not self.names:
            raise ValueError(
                f"sets {', '.join(twice)} occur twice: rename one" if twice
                else "no set: expected some below pairs, ijb, megaface or tinyface"
            )  # fmt: skip
        if not self.fars or len(set(self.fars)) < len(self.fars):
            raise ValueError(f"fars are {self.fars}: expected one or more, each once")
        mirrored = sorted({mode for one in self.ijb.values() for mode in one.modes if "F1" in mode})
        if mirrored and not self.flip:
            raise ValueError(f"flip is false: modes {', '.join(mirrored)} need mirrored images")
        if self.calibration is not None and self.calibration.chosen_on not in self.pairs:
            raise ValueError(
                f"calibration.chosen_on is {self.calibration.chosen_on}: expected a set of pairs, "
                f"{', '.join(self.pairs) or 'of which there is none'}"
            )
        return self


def pair_sets(wanted: Sequence[str | Path], folder: Path | None) -> dict[str, PairSet]:
    """Return the `.bin` files that `find_set` finds, each under its name without `.bin`.

    Raises `ValueError` for a name that occurs twice.
    """
    sets: dict[str, PairSet] = {}
    for path in (find_set(one, folder) for one in wanted):
        name = path.name.removesuffix(".bin")
        if name in sets:
            raise ValueError(
                f"verification set {name} is listed twice, and results are named after the files: "
                "list each set once, or rename a file"
            )
        sets[name] = PairSet(file=path)
    return sets


def find_set(wanted: str | Path, folder: Path | None) -> Path:
    """Return the file of a verification set given by name or by path.

    A name is looked up in `folder`. A path ends in `.bin` and is relative to the working directory,
    or to `folder` if there is no such file. Raises `ValueError` with the sets that exist.
    """
    path = Path(wanted)
    if path.suffix == ".bin" and path.is_file():
        return path
    if folder is not None:
        inside = folder / (path if path.suffix == ".bin" else f"{wanted}.bin")
        if inside.is_file():
            return inside
    searched = folder if folder is not None else path.parent
    existing = sorted(file.name.removesuffix(".bin") for file in searched.glob("*.bin"))
    raise ValueError(
        f"verification set {str(wanted)!r} does not exist; sets in {searched}: "
        f"{', '.join(existing) or 'none'}; name one of these, or give the path of a .bin file"
    )


def read_suite(path: Path) -> Suite:
    """Return the suite in a file; raises `ConfigError` with each setting that is wrong."""
    return read_settings(path, Suite)
