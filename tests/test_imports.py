"""Compares the code with what docs/architecture.md and CONTRIBUTING.md say of its shape."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWN = {"recognition", "backbones", "data", "eval", "scripts", "tests", "train"}
MOST_MODULES = 12
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60

# Each line may import what stands in the lines below it, and its own entry. The longest entry that
# begins a module's name says where it stands.
ORDERS: dict[str, list[set[str]]] = {
    "": [
        {"tests"},
        {"train", "scripts"},
        {"eval"},
        {"data", "recognition"},
        {"backbones"},
    ],
    "data": [
        {"data.build", "data.detection", "data.cleaning"},
        {"data.tools", "data.demo"},
        {"data.pairs", "data.augmentations"},
        {"data.loading"},
        {"data.datasets"},
        {"data.records"},
        {"data.order", "data.files", "data.progress", "data.alignment", "data.contact_sheet"},
    ],
    "recognition": [
        {"recognition.build"},
        {"recognition"},
        {"recognition.config"},
        {"recognition.head"},
        {"recognition.distributed"},
        {"recognition.redaction"},
    ],
    "recognition.head": [
        {"recognition.head"},
        {"recognition.head.sampling"},
        {"recognition.head.online_softmax"},
        {"recognition.head.placement"},
        {"recognition.head.kernels"},
        {"recognition.head.optim"},
        {"recognition.head.losses"},
        {"recognition.head.rows", "recognition.head.hashing", "recognition.head.choices"},
    ],
}
# What `data` and `eval` may import of `recognition`, which is no folder of a stage before them.
SHARED = ("recognition.config", "recognition.distributed", "recognition.redaction")
# A folder of commands, one a file: nobody looks for a module in it.
COMMANDS = "scripts"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def matches(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


@cache
def sources() -> dict[str, Path]:
    files = [ROOT / "train.py"]
    for folder in sorted(OWN - {"train"}):
        files += sorted((ROOT / folder).rglob("*.py"))
    return {module_name(path): path for path in files}


@cache
def imports_of(module: str) -> list[str]:
    path, found = sources()[module], []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; state the full name"
            # `from package import module` imports the module, where there is one.
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append(inner if inner in sources() else str(node.module))
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.partition(".")[0] in OWN]


def level(module: str, order: list[set[str]]) -> tuple[int, str]:
    """Return the line of an order that a module stands in, and by which prefix."""
    found = [(len(p), n, p) for n, line in enumerate(order) for p in line if matches(module, p)]
    assert found, f"{module} stands nowhere in the import order of tests/test_imports.py"
    _, line, prefix = max(found)
    return line, prefix


@pytest.mark.parametrize("module", sources())
def test_imports_follow_the_order(module: str) -> None:
    for imported in imports_of(module):
        if module.startswith(("data", "eval")) and imported in SHARED:
            continue
        for root, order in ORDERS.items():
            if root and not (matches(module, root) and matches(imported, root)):
                continue
            (mine, own), (theirs, other) = level(module, order), level(imported, order)
            assert own == other or theirs > mine, (
                f"{module} imports {imported}: {own} may not import {other}"
            )


def test_there_is_no_circle() -> None:
    graph = {module: set(imports_of(module)) - {module} for module in sources()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_folder_holds_more_modules_than_a_person_takes_in() -> None:
    folders: dict[Path, int] = {}
    for module, path in sources().items():
        if path.name != "__init__.py" and not matches(module, "tests"):
            folders[path.parent] = folders.get(path.parent, 0) + 1
    folders.pop(ROOT / COMMANDS)
    assert {str(folder) for folder, count in folders.items() if count > MOST_MODULES} == set()


def test_files_and_functions_are_short_enough_to_be_read_at_once() -> None:
    long = []
    for module, path in sources().items():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > MOST_LINES:
            long.append(module)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{module}.{node.name}")
    assert long == []
