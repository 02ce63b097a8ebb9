"""From YAML files and `section.key=value` to a validated configuration.

Files, the command line, samples of a search and tests take one path: they become one plain mapping, which is validated
strictly. Later sources win. A changed `type` replaces its section instead of merging with it.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from laser.config.arguments import OPEN_SECTIONS, main_setting, parse_value
from laser.config.explain import explained
from laser.errors import UserError
from laser.storage.yaml_text import UNREADABLE, parse_yaml

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=BaseModel)
Mapped = dict[str, Any]

MAX_CHARACTERS = 1 << 20
"""Longest configuration file that is read; a longer one is no configuration."""
MAX_INTEGER = 1 << 63
"""The first integer that none of our tensors, tables and databases can hold."""


def load_config(cls: type[S], arguments: Sequence[str], default: Path | None) -> S:
    """Compose the configuration of a job from `[config=<file.yaml>] [section.key=value ...]`.

    What a file says of its data is for its data. Where arguments name another `data.path`, the section `data` of the
    default file does not apply, and the log says so. That of a file named by `config=` does, because the user chose it.

    Args:
        cls: the schema.
        arguments: command-line words; the last value of a key wins.
        default: the file to start from where no `config=` is given.

    Raises:
        UserError: an argument, file or value is wrong; the message names it, its value and the remedy.
    """
    file, overrides = None, []
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator or not key:
            raise UserError(f"{argument}: not of the form key=value; see --help for the keys")
        if key == "config":
            file = Path(text)
        else:
            overrides.append((key, parse_value(cls, key, text)))
    if file is not None or default is None:
        return validate(cls, _with_settings(cls, read_yaml(file) if file is not None else {}, overrides))
    mapping, dropped = _without_other_data(read_yaml(default), _with_settings(cls, {}, overrides))
    config = validate(cls, _with_settings(cls, mapping, overrides))
    if dropped:
        settings = ", ".join(f"data.{key}={json.dumps(value)}" for key, value in dropped.items())
        logger.info("%s of %s do not apply, because data.path names other data", settings, default)
    return config


def _without_other_data(mapping: Mapped, given: Mapped) -> tuple[Mapped, Mapped]:
    """Drop a file's section `data` where arguments name other data; also return its settings that are lost by that."""
    own, other = mapping.get("data"), given.get("data")
    if not isinstance(own, Mapping) or not isinstance(other, Mapping) or other.get("path") in (None, own.get("path")):
        return mapping, {}
    return {**mapping, "data": {}}, {key: value for key, value in own.items() if key not in other}


def read_yaml(path: Path, _open: tuple[Path, ...] = ()) -> Mapped:
    """Read a YAML file and, beneath it, the files that its `extends: [..]` names (relative to it).

    Raises:
        UserError: no such file, a syntax error or a key given twice (with file:line), an interpolation, or files that
            extend each other.
    """
    path = Path(os.path.expanduser(path))
    whence = f"{_open[-1]}: extends" if _open else "config"
    if "\0" in str(path):
        raise UserError(f"{whence}: {str(path)!r}: a NUL in the name; name an existing YAML file")
    if os.path.realpath(path) in map(os.path.realpath, _open):
        chain = " -> ".join(parent.name for parent in (*_open, path))
        raise UserError(f"{_open[-1]}: extends: {chain}; break the cycle")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{whence}: {path}: {error.strerror or error}; name an existing YAML file") from error
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{path}: longer than {MAX_CHARACTERS} characters; name a configuration file")
    try:
        content = parse_yaml(text, str(path))
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: {error.problem or 'not YAML'}; fix the syntax") from error
    except UNREADABLE as error:
        raise UserError(f"{path}: {str(error).strip().splitlines()[0]}; fix it") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path}:1: holds {type(content).__name__}, wanted sections with keys; see configs/ for examples"
        )
    mapping = _without_dots(content, path)
    parents = mapping.pop("extends", [])
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise UserError(f"{path}: extends: {parents!r}; wanted a list of files, such as [../data/ml-100k.yaml]")
    merged: Mapped = {}
    for parent in parents:
        merged = _merge(merged, read_yaml(path.parent / parent, (*_open, path)))
    return _merge(merged, mapping)


def validate(cls: type[S], mapping: Mapping[str, Any]) -> S:
    """Check a plain mapping against the schema, strictly.

    Raises:
        UserError: a value is wrong; the message names the field, the value and what is wanted. For an unknown name it
            suggests the likely one.
    """
    _refuse_unwieldy(mapping)
    text = json.dumps(_with_families(cls, _without_removed(mapping)))
    try:
        return cls.model_validate_json(text)
    except ValidationError as error:
        raise UserError(explained(cls, error)) from error


