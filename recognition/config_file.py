"""Reads a run's config: YAML files with `base:`, `--set` overrides, errors that say what to fix."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from recognition.config import Config
from recognition.config.yaml_text import (
    MOST_CHARACTERS,
    MOST_LEVELS,
    check_printable,
    dump_yaml,
    parse_yaml,
)
from recognition.redaction import redact

Settings = TypeVar("Settings", bound=BaseModel)

_MOST_SHOWN = 100  # characters of a value
_MOST_ERRORS = 20


class ConfigError(ValueError):
    """A config that cannot be used; the message says where, what is wrong, and the fix."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the checked config of `path` with `key.sub=value` overrides applied on top.

    Values of overrides are YAML: `train.steps=100`, `verification.sets=[lfw]`, `train.epochs=null`.
    Raises `ConfigError` for anything missing, unknown, of the wrong type or out of range.
    """
    return read_settings(path, Config, overrides)


def read_settings(path: Path, kind: type[Settings], overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of another kind of file, read and checked in the same way."""
    values = reduce(_merge, [*reversed(list(_files(path))), *map(_parse_override, overrides)])
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = _explain(error, kind, values)
        raise ConfigError("\n".join([f"{path}: the config cannot be used", *lines])) from None


def config_values(config: Config) -> dict[str, Any]:
    """Return the resolved config for what a run writes down: without the secrets of its URLs."""
    values = _redact_values(config.model_dump(mode="json"))
    assert isinstance(values, dict), "it redacts a dict to a dict"
    return values


def dump_config(config: Config) -> str:
    """Return `config_values` as YAML that loads to the same config, without any `base:`.

    Where a secret was removed, loading says so.
    """
    return dump_yaml(config_values(config))


def _redact_values(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _redact_values(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_redact_values(value) for value in values]
    return redact(values) if isinstance(values, str) else values


def _files(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the values of a file, then those of its `base:` (relative to the file), and so on."""
    chain: list[Path] = []
    while True:
        values = _read(path)
        chain.append(path.resolve())
        if chain[-1] in chain[:-1]:
            names = " -> ".join(map(str, chain))
            raise ConfigError(f"{path}: circular base files: {names}")
        if len(chain) > MOST_LEVELS:
            raise ConfigError(f"{path}: base file number {len(chain)}; expected a few")
        base = values.pop("base", None)
        yield values
        if base is None:
            return
        if not isinstance(base, str):
            raise ConfigError(f"{path}: base is {_clip(repr(base))}, expected the path of one file")
        path = path.parent / base


def _read(path: Path) -> dict[str, Any]:
    """Return the values of one file."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe could take forever
            raise ConfigError(f"{path}: not a file: expected one with `key: value` lines")
        with path.open("rb") as file:
            content = file.read(MOST_CHARACTERS + 1)
        if len(content) > MOST_CHARACTERS:
            raise ConfigError(f"{path}: more than {MOST_CHARACTERS:,} bytes: is it a config?")
        text = content.decode()
    except FileNotFoundError:
        names = sorted(item.name for item in path.parent.glob("*.yaml"))
        raise ConfigError(
            f"{path}: no such file; {path.parent} holds {', '.join(names) or 'no .yaml file'}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not usable YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found {type(values).__name__}, expected `key: value` lines")
    return values


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` with the values of `over`; sections are merged, everything else is replaced.

    The loss is replaced as a whole: its options mean nothing under another name.
    """
    merged = dict(under)
    for key, value in over.items():
        base = merged.get(key)
        is_new_loss = key == "loss" and isinstance(value, Mapping) and "name" in value
        if isinstance(base, Mapping) and isinstance(value, Mapping) and not is_new_loss:
            value = _merge(base, value)
        merged[key] = value
    return merged


def _parse_override(text: str) -> dict[str, Any]:
    name, separator, value = text.partition("=")
    keys = name.split(".")
    if not separator or not all(keys) or len(keys) > MOST_LEVELS:
        raise ConfigError(f"--set {_clip(text)}: expected key=value, for example train.steps=100")
    try:
        check_printable(name)
        parsed = parse_yaml(value)
    except ValueError as error:
        raise ConfigError(f"--set {_clip(name)}: not usable YAML: {error}") from None
    return reduce(lambda inner, key: {key: inner}, reversed(keys), parsed)


def _explain(error: ValidationError, kind: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    """Return one line per wrong setting: the key, what was expected, what was found."""
    expected: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for details in error.errors(include_url=False)[:_MOST_ERRORS]:
        keys = _keys(details["loc"], values)
        name = ".".join(keys) or "config"
        # A setting that may be one of several types has an error for each.
        expected.setdefault(name, []).append(_message(details, keys, kind))
        value = details["input"]
        is_shown = details["type"] not in ("extra_forbidden", "missing")
        # A URL that is refused may have no form in which its secret can be recognised.
        if is_shown and not isinstance(value, Mapping | BaseModel) and "://" not in str(value):
            found[name] = f" (found {_clip(repr(value))})"
    lines = [f"  {name}: {'; or: '.join(expected[name])}{found.get(name, '')}" for name in expected]
    more = error.error_count() - _MOST_ERRORS
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _keys(location: Sequence[str | int], values: Any) -> list[str]:
    """Return the keys and list positions of an error, without what pydantic adds to them."""
    keys = []
    for part in location:
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part] if part < len(values) else None
        else:
            break
        keys.append(str(part))
    return keys


def _message(details: ErrorDetails, keys: Sequence[str], kind: type[BaseModel]) -> str:
    match details["type"]:
        case "extra_forbidden":
            names = _field_names(keys[:-1], kind)
            near = difflib.get_close_matches(keys[-1], names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
            return f"no such setting; {hint}"
        case "missing":
            return "missing; it has no default"
        case "model_type":
            return "expected a section of `key: value` lines"
        case "tuple_type":
            return "expected a list of two, such as [0.2, 0.9]"
    return details["msg"].removeprefix("Value error, ")


def _clip(text: str) -> str:
    text = redact(text)  # before the cut, which may leave half a secret
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _field_names(location: Sequence[str], section: type[BaseModel]) -> list[str]:
    """Return the names of the settings in the section at `location`, from `section` down."""
    for part in location:
        field = section.model_fields.get(part)  # none of a name in a mapping of sections
        if field is not None:
            section = next(_sections(field.annotation), section)
    return list(section.model_fields)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections in a type, such as those that a mapping or an optional type holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)
