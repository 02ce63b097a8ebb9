"""What a user is told about a value that the schema refuses: the setting, the value and the remedy, in one line."""

import difflib
import json
import re
from collections.abc import Iterable

from pydantic import BaseModel, ValidationError

from laser.config.fields import sections, settings


def explained(cls: type[BaseModel], error: ValidationError) -> str:
    """Return one line on the first value that is wrong: field, value, remedy."""
    first = error.errors()[0]
    if not first["loc"] and first["type"] == "value_error":  # of sections together; the message names one
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


def no_such_setting(cls: type[BaseModel], key: str, siblings: Iterable[str] = ()) -> str:
    """Return what to tell the user about an unknown dotted key.

    The line names the likely key: one of `siblings`, else one of all keys.
    """
    every = list(settings(cls))
    section, _, name = key.rpartition(".")
    if key in every and f"{section}.type" in every:
        return f"{key}: not a setting of the chosen {section}.type; leave it out, or choose another type"
    siblings = siblings or [other[len(section) + 1 :] for other in every if other.startswith(f"{section}.")]
    elsewhere = {other.rpartition(".")[2]: other for other in every}
    close = difflib.get_close_matches(name, list(siblings), n=1)
    close = close or [elsewhere[other] for other in difflib.get_close_matches(name, list(elsewhere), n=1, cutoff=0.8)]
    return f"{key}: no such setting; " + (f"did you mean {close[0]}?" if close else "see --help for the settings")


def complaint(error: ValidationError) -> str:
    """Return the first wrong value and what is wanted in its place."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if first["type"] in ("int_type", "float_type") and re.fullmatch(r"[-+]?[0-9].*", str(first["input"])):
        message += ", in decimal digits without quotes or leading zeros"
    message += {"string_type": ", in quotes", "tuple_type": ", such as [a, b]"}.get(first["type"], "")
    return f"{json.dumps(first['input'])}; {message[0].lower()}{message[1:]}"


def _family(section: type[BaseModel]) -> str | None:
    return section.model_fields["type"].default if "type" in section.model_fields else None
