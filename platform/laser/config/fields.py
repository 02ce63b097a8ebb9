"""The settings of a schema by their dotted keys, and the marks that they carry."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from laser.config.marks import Mark, ReadIf


def sections(cls: type[BaseModel], name: str) -> list[type[BaseModel]]:
    """Return the section classes that a field may hold: one, or the members of a family."""
    found: list[type[BaseModel]] = []
    queue: list[Any] = [cls.model_fields[name].annotation]
    while queue:
        annotation = queue.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        else:
            queue.extend(getattr(annotation, "__args__", ()))
    return found


@cache
def settings(cls: type[BaseModel]) -> Mapping[str, list[FieldInfo]]:
    """Return every setting by its dotted key; several fields where the members of a family share a key."""
    found: dict[str, list[FieldInfo]] = {}
    for key, fields in _paths(cls):
        found.setdefault(key, []).append(fields[-1])
    return found


@cache
def marked(cls: type[BaseModel], *marks: Mark) -> tuple[str, ...]:
    """Return the dotted keys of the settings that carry one of the marks, in the order of the schema.

    A mark on the field of a section counts for all settings inside. Of a key that the members of a family share, one
    marked field is enough.
    """
    carry = (key for key, fields in _paths(cls) if any(_carries(field, marks) for field in fields))
    return tuple(dict.fromkeys(carry))


def conditions(cls: type[BaseModel]) -> dict[str, tuple[ReadIf, ...]]:
    """Return when each setting is read, by its dotted key: the innermost marks count. Settings without are left out."""
    found: dict[str, tuple[ReadIf, ...]] = {}
    for key, fields in _paths(cls):
        levels = (tuple(mark for mark in field.metadata if isinstance(mark, ReadIf)) for field in reversed(fields))
        innermost = next(filter(None, levels), ())
        if innermost:
            found[key] = innermost
    return found


def without(section: BaseModel, *marks: Mark) -> dict[str, Any]:
    """Dump a section as JSON-able values, without the settings and sections that carry one of the marks."""
    plain = section.model_dump(mode="json")
    kept: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        if not _carries(field, marks):
            value = getattr(section, name)
            kept[name] = without(value, *marks) if isinstance(value, BaseModel) else plain[name]
    return kept


def _paths(cls: type[BaseModel], above: tuple[FieldInfo, ...] = ()) -> Iterator[tuple[str, tuple[FieldInfo, ...]]]:
    """Yield the dotted key of each setting with its field, the last one, and the fields of the sections around it."""
    for name, field in cls.model_fields.items():
        members = sections(cls, name)
        if not members:
            yield name, (*above, field)
        for member in members:
            for key, fields in _paths(member, (*above, field)):
                yield f"{name}.{key}", fields


def _carries(field: FieldInfo, marks: tuple[Mark, ...]) -> bool:
    return any(mark in field.metadata for mark in marks)
