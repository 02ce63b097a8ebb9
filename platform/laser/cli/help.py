"""What `--help` and the reference of the documentation say of settings: key, default, kind and meaning."""

import builtins
import json
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from laser.config.fields import sections


@dataclass(frozen=True)
class SectionHelp:
    """What the settings of a section have in common."""

    key: str
    """Dotted key of the section."""
    family: str | None
    """The `type` that it is for, where a section has several forms."""
    meaning: str


@dataclass(frozen=True)
class SettingHelp:
    """One setting."""

    key: str
    """Dotted key."""
    default: str | None
    """As JSON; None where a value must be given."""
    kind: str
    """The values that it takes: `whole number > 0 or null`."""
    meaning: str


def help_text(job: str, config_class: type[BaseModel], default: Path | None) -> str:
    """Return the job's docstring, its usage, and every setting with its default, its kind and its meaning."""
    usage = f"usage: python jobs/{Path(sys.argv[0]).name} [config=<file.yaml>] [section.key=value ...]"
    file = (
        f"Without config= it reads {default} of this project."
        if default
        else "It reads no file unless config= names one."
    )
    notes = (
        f"{file} Files follow YAML. So do values, but text is taken as written: name=10 and "
        'prompt.instruction="User #1: no" need no quotes within. The last value of a setting wins. data, llm and '
        "recommender given as text stand for data.path, llm.source and recommender.type. Settings and their defaults:"
    )
    return "\n".join([job.strip(), "", usage, notes, "", *_help_lines(config_class)])


def _help_lines(config_class: type[BaseModel]) -> Iterator[str]:
    for entry in described(config_class):
        if isinstance(entry, SectionHelp):
            yield ""
            yield f"{entry.key}{f' ({entry.family})' if entry.family else ''}: {entry.meaning}"
        else:
            default = "(required)" if entry.default is None else f"= {entry.default}"
            yield f"  {entry.key} {default}   [{entry.kind}]"
            yield textwrap.fill(entry.meaning, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)


def described(section: type[BaseModel], prefix: str = "") -> Iterator[SectionHelp | SettingHelp]:
    """Describe all settings of a schema in its order; before those of a section comes the section."""
    for name, field in section.model_fields.items():
        members = sections(section, name)
        if not members:
            default = None if field.is_required() else json.dumps(field.default)
            kind, meaning = _kind(field.annotation, field.metadata), _one_line(field.description)
            yield SettingHelp(f"{prefix}{name}", default, kind, meaning)
        for member in members:
            family = member.model_fields["type"].default if "type" in member.model_fields else None
            yield SectionHelp(f"{prefix}{name}", family, _one_line(member.__doc__))
            yield from described(member, f"{prefix}{name}.")


def _kind(annotation: Any, bounds: Iterable[Any] = ()) -> str:
    """Describe the values that a setting takes: `whole number > 0 or null`."""
    parts = get_args(annotation)
    match get_origin(annotation):
        case typing.Annotated:
            inner = [item for part in parts[1:] for item in getattr(part, "metadata", [part])]
            return _kind(parts[0], [*inner, *bounds])
        case typing.Literal:
            return " | ".join(map(str, parts))
        case typing.Union | types.UnionType:
            return " or ".join(_kind(part) for part in parts)
        case builtins.tuple:
            return f"list of {_kind(parts[0])}"
        case builtins.dict:
            return "mapping"
    limits = [
        f"{sign} {getattr(bound, name)}" for bound in bounds for name, sign in _BOUNDS.items() if hasattr(bound, name)
    ]
    return " ".join([_WORDS[annotation], ", ".join(limits)]).strip()


_WORDS = {int: "whole number", float: "number", str: "text", bool: "true | false", type(None): "null", Any: "any"}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
