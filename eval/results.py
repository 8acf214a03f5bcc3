"""What `results.json` holds: every figure that a report shows, and what it rests on.

A figure that the data cannot support is null, with the reason beside it. Scores are cosines, and a
pair is accepted above the threshold; `distance` is the squared Euclidean distance 2 - 2 · cosine.
Rates and fractions are 0 to 1, times are seconds, memory is bytes. Counts are exact.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from eval.protocols.bootstrap import BootstrapInterval
from eval.protocols.fairness import Fairness
from eval.protocols.ijb_search import CombinedSearch, PublishedSearch, Search
from eval.protocols.megaface import Identification
from eval.protocols.quality import ErrorDiscard
from eval.protocols.rates import EqualErrorRate, ErrorRates, TarAtFar, TarAtZeroFar
from eval.protocols.tinyface import TinyFaceResult

FORMAT: Final = 1  # rises when a field changes its name or its meaning


@dataclass(frozen=True)
class HashedFile:
    """A file that figures rest on."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Run:
    """How the figures came about: with this, someone else gets the same ones."""

    command: str
    date: str  # ISO 8601, UTC
    device: str
    ranks: int
    versions: dict[str, str]
    suite: HashedFile | None  # None for sets that the command line names
    replicates: int  # of each bootstrap
    seed: int
    protocol: dict[str, str]  # what the words of the figures mean, by name


@dataclass(frozen=True)
class Cost:
    """What a model's figures cost; images that the cache had cost no forward pass."""

    forward_passes: int  # an image and its mirror image are two
    cached_sets: tuple[str, ...]
    images_per_second: float | None  # forward passes per second; None if there were none
    seconds: dict[str, float]  # by part
    peak_memory: dict[str, int]  # by device


@dataclass(frozen=True)
class ModelEntry:
    """A network; `name` is what other parts call it."""

    name: str
    file: HashedFile
    kind: str  # checkpoint, weights, onnx or torch.export
    embedding_size: int
    image_size: int  # pixels per side
    mean: float  # subtracted from pixels of 0 to 255
    std: float
    channels: str  # rgb or bgr
    details: dict[str, Any]  # as step and backbone, where they are known
    cost: Cost


@dataclass(frozen=True)
class Counts:
    """What a set consists of; None where that has no meaning or is not known."""

    images: int  # different ones
    subjects: int | None
    templates: int | None
    media: int | None
    genuine: int | None
    impostor: int | None
    failed_images: int  # that no face could be cropped from
    repeated_rows: int  # pairs that repeat an earlier one; they count


@dataclass(frozen=True)
class RateRow:
    """A row of the 1:1 table: the conservative reading, and the published one beside it."""

    point: TarAtFar  # `tar` is None with a reason; `threshold` is a cosine
    threshold_distance: float | None
    few_errors: bool  # fewer than 30 false accepts: the rate itself is uncertain
    interval: BootstrapInterval | None  # of the TAR; None without a TAR, or without replicates
    published_tpr: float
    published_fpr: float  # of the point of the published curve


@dataclass(frozen=True)
class DetCurve:
    """FMR and FNMR at thresholds, ascending: every distinct score, or a spread of them."""

    threshold: tuple[float, ...]
    fmr: tuple[float, ...]
    fnmr: tuple[float, ...]
    complete: bool  # whether every distinct score is there
    least_fmr: float  # 1 / impostor pairs: what lies left of it is not known


@dataclass(frozen=True)
class BandPoint:
    """The interval of TAR at one FAR, for the band of a curve."""

    far: float
    tar: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreHistogram:
    """Numbers of pairs by score, between `edges`; one more edge than bins."""

    edges: tuple[float, ...]
    genuine: tuple[int, ...]
    impostor: tuple[int, ...]


@dataclass(frozen=True)
class Verification:
    """Every 1:1 figure of a set."""

    rows: tuple[RateRow, ...]  # by descending FAR
    at_zero_far: TarAtZeroFar
    eer: EqualErrorRate
    auc: float
    d_prime: float | None  # None where no score varies
    interval_method: str
    det: DetCurve
    band: tuple[BandPoint, ...]
    histogram: ScoreHistogram


@dataclass(frozen=True)
class TenFold:
    """The published accuracy of a pair set."""

    flip: bool
    accuracy: float  # mean of the folds
    population_std: float  # the published deviation
    standard_error: float  # std with ddof=1, over the root of the folds
    accuracy_no_flip: float
    population_std_no_flip: float
    fold_accuracy: tuple[float, ...]
    fold_threshold_distance: tuple[float, ...]
    threshold_distance: float  # mean
    threshold_cosine: float
    threshold_cosine_no_flip: float
    embedding_norm: float  # mean before normalisation


