"""What `report.json` holds, and the lines that the command prints."""

import argparse
import json
from typing import Any, Final

from data.files import atomic_write, writing
from recognition import FaceEmbedder
from recognition.redaction import redact
from scripts.cleaning.job import Inputs, Outcome
from scripts.faces.gallery import about, fingerprint

TITLES: Final = {
    "swapped": "images of another identity",
    "outlier": "images of no identity of the data",
    "same": "pairs of labels that are one person",
    "merged": "labels that are two people",
    "duplicates": "images that are there twice",
    "leaked": "labels that are people of a verification set",
}


def counts(outcome: Outcome) -> dict[str, int]:
    """Return how many findings there are of each kind that was looked for."""
    found = outcome.findings
    leaked = {"leaked": sum(len(leak.labels) for leak in found.leaks)} if found.leaks else {}
    return {
        "swapped": int(found.wrong.known.sum()),
        "outlier": int((~found.wrong.known).sum()),
        "same": len(found.same.labels),
        "merged": len(found.merged.labels),
        "duplicates": len(found.duplicates.images),
        **leaked,
    }


def summary(inputs: Inputs, outcome: Outcome) -> str:
    """Return a line for each kind, with its threshold and what the planted faults say of it."""
    dataset = inputs.dataset
    lines = [
        f"{len(dataset):,} images of {dataset.num_classes:,} labels; {outcome.bad:,} cannot be "
        f"read; {outcome.earlier:,} were embedded by an earlier try"
    ]
    for kind, count in counts(outcome).items():
        lines.append(f"{count:9,} {TITLES[kind]}{_cut(outcome, kind)}")
    return "\n".join(lines)


def _cut(outcome: Outcome, kind: str) -> str:
    if kind not in outcome.findings.cuts:
        return ""
    cut = outcome.findings.cuts[kind]
    if cut is None:
        return ": there is too little to choose a threshold by"
    score = f", score {cut.threshold:.3f} and more"
    if cut.precision is None:
        return f"{score}; there is too little to say how right that is"
    return f"{score}; estimated precision {cut.precision:.3f}, recall {cut.recall:.3f}"


def write_report(
    inputs: Inputs, outcome: Outcome, embedder: FaceEmbedder, options: argparse.Namespace
) -> None:
    """Write `report.json` into the folder of the report."""
    found, plan = outcome.findings, outcome.plan
    report = {
        "counts": counts(outcome) | {"unreadable": outcome.bad},
        "images": len(inputs.dataset),
        "labels": inputs.dataset.num_classes,
        "after": {"images": int((plan.labels >= 0).sum()), "labels": plan.num_labels},
        "settings": {
            "data": [redact(location) for location in options.data],
            "verification": options.verification,
            "fix": options.fix,
            "precision": options.precision,
            "thresholds": options.thresholds,
            "seed": options.seed,
        },
        "model": about(embedder) | {"file": str(embedder.network.file)},
        "data": [fingerprint(part) for part in inputs.parts],
        "sets": {name: fingerprint(pairs) for name, pairs in inputs.sets},
        "cuts": {kind: cut and cut.to_dict() for kind, cut in found.cuts.items()},
        "cosines": found.figures,
        "findings": _findings(inputs, outcome),
    }
    path = options.report / "report.json"
    with writing(path), atomic_write(path) as file:
        file.write(json.dumps(report, indent=1).encode())


def _findings(inputs: Inputs, outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
    """Return every finding; images are numbers as in `images.csv`, labels as in the data."""
    found = outcome.findings
    names = [(place, str(name)) for place, name in inputs.names]
    labels = inputs.dataset.labels
    wrong: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    one = found.wrong
    for row, image in enumerate(one.images.tolist()):
        wrong[bool(one.known[row])].append(
            {
                "image": image,
                "label": names[labels[image]],
                "own": _short(one.own[row]),
                "other_label": names[one.labels[row]],
                "other": _short(one.other[row]),
            }
        )
    same, merged, copies = found.same, found.merged, found.duplicates
    return {
        "swapped": wrong[True],
        "outlier": wrong[False],
        "same": [
            {"labels": [names[a], names[b]], "cosine": _short(cosine), "score": _short(score)}
            for (a, b), cosine, score in zip(
                same.labels.tolist(), same.cosines, same.scores, strict=True
            )
        ],
        "merged": [
            {
                "label": names[label],
                "between": _short(merged.between[row]),
                "within": _short(merged.within[row]),
                "second_person": merged.second[row].tolist(),
            }
            for row, label in enumerate(merged.labels.tolist())
        ],
        "duplicates": [
            {"image": image, "same_as": first, "cosine": _short(cosine), "bits": bits}
            for image, first, cosine, bits in zip(
                copies.images.tolist(), copies.first.tolist(), copies.cosines,
                copies.bits.tolist(), strict=True,
            )
        ],
        "leaked": [
            {
                "set": leak.name,
                "label": names[label],
                "image_of_set": int(leak.images[row]),
                "cosine": _short(leak.cosines[row]),
                "score": _short(leak.scores[row]),
            }
            for leak in found.leaks
            for row, label in enumerate(leak.labels.tolist())
        ],
    }  # fmt: skip


def _short(value: float) -> float:
    return round(float(value), 4)
