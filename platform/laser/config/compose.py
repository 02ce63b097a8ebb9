"""From YAML files and `section.key=value` to a validated configuration.

One path for all: files, the command line, samples of a search and tests become one plain mapping, which is validated
strictly. Later sources win; a changed `type` replaces its section instead of merging with it.
"""

import difflib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from laser.config.section import Section
from laser.errors import UserError

S = TypeVar("S", bound=BaseModel)
Mapped = dict[str, Any]

MAX_CHARACTERS = 1 << 20
"""Of a configuration file or argument; a file that is longer is no configuration."""
MAX_NODES = 10_000
"""Keys, values and lists of a configuration, aliases written out: a few lines of aliases can stand for billions."""
MAX_INTEGER = 1 << 63
"""First integer that no tensor, table or database of ours can hold."""
OPEN_SECTIONS = ("space",)
"""Sections whose own keys are dotted: the rest of the path is one key (`space.mformer.num_experts`)."""


def load_config(cls: type[S], arguments: Sequence[str], default: Path | None) -> S:
    """Compose the configuration of a job from `[config=<file.yaml>] [section.key=value ...]`.

    Args:
        cls: the schema.
        arguments: command-line words; the last value of a key wins.
        default: the file to start from where no `config=` is given.

    Raises:
        UserError: an argument, file or value is wrong; names it, its value and the remedy.
    """
    file, overrides = default, []
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator or not key:
            raise UserError(f"{argument}: not of the form key=value; see --help for the keys")
        if key == "config":
            file = Path(text)
        else:
            overrides.append((key, _parse_value(key, text)))
    return validate(cls, _with_settings(cls, read_yaml(file) if file is not None else {}, overrides))


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
        content = _plain(text, str(path))
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: {error.problem or 'not YAML'}; mend the syntax") from error
    except UNREADABLE as error:
        raise UserError(f"{path}: {_first_line(error)}; mend it") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path}:1: holds {type(content).__name__}, wanted sections with keys; see configs/ for examples"
        )
    mapping: Mapped = {str(key): value for key, value in content.items()}
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
        UserError: names the first wrong field, its value, what is wanted and, for unknown names, the likely one.
    """
    _refuse_unwieldy(mapping)
    text = json.dumps(_with_families(cls, _without_removed(mapping)))
    try:
        return cls.model_validate_json(text)
    except ValidationError as error:
        raise UserError(_explain(cls, error)) from error


def with_overrides(config: S, overrides: Mapping[str, Any]) -> S:
    """The same configuration with dotted keys set to native values, validated like all others."""
    cls = type(config)
    return validate(cls, _with_settings(cls, config.model_dump(mode="json"), list(overrides.items())))


def flatten(config: BaseModel) -> dict[str, str | int | float | bool | None]:
    """Dotted key → value; lists and free mappings as JSON text."""
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


def settings(cls: type[BaseModel]) -> dict[str, list[FieldInfo]]:
    """Every setting by its dotted key; several fields where the members of a family share a key."""
    found: dict[str, list[FieldInfo]] = {}
    for name, field in cls.model_fields.items():
        members = sections(cls, name)
        if not members:
            found[name] = [field]
        for member in members:
            for key, fields in settings(member).items():
                found.setdefault(f"{name}.{key}", []).extend(fields)
    return found


def no_such_setting(cls: type[BaseModel], key: str, siblings: Iterable[str] = ()) -> str:
    """What to tell the user about an unknown dotted key, with the likely one: first of `siblings`, then of all."""
    every = list(settings(cls))
    section, _, name = key.rpartition(".")
    if key in every:
        return f"{key}: not a setting of the chosen {section}.type; leave it out, or choose another type"
    siblings = siblings or [other[len(section) + 1 :] for other in every if other.startswith(f"{section}.")]
    elsewhere = {other.rpartition(".")[2]: other for other in every}
    close = difflib.get_close_matches(name, list(siblings), n=1)
    close = close or [elsewhere[other] for other in difflib.get_close_matches(name, list(elsewhere), n=1, cutoff=0.8)]
    return f"{key}: no such setting; " + (f"did you mean {close[0]}?" if close else "see --help for the settings")


def complaint(error: ValidationError) -> str:
    """Value and what is wanted, for the first thing that pydantic complains about."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{json.dumps(first['input'])}; {message[0].lower()}{message[1:]}"


def sections(cls: type[BaseModel], name: str) -> list[type[BaseModel]]:
    """The section classes that a field may hold: one, or the members of a family."""
    found: list[type[BaseModel]] = []
    queue: list[Any] = [cls.model_fields[name].annotation]
    while queue:
        annotation = queue.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        else:
            queue.extend(getattr(annotation, "__args__", ()))
    return found


