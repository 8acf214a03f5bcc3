"""`edge_cases.json`: each case with its value, its refusal or its warning."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

from scripts.protocols import face_cases, ijb_cases
from scripts.protocols.compare import Json, differences, read_json
from scripts.protocols.ijb_cases import ijb_one_to_many, ijb_one_to_one, rates, rates_one

Compute = Callable[[Json, Json], object]
"""Takes what is given and the expected value, whose rates and ranks it computes."""

KNOWN: Final = {"name", "kind", "given", "why", "value", "refuse", "warn", "public_code"}
# By how a file's name ends; the names of whole files come first.
FILES: Final = {**face_cases.FILES, **ijb_cases.FILES}


def file(given: Json, value: Json) -> object:
    """Return what the files say, each read by the function that the end of its name calls for.

    Of several files only those that a function reads are returned, by name.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in given.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="")
        for name in given:
            for end in [end for end in FILES if name.endswith(end)][:1]:
                found[name] = FILES[end](Path(folder, name))
    if not found:
        raise LookupError(f"no reader for {', '.join(given)}; known are {', '.join(FILES)}")
    return found if len(found) > 1 else next(iter(found.values()))


KINDS: dict[str, Compute] = {
    "rates": rates,
    "rates_one": rates_one,
    "ijb_1_1": ijb_one_to_one,
    "ijb_1_n": ijb_one_to_many,
    "megaface": face_cases.megaface,
    "tinyface": face_cases.tinyface,
    "fairness": face_cases.fairness,
    "edc": face_cases.edc,
    "file": file,
}


def check(path: Path) -> list[str]:
    """Return a line for each case that ends otherwise than it must."""
    return [line for case in read_json(path) for line in check_case(case)]


def check_case(case: Json) -> list[str]:
    """Return what is wrong with the outcome of one case, each as a line."""
    where = f"{case['kind']}: {case['name']}"
    lines = [f"{where}: unknown key {key}" for key in case if key not in KNOWN]
    if case["kind"] not in KINDS:
        return [*lines, f"{where}: unknown kind; known are {', '.join(KINDS)}"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = KINDS[case["kind"]](case["given"], case.get("value"))
        except ValueError as error:
            return lines + _refused(case, str(error), where)
        except Exception as error:
            return [*lines, f"{where}: {type(error).__name__}: {error}"]
    if "refuse" in case:
        lines.append(f"{where}: must be refused, gave {found}")
    if "value" in case:
        lines += differences(case["value"], found, where)
    messages = [str(one.message) for one in caught]
    if "warn" in case and not any(_contains(text, case["warn"]) for text in messages):
        lines.append(f"{where}: must warn with {case['warn']}, warned {messages}")
    return lines


def _refused(case: Json, message: str, where: str) -> list[str]:
    if "refuse" not in case:
        return [f"{where}: must not be refused: {message}"]
    if not _contains(message, case["refuse"]):
        return [f"{where}: the refusal must contain {case['refuse']}: {message}"]
    return []


def _contains(text: str, words: list[str]) -> bool:
    return all(word in text for word in words)
