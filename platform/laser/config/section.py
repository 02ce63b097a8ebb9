"""The base of every section of the settings: immutable and strict, with a docstring under each field for its help."""

from typing import Annotated, ClassVar

from annotated_types import MinLen
from pydantic import BaseModel, ConfigDict, Field

PositiveFraction = Annotated[float, Field(gt=0.0, le=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
PathText = Annotated[str, MinLen(1)]  # an empty one would be the working directory
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]  # the range that all random generators take


class Section(BaseModel):
    """Base of all sections: immutable, strict, without unknown keys. The docstring under a field is its help text."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    main: ClassVar[str | None] = None
    """The setting that a section given as text stands for: `data=<folder>` is `data.path=<folder>`."""
    neutral: ClassVar[bool] = False
    """Whether this member of a family changes nothing. Keys are made as if its section were not there, so that a family
    which the schema gains later leaves the keys of stored results as they are."""