def with_overrides(config: S, overrides: Mapping[str, Any]) -> S:
    """Return the configuration with dotted keys set to native values, validated like all others."""
    cls = type(config)
    return validate(cls, _with_settings(cls, config.model_dump(mode="json"), list(overrides.items())))


def flatten(config: BaseModel) -> dict[str, str | int | float | bool | None]:
    """Return dotted key → value, with lists and free mappings as JSON text."""
    flat: dict[str, str | int | float | bool | None] = {}

    def visit(prefix: str, section: BaseModel) -> None:
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, BaseModel):
                visit(f"{prefix}{name}.", value)
            elif value is None or isinstance(value, str | int | float | bool):
                flat[prefix + name] = value
            else:
                flat[prefix + name] = json.dumps(value)

    visit("", config)
    return flat


def _with_settings(cls: type[BaseModel], mapping: Mapped, overrides: Sequence[tuple[str, Any]]) -> Mapped:
    """Set dotted keys in their order, but a `type` first, because it replaces its section."""
    mapping = _with_families(cls, mapping)
    overrides = [((isinstance(value, str) and main_setting(cls, key)) or key, value) for key, value in overrides]
    for above in (key for key, value in overrides if isinstance(value, str)):
        for key in (key for key, _ in overrides if key.startswith(f"{above}.")):
            raise UserError(f"{key}: no such setting; {above} is a single value here")
    for key, value in sorted(overrides, key=lambda override: not override[0].endswith(".type")):
        mapping = _merge(mapping, _nested(key, value))
    return mapping


def _without_dots(content: Mapping[str, Any], path: Path, above: str = "") -> Mapped:
    """Nest the dotted keys of a file, which mean what they mean on the command line."""
    mapping: Mapped = {}
    for key, value in content.items():
        inner = isinstance(value, Mapping) and f"{above}{key}" not in OPEN_SECTIONS
        plain = _without_dots(value, path, f"{above}{key}.") if inner else value
        _add(mapping, _nested(str(key), plain), path, above)
    return mapping


def _add(mapping: Mapped, more: Mapping[str, Any], path: Path, above: str) -> None:
    """Add keys to a mapping, and refuse one that it holds."""
    for key, value in more.items():
        old = mapping.setdefault(key, value)
        if old is value:
            continue
        if not isinstance(old, dict) or not isinstance(value, Mapping):
            raise UserError(f"{path}: '{above}{key}' is given twice; keep one of them")
        _add(old, value, path, f"{above}{key}.")


def _nested(key: str, value: Any) -> Mapped:
    first, _, rest = key.partition(".")
    if not rest:
        return {first: value}
    return {first: {rest: value} if first in OPEN_SECTIONS else _nested(rest, value)}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any], path: str = "") -> Mapped:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if not path and key in OPEN_SECTIONS and isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = {**old, **value}  # a dotted key of a space is replaced as a whole
        elif isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("type") in (None, old.get("type")):
            merged[key] = _merge(old, value, f"{path}{key}.")
        else:
            merged[key] = value
    return merged


def _with_families(cls: type[BaseModel], mapping: Mapping[str, Any]) -> Mapped:
    """Name the default family of a section that is given without its `type`."""
    plain = dict(mapping)
    for name, field in cls.model_fields.items():
        family = getattr(field.default, "type", None)
        if family is not None and isinstance(plain.get(name), Mapping):
            plain[name] = {"type": family, **plain[name]}
    return plain


def _without_removed(mapping: Mapping[str, Any]) -> Mapped:
    """Drop the keys of open sections that a later source set to null."""
    plain = dict(mapping)
    for section in OPEN_SECTIONS:
        if isinstance(plain.get(section), Mapping):
            plain[section] = {key: value for key, value in plain[section].items() if value is not None}
    return plain


def _refuse_unwieldy(value: Any, key: str = "") -> None:
    """Refuse values that are not JSON and numbers beyond 64 bits, which no setting takes."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _refuse_unwieldy(str(name), f"{key}{name}")
            _refuse_unwieldy(inner, f"{key}{name}.")
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_unwieldy(inner, key)
    elif isinstance(value, str):
        if "\0" in value or not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise UserError(f"{key.rstrip('.')}: {value!r} holds a character that is no text; take it out")
    elif isinstance(value, int):
        if abs(value) >= MAX_INTEGER:
            raise UserError(f"{key.rstrip('.')}: {value} is beyond 64 bits; give a smaller number")
    elif value is not None and not isinstance(value, float):
        raise UserError(f"{key.rstrip('.')}: {value!r}; wanted text, a number, true, false or null")