def _parse_value(key: str, text: str) -> Any:
    """The native value of command-line text, by the rules of a YAML file."""
    try:
        container = _plain(f"value: {text}", key)
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{key}: {text!r} cannot be read ({_first_line(error)}); quote it as YAML asks for") from error
    if not isinstance(container, dict) or list(container) != ["value"]:
        raise UserError(f"{key}: {text!r} is more than one value; quote it as YAML asks for")
    return container["value"]


UNREADABLE = (yaml.YAMLError, OmegaConfBaseException, TypeError, ValueError, RecursionError)
"""What the parsers raise at text that is no configuration; ValueError: an integer of thousands of digits."""


def _plain(text: str, where: str) -> Any:
    """YAML as mappings, lists and scalars.

    Nothing is resolved: `${oc.env:...}` would copy secrets of the environment into what MLflow records.

    Args:
        text: YAML.
        where: file or key, for messages.

    Raises:
        UserError: a key twice, an interpolation, or too much.
        UNREADABLE: the parsers' words.
    """
    tree = yaml.compose(text, Loader=yaml.SafeLoader)
    if tree is None:
        return {}
    try:
        _check_node(where, tree, itertools.count(1))
    except RecursionError:
        raise UserError(f"{where}: nested too deeply, or within itself; write it flat") from None
    if isinstance(tree, yaml.ScalarNode):
        return {} if tree.tag.endswith(":null") else tree.value
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def _with_settings(cls: type[BaseModel], mapping: Mapped, overrides: Sequence[tuple[str, Any]]) -> Mapped:
    """Set dotted keys, later ones over earlier ones; a `type` first, because it replaces the section of the others."""
    mapping = _with_families(cls, mapping)
    overrides = [(_main_setting(cls, key, value), value) for key, value in overrides]
    for key, value in sorted(overrides, key=lambda override: not override[0].endswith(".type")):
        mapping = _merge(mapping, _nested(key, value))
    return mapping


def _main_setting(cls: type[BaseModel], key: str, value: Any) -> str:
    """A section given as text stands for its main setting: `data` for `data.path`."""
    members = sections(cls, key) if isinstance(value, str) and key in cls.model_fields else []
    main = next((member.main for member in members if issubclass(member, Section) and member.main), None)
    return f"{key}.{main}" if main else key


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


def _check_node(where: str, node: yaml.Node, number: Iterator[int]) -> None:
    """Refuse keys given twice, interpolations, and more nodes than a configuration has."""
    line = node.start_mark.line + 1
    if next(number) > MAX_NODES:
        raise UserError(f"{where}:{line}: more than {MAX_NODES} values, aliases written out; shorten it")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise UserError(f"{where}:{key.start_mark.line + 1}: {name!r} is given twice; keep one of them")
            seen.add(name)
            _check_node(where, value, number)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_node(where, value, number)
    elif "${" in node.value:
        raise UserError(f"{where}:{line}: {node.value!r}; interpolations are not read, write the value out")


def _refuse_unwieldy(value: Any, key: str = "") -> None:
    """Refuse what no setting can be, whatever its type: values that are not JSON, and numbers beyond 64 bits."""
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


def _explain(cls: type[BaseModel], error: ValidationError) -> str:
    """One line for the first complaint: field, value, remedy."""
    first = error.errors()[0]
    if not first["loc"] and first["type"] == "value_error":  # sections that do not agree: the message names the field
        return first["msg"].removeprefix("Value error, ")
    names: list[str] = []
    parents, here = [cls], [cls]
    for part in map(str, first["loc"]):
        chosen = [section for section in here if names and _family(section) == part]
        if chosen:  # pydantic names the chosen member of a family; the user did not write it
            here = chosen
            continue
        names.append(part)
        parents, here = (
            here,
            [member for parent in here if part in parent.model_fields for member in sections(parent, part)],
        )
    field = ".".join(names)
    match first["type"]:
        case "extra_forbidden":
            return no_such_setting(cls, field, [name for parent in parents for name in parent.model_fields])
        case "missing":
            return f"{field}: missing; give {field}=<value>"
        case "union_tag_invalid":
            return f"{field}.type: {json.dumps(first['input']['type'])}; wanted one of {first['ctx']['expected_tags']}"
    return f"{field}: {complaint(error)}" if field else complaint(error)


def _family(section: type[BaseModel]) -> str | None:
    return section.model_fields["type"].default if "type" in section.model_fields else None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
