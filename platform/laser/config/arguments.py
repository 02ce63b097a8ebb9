"""Values of the command line: as written where a setting is text, and by the rules of a YAML file elsewhere."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from laser.config.fields import sections, settings
from laser.config.section import Section
from laser.errors import UserError
from laser.storage.yaml_text import UNREADABLE, Words, parse_yaml, quoted_text, refuse_interpolation

OPEN_SECTIONS = ("space",)
"""Sections whose own keys are dotted: in `space.mformer.num_experts`, all that follows `space.` is one key."""


def parse_value(cls: type[BaseModel], key: str, text: str) -> Any:
    """Return the native value of a setting that is given as text.

    Text is text, whatever YAML would make of `#`, `: `, `no` or `010`. Quotes around all of it are taken off as YAML
    does, so that every value can be written. In lists, words stay text where the setting takes text: `[no, 010]`.

    Raises:
        UserError: the text cannot be read.
    """
    if _is_text(cls, key, text):
        refuse_interpolation(key, 1, text)
        unquoted = quoted_text(text)
        is_null = text in ("null", "~") and words(cls, key) == "text or null"
        return None if is_null else text if unquoted is None else unquoted
    try:
        container = parse_yaml(f"value: {text}", key, lambda path: words(cls, f"{key}{path.removeprefix('value')}"))
    except UserError:
        raise
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{key}: {text!r} cannot be read ({reason}); quote it as YAML asks for") from error
    if not isinstance(container, dict) or list(container) != ["value"]:
        raise UserError(f"{key}: {text!r} is more than one value; quote it as YAML asks for")
    return container["value"]


def main_setting(cls: type[BaseModel], key: str) -> str | None:
    """Return the setting that stands for a section, such as `data.path` for `data`; None if there is none."""
    members = sections(cls, key) if key in cls.model_fields else []
    main = next((member.main for member in members if issubclass(member, Section) and member.main), None)
    return f"{key}.{main}" if main else None


def words(cls: type[BaseModel], key: str) -> Words:
    """Say whether the words of a setting are text. A definition in a space has the words of the setting it varies."""
    for section in OPEN_SECTIONS:
        key = key.removeprefix(f"{section}.")
    key = key.removesuffix(".choice")
    kinds = {kind for field in settings(cls).get(key, ()) for kind in _kinds(field.annotation)}
    if str not in kinds or not kinds <= {str, type(None)}:
        return "typed"
    return "text or null" if type(None) in kinds else "text"


def _is_text(cls: type[BaseModel], key: str, text: str) -> bool:
    """Whether a value is one text: of a setting that takes no list, or of a section by its main setting."""
    if main_setting(cls, key) is not None:
        return not text.lstrip().startswith("{")
    fields = settings(cls).get(key)
    lists = (tuple in _kinds(field.annotation, lists=True) for field in fields or ())
    return fields is not None and words(cls, key) != "typed" and not any(lists)


def _kinds(annotation: Any, lists: bool = False) -> Iterator[Any]:
    """Yield the types of the single values that an annotation allows, or `tuple` for its lists."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from map(type, parts)
    elif origin is tuple and lists:
        yield tuple
    elif parts:
        for part in parts:
            if part is not Ellipsis:
                yield from _kinds(part, lists)
    else:
        yield annotation
