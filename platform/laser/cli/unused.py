"""Finds settings that were changed and that nothing reads, so that nobody waits for an effect that cannot come."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from laser.config.compose import flatten, with_overrides
from laser.config.fields import conditions, marked
from laser.config.identity import changed_settings
from laser.config.marks import LABEL, RECORDING, THIS_SESSION, ReadIf
from laser.config.schema import Experiment
from laser.errors import UserError

OFF = (None, False, 0, "none")
"""Values that switch something off."""


def unused_settings(config: BaseModel) -> dict[str, str]:
    """Return why nothing reads a setting, by its key: of those that differ from the default or that a search varies."""
    values, varied = flatten(config), getattr(config, "space", {})
    given = {key for key in changed_settings(config) if values[key] != "none"} - _default_families(config)
    return {key: why for key, why in _unread(type(config), values, varied).items() if key in given | varied.keys()}


def unused_line(config: BaseModel) -> str | None:
    """Return one line on the settings that nothing reads, such as `head.dropout (head.width is null)`; None if none."""
    unused = unused_settings(config)
    if not unused:
        return None
    return f"without effect here: {', '.join(f'{key} ({reason})' for key, reason in unused.items())}"


def refuse_unused(space: Iterable[str], base: Experiment, trials: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a space over a setting that changes nothing in any of the trials: each would repeat one result.

    Args:
        space: dotted keys of what the trials vary.
        base: the experiment that they vary.
        trials: overrides of all trials, or of a sample of them.

    Raises:
        UserError: names the setting, and why nothing reads it.
    """
    reasons = dict.fromkeys(space, "")  # of the settings that no trial so far reads
    for overrides in trials:
        unread = dict.fromkeys(marked(Experiment, LABEL, RECORDING, THIS_SESSION), "it says where a run is kept")
        unread |= _unread(Experiment, flatten(with_overrides(base, overrides)), {})
        reasons = {key: unread[key] for key in reasons if key in unread}
    for key, why in reasons.items():
        raise UserError(f"space.{key}: changes nothing, because {why}; leave it out, or change that")


def _unread(cls: type[BaseModel], values: Mapping[str, Any], varied: Mapping[str, Any]) -> dict[str, str]:
    """Return why nothing reads a setting, by its key: of all settings of the schema."""
    reasons: dict[str, str] = {}
    for key, marks in conditions(cls).items():
        whys = [why for mark in marks if (why := _reason(mark, values, varied)) is not None]
        reasons |= {key: whys[0]} if whys else {}
    return reasons


def _default_families(config: BaseModel) -> set[str]:
    """Return the keys of the types that are the schema's default; keys of results name them all the same."""
    families = {name: getattr(field.default, "type", None) for name, field in type(config).model_fields.items()}
    return {f"{name}.type" for name, family in families.items() if family and getattr(config, name).type == family}


def _reason(mark: ReadIf, values: Mapping[str, Any], varied: Mapping[str, Any]) -> str | None:
    """Return why the mark does not hold; None where it holds, or may hold in a trial of a search."""
    for key, wanted in mark.alternatives:
        value = values.get(key)
        if key not in values or key in varied or (value in wanted if wanted else value not in OFF):
            return None
    return " and ".join(f"{key} is {json.dumps(values[key]).strip(chr(34))}" for key, _ in mark.alternatives)
