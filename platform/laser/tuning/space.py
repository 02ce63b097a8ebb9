"""Search spaces: which settings a search varies, and over which values.

The module is free of Ray, so that mistakes show at once. An example:

space:
  mformer.num_experts: {choice: [2, 4, 8]}
  training.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}
"""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from laser.config.explain import complaint, no_such_setting
from laser.config.fields import settings
from laser.errors import UserError


@dataclass(frozen=True)
class Choice:
    """One of `values`, all equally likely; a grid takes each of them."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Uniform:
    """A number between `low` and `high`."""

    low: float
    high: float


@dataclass(frozen=True)
class LogUniform:
    """A number between `low` > 0 and `high` whose logarithm is uniform."""

    low: float
    high: float


@dataclass(frozen=True)
class RandInt:
    """A whole number from `low` up to `high`, which is excluded."""

    low: int
    high: int


Domain = Choice | Uniform | LogUniform | RandInt

_RANGES: dict[str, type[Uniform] | type[LogUniform] | type[RandInt]] = {
    "uniform": Uniform,
    "loguniform": LogUniform,
    "randint": RandInt,
}
_KINDS = "{choice: [..]}, {uniform: [low, high]}, {loguniform: [low, high]} or {randint: [low, high]}"


def parse_space(space: Mapping[str, Any], config_class: type[BaseModel]) -> dict[str, Domain]:
    """Check a space against the schema of what it varies.

    Each value is checked by itself, with the type and bounds of its setting. Whether the values of a trial go together
    shows when they are put into a configuration.

    Args:
        space: dotted key of a setting → `{choice: [..]}`, `{uniform: [low, high]}`, `{loguniform: [low, high]}` or
            `{randint: [low, high]}` (high excluded).
        config_class: the schema.

    Raises:
        UserError: nothing varies, no such setting, not a definition, or a value that the setting does not take.
    """
    if not space:
        raise UserError(
            "space: varies nothing; give at least one setting, such as space.mformer.num_experts={choice: [4, 8]}"
        )
    return {key: _domain(key, definition, config_class) for key, definition in space.items()}


def grid(space: Mapping[str, Domain]) -> list[dict[str, Any]]:
    """Return every combination of the choices; the last setting varies fastest.

    Raises:
        UserError: a setting is not a choice.
    """
    for key, domain in space.items():
        if not isinstance(domain, Choice):
            kind = type(domain).__name__.lower()
            raise UserError(
                f"space.{key}: a grid cannot try all of {kind}; give a choice, or set search.algorithm=random"
            )
    values = (domain.values for domain in space.values() if isinstance(domain, Choice))
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*values)]


def _domain(key: str, definition: Any, config_class: type[BaseModel]) -> Domain:
    every = settings(config_class)
    if key not in every:
        inside = [other for other in every if other.startswith(f"{key}.")]
        raise UserError(
            f"space.{key}: is a section; vary its settings, such as {inside[0]}"
            if inside
            else f"space.{no_such_setting(config_class, key)}"
        )
    if not isinstance(definition, Mapping) or len(definition) != 1:
        raise UserError(f"space.{key}: {_text(definition)}; give one of {_KINDS}")
    ((kind, values),) = definition.items()
    if not isinstance(values, list | tuple) or kind not in ("choice", *_RANGES):
        raise UserError(f"space.{key}: {_text(definition)}; give one of {_KINDS}")
    domain = _choice(key, values) if kind == "choice" else _range(key, kind, values)
    types: list[TypeAdapter[Any]] = [
        TypeAdapter(Annotated[field.annotation, field], config=config_class.model_config)  # type: ignore[arg-type]
        for field in every[key]
    ]
    for value in _samples(domain):
        _check(key, value, types)
    return domain


def _choice(key: str, values: list[Any] | tuple[Any, ...]) -> Choice:
    texts = [_text(value) for value in values]
    if not values or len(set(texts)) < len(texts):
        raise UserError(f"space.{key}: choice {_text(values)}; give at least one value, and each once")
    return Choice(tuple(values))


def _range(key: str, kind: str, values: list[Any] | tuple[Any, ...]) -> Domain:
    wanted = int if kind == "randint" else int | float
    numbers = [
        value for value in values if isinstance(value, wanted) and not isinstance(value, bool) and math.isfinite(value)
    ]
    if len(numbers) != len(values) or len(values) != 2 or not values[0] < values[1]:
        whole = "whole " if kind == "randint" else ""
        raise UserError(f"space.{key}: {kind} {_text(values)}; give [low, high], two {whole}numbers with low < high")
    if kind == "loguniform" and values[0] <= 0:
        raise UserError(f"space.{key}: loguniform {_text(values)}; low must be above 0")
    return _RANGES[kind](*values)


def _samples(domain: Domain) -> tuple[Any, ...]:
    """Return values that the setting must take: all choices, or the ends of a range and a number between them."""
    match domain:
        case Choice():
            return domain.values
        case RandInt():
            return (domain.low, domain.high - 1)
    # The third value is a fraction, so that a setting of whole numbers refuses a range of fractions.
    return (domain.low, domain.high, domain.low + (domain.high - domain.low) / math.pi)


def _check(key: str, value: Any, types: list[TypeAdapter[Any]]) -> None:
    """Refuse a value that no member of the setting's family takes."""
    errors = []
    for adapter in types:
        try:
            adapter.validate_json(_text(value))
            return
        except ValidationError as error:
            errors.append(error)
    raise UserError(f"space.{key}: {complaint(errors[0])}")


def _text(value: Any) -> str:
    return json.dumps(value, default=str)
