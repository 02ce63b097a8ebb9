"""Finds settings that were changed and that nothing reads, so that nobody waits for an effect that cannot come."""

import json
from typing import Any

from pydantic import BaseModel

from laser.config.compose import flatten
from laser.config.fields import conditions
from laser.config.identity import changed_settings
from laser.config.marks import ReadIf

OFF = (None, False, 0, "none")
"""Values that switch something off."""


def unused_settings(config: BaseModel) -> dict[str, str]:
    """Return why nothing reads a setting, by its key: of those that differ from the default or that a search varies."""
    values, varied = flatten(config), getattr(config, "space", {})
    given = {key for key in changed_settings(config) if values[key] != "none"} - _default_families(config)
    unused: dict[str, str] = {}
    for key, marks in conditions(type(config)).items():
        reasons = [reason for mark in marks if (reason := _reason(mark, values, varied)) is not None]
        if reasons and key in given | varied.keys():
            unused[key] = reasons[0]
    return unused


def unused_line(config: BaseModel) -> str | None:
    """Return one line on the settings that nothing reads, such as `head.dropout (head.width is null)`; None if none."""
    unused = unused_settings(config)
    if not unused:
        return None
    return f"without effect here: {', '.join(f'{key} ({reason})' for key, reason in unused.items())}"


def _default_families(config: BaseModel) -> set[str]:
    """Return the keys of the types that are the schema's default; keys of results name them all the same."""
    families = {name: getattr(field.default, "type", None) for name, field in type(config).model_fields.items()}
    return {f"{name}.type" for name, family in families.items() if family and getattr(config, name).type == family}


def _reason(mark: ReadIf, values: dict[str, Any], varied: dict[str, Any]) -> str | None:
    """Return why the mark does not hold; None where it holds, or may hold in a trial of a search."""
    for key, wanted in mark.alternatives:
        value = values.get(key)
        if key not in values or key in varied or (value in wanted if wanted else value not in OFF):
            return None
    return " and ".join(f"{key} is {json.dumps(values[key]).strip(chr(34))}" for key, _ in mark.alternatives)
