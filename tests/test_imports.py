"""Holds the import table of docs/architecture.md against the code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWN = {"recognition", "backbones", "data", "eval", "scripts", "tests", "train"}

# The longest matching prefix of a module's name says what it may import from this project.
FOUNDATION = {"recognition.distributed"}
TABLE: dict[str, set[str]] = {
    "recognition.config": {"recognition.head"},
    "recognition.distributed": set(),
    "recognition.head": {"recognition.head", *FOUNDATION},
    "recognition.build": {"recognition", "backbones"},
    "recognition": {"recognition"},
    "backbones": {"backbones"},
    "data": {"data", "recognition.config", *FOUNDATION},
    "eval": {"eval", "data", "recognition.config", *FOUNDATION},
    "scripts": OWN,
    "train": OWN,
    "tests": OWN,
    "setup": set(),
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def matches(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def sources() -> list[Path]:
    files = [ROOT / "train.py", ROOT / "setup.py"]
    for folder in sorted(OWN - {"train"}):
        files += sorted((ROOT / folder).rglob("*.py"))
    return files


def imports_of(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; state the full name"
            module = str(node.module)
            # `from package import module` imports the module, where there is one.
            for alias in node.names:
                inner = ROOT.joinpath(*module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                found.append(f"{module}.{alias.name}" if is_module else module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.partition(".")[0] in OWN]


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_follow_the_table(path: Path) -> None:
    module = module_name(path)
    prefix = max((entry for entry in TABLE if matches(module, entry)), key=len)
    allowed = TABLE[prefix]
    for imported in imports_of(path):
        assert any(matches(imported, entry) for entry in allowed), (
            f"{module} imports {imported}; {prefix} may import {sorted(allowed) or 'nothing'}"
        )
