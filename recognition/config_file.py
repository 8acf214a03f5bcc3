"""Reads a run's config: YAML files with `base:`, `--set` overrides, errors that say what to fix."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from recognition.config import Config
from recognition.redaction import redact

Settings = TypeVar("Settings", bound=BaseModel)


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
    values = _read(path, seen=())
    for override in overrides:
        values = _merge(values, _parse_override(override))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_explain(details, kind) for details in error.errors()]
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
    return yaml.safe_dump(config_values(config), sort_keys=False)


def _redact_values(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _redact_values(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_redact_values(value) for value in values]
    return redact(values) if isinstance(values, str) else values


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"duplicate key {key!r}",
                    node.value[position][0].start_mark,
                )
        return super().construct_mapping(node, deep)


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Return the values of a file merged over those of its `base:` (relative to the file)."""
    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(str(item) for item in (*seen, resolved))
        raise ConfigError(f"{path}: circular base files: {chain}")
    try:
        with path.open(encoding="utf-8") as stream:
            values = yaml.load(stream, Loader=_Loader)
    except FileNotFoundError:
        names = sorted(item.name for item in path.parent.glob("*.yaml"))
        raise ConfigError(
            f"{path}: no such file; {path.parent} holds {', '.join(names) or 'no .yaml file'}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found {type(values).__name__}, expected `key: value` lines")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base is {base!r}, expected the path of one file")
    return _merge(_read(path.parent / base, (*seen, resolved)), values)


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
    key, separator, value = text.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigError(f"--set {text}: expected key=value, for example train.steps=100")
    try:
        parsed: Any = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML: {error}") from None
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    assert isinstance(parsed, dict)
    return parsed


def _explain(details: ErrorDetails, kind: type[BaseModel]) -> str:
    """Return one line per error: the key, what was expected, what was found."""
    location = [str(part) for part in details["loc"]]
    key = ".".join(location) or "config"
    if details["type"] == "extra_forbidden":
        names = _field_names(location[:-1], kind)
        near = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
        return f"  {key}: no such setting; {hint}"
    if details["type"] == "missing":
        return f"  {key}: missing; it has no default"
    message = details["msg"].removeprefix("Value error, ")
    found = details["input"]
    # A URL that is refused may have no form in which its secret can be recognised.
    is_shown = not isinstance(found, (Mapping, BaseModel)) and "://" not in str(found)
    shown = f" (found {found!r})" if is_shown else ""
    return f"  {key}: {message}{shown}"


def _field_names(location: Sequence[str], section: type[BaseModel]) -> list[str]:
    """Return the names of the settings in the section at `location`, from `section` down."""
    for part in location:
        field = section.model_fields[part]
        kinds = [field.annotation, *get_args(field.annotation)]
        section = next(k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
    return list(section.model_fields)