@dataclass(frozen=True)
class HardPair:
    """A pair whose label and score disagree the most; see whether the label is right."""

    pair: int  # in file order, from 0
    first: str  # where the image is, in words
    second: str
    first_image: int  # its number among the images of the set, for a thumbnail
    second_image: int
    score: float


@dataclass(frozen=True)
class HardestPairs:
    """Ties are in file order."""

    impostor: tuple[HardPair, ...]  # the highest scores
    genuine: tuple[HardPair, ...]  # the lowest scores


@dataclass(frozen=True)
class Gallery:
    """The searches in one gallery: the conservative reading and the published one."""

    name: str
    search: Search
    tpir_intervals: tuple[BootstrapInterval | None, ...]  # as `search.tpir_at_fpir`
    cmc: tuple[float, ...] | None  # rank-k for k = 1, 2 …; None without mated searches
    open_set: tuple[tuple[float, float], ...]  # FPIR, TPIR
    published: PublishedSearch


@dataclass(frozen=True)
class Identified:
    """All searches of a set."""

    mode: str
    galleries: tuple[Gallery, ...]
    combined: CombinedSearch


@dataclass(frozen=True)
class Distractors:
    """MegaFace with some number of distractors, under one rule for noise."""

    noise: str
    figures: Identification


@dataclass(frozen=True)
class FaceQuality:
    """A face of low quality."""

    image: str
    image_number: int
    quality: float


@dataclass(frozen=True)
class Quality:
    """Error against discard, at the threshold of a FAR that the set supports."""

    source: str  # what the quality is
    far: float
    curve: ErrorDiscard  # thinned to a spread of its points
    histogram_edges: tuple[float, ...]
    histogram: tuple[int, ...]  # of images
    worst: tuple[FaceQuality, ...]


@dataclass(frozen=True)
class GroupCurve:
    """What a group of people would have by itself, to compare with the threshold for all."""

    group: str
    own: TarAtFar  # at the rate of the comparison, over the group's own impostor pairs
    det: DetCurve


@dataclass(frozen=True)
class SetResult:
    """The figures of one model on one set by one protocol; parts that it has not are None."""

    model: str
    set: str
    protocol: str  # pairs, ijb_1_1, ijb_1_n, megaface or tinyface
    settings: dict[str, str]  # as flip, alignment, mode and distance
    files: tuple[HashedFile, ...]
    counts: Counts
    warnings: tuple[str, ...]
    missing: dict[str, str] = field(default_factory=dict)  # why a part is not there, by its name
    verification: Verification | None = None
    ten_fold: TenFold | None = None
    hardest: HardestPairs | None = None
    search: Identified | None = None
    megaface: tuple[Distractors, ...] = ()
    tinyface: TinyFaceResult | None = None
    groups: tuple[Fairness, ...] = ()
    group_curves: tuple[GroupCurve, ...] = ()  # of the groups that have pairs of both kinds
    quality: Quality | None = None


@dataclass(frozen=True)
class Calibration:
    """A threshold that was chosen on one set, applied to another."""

    model: str
    chosen_on: str
    applied_to: str
    far: float  # what was promised
    promised_tar: float | None
    reason: str | None  # why there is no threshold
    found: ErrorRates | None


@dataclass(frozen=True)
class Comparison:
    """A figure of `model` minus that of `baseline`, on one set.

    Both are drawn with the same multiplicities, so what is hard for both cancels.
    """

    model: str
    baseline: str
    set: str
    protocol: str
    mode: str | None  # of IJB
    figure: str  # TAR; of searches, with the gallery, as "TPIR, G1" and "rank-1, G1"
    far: float | None  # at which FAR or FPIR; None for a rank
    difference: float | None
    reason: str | None
    interval: BootstrapInterval | None


@dataclass(frozen=True)
class Results:
    """All of `results.json`."""

    run: Run
    models: tuple[ModelEntry, ...]
    sets: tuple[SetResult, ...]  # by set, then by model
    calibration: tuple[Calibration, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`; raises `ValueError` for a number that is none."""
        return {"format": FORMAT, **_plain(self, "results")}


def _plain(value: Any, where: str) -> Any:
    """Return dicts and lists of plain values; keys are texts, as `1e-4` is `"0.0001"`."""
    if dataclasses.is_dataclass(value):
        return {
            one.name: _plain(getattr(value, one.name), f"{where}.{one.name}")
            for one in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item, f"{where}.{index}") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: expected a number, or none with a reason")
    return value
