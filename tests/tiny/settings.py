"""Random settings, drawn from the schema's own types, literals, bounds and unions: a new setting is drawn too."""

from collections.abc import Mapping, Sequence
from random import Random
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Pools = Mapping[str, tuple[Any, ...]]
"""A setting's dotted key, or the end of it → the values to draw from, where its type does not say what is cheap or
exists."""

TEXTS = ("", "Sum up", "a\nb", "Zürich ☃", "{title}")
SMALL = (0, 0, 1, 1, 2, 3, 5)
"""Drawn integers are so much above their lower bound."""
KEPT = (0.2, 0.5, 0.8)
"""Shares of the settings that keep their default, where that is cheap."""
FACTORS = (0.5, 1.0, 2.0)
"""Drawn numbers are so many times their default."""


def draw(cls: type[BaseModel], random: Random, pools: Pools) -> dict[str, Any]:
    """Draw every setting of a schema. Each section is valid by itself, but they need not agree with one another.

    A share of the settings keeps its default, and that share is drawn too: some configurations differ from the
    schema's in little, others in nearly everything.
    """
    return _Draw(random, pools, random.choice(KEPT)).section(cls, "")


class _Draw:
    """Draws one configuration."""

    def __init__(self, random: Random, pools: Pools, kept: float) -> None:
        self.random, self.pools, self.kept = random, pools, kept

    def section(self, cls: type[BaseModel], path: str) -> dict[str, Any]:
        return {name: self.setting(field, f"{path}{name}") for name, field in cls.model_fields.items()}

    def setting(self, field: FieldInfo, key: str) -> Any:
        for end, values in self.pools.items():
            if key == end or key.endswith(f".{end}"):
                return self.random.choice(values)
        if _is_cheap(field.default) and self.random.random() < self.kept:
            return field.default
        return self.value(field.annotation, field.metadata, field, key)

    def value(self, kind: Any, marks: list[Any], field: FieldInfo, key: str) -> Any:
        """Draw a value of an annotation."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self.value(arguments[0], [*marks, *_flat(arguments[1:])], field, key)
        if origin in (Union, UnionType):
            return self.value(self.random.choice(arguments), marks, field, key)
        if origin is tuple:
            return [self.value(arguments[0], [], field, key) for _ in range(self.random.randrange(3))]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return self.valid(kind, f"{key}.")
        return self.random.choice(_candidates(kind, marks, field, key))

    def valid(self, cls: type[BaseModel], path: str) -> dict[str, Any]:
        """Draw a section until it is valid."""
        for _ in range(1000):
            values = self.section(cls, path)
            try:
                cls.model_validate(values, strict=False)
            except ValidationError:
                continue  # settings that have to agree, such as a width and its number of heads
            return values
        raise AssertionError(f"no valid {cls.__name__} in 1000 draws")


def _is_cheap(default: Any) -> bool:
    """Tell whether a default takes no time; a large number of layers, epochs or dimensions does."""
    return default is None or isinstance(default, str | float | bool) or isinstance(default, int) and default <= 8


def _candidates(kind: Any, marks: list[Any], field: FieldInfo, key: str) -> Sequence[Any]:
    """Return the values to draw a plain value from."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    numbers: list[Any] = []
    if kind is int:
        numbers = [_low(marks) + number for number in SMALL]
    elif kind is float:
        numbers = _numbers(field.default, marks)
    plain = {NoneType: [None], bool: [False, True], str: TEXTS}
    candidates = plain.get(kind, [number for number in numbers if _within(number, marks)])
    assert candidates, f"{key}: no way to draw {kind}; teach tests/tiny/settings.py"
    return candidates


def _numbers(default: Any, marks: list[Any]) -> list[float]:
    """Return the default and numbers near it, and the bounds. A rate without default or bound is small."""
    unknown = [0.0, 0.5 if any(isinstance(mark, Le | Lt) for mark in marks) else 1e-3]
    around = [default * factor for factor in FACTORS] if isinstance(default, float) and default else unknown
    bounds = [mark.ge if isinstance(mark, Ge) else mark.le for mark in marks if isinstance(mark, Ge | Le)]
    return [float(value) for value in (*around, *bounds)]


def _low(marks: list[Any]) -> int:
    return next((m.ge if isinstance(m, Ge) else m.gt + 1 for m in marks if isinstance(m, Ge | Gt)), 0)


def _within(value: float, marks: list[Any]) -> bool:
    tests = {
        Ge: lambda m: value >= m.ge,
        Gt: lambda m: value > m.gt,
        Le: lambda m: value <= m.le,
        Lt: lambda m: value < m.lt,
    }
    return all(test(mark) for mark in marks for kind, test in tests.items() if isinstance(mark, kind))


def _flat(marks: tuple[Any, ...]) -> list[Any]:
    """Return constraints one by one; a `Field(...)` holds several."""
    return [inner for mark in marks for inner in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
