"""Which of the training users to train on, a section for each selector; torch-free, as all settings.

The module `laser.data.selectors.<type>` carries a selection out. A new one is a module there, and a section here in the
union.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from laser.config.section import Section


class AllUsers(Section):
    """Train on all training users."""

    main: ClassVar[str | None] = "type"
    neutral: ClassVar[bool] = True
    type: Literal["all"] = "all"
    """Which of the training users to train on."""


class SomeUsers(Section):
    """What the selections share that keep a number of users."""

    main: ClassVar[str | None] = "type"
    num_users: PositiveInt
    """Users to keep; all of them where there are no more."""


class RandomUsers(SomeUsers):
    """Train on a sample of the training users; training.seed is its seed."""

    type: Literal["random"] = "random"
    """Which of the training users to train on."""


class RecentUsers(SomeUsers):
    """Train on the users whose last training interaction is the latest; the data must have timestamps."""

    type: Literal["recent"] = "recent"
    """Which of the training users to train on."""


class LongestUsers(SomeUsers):
    """Train on the users with the longest training sequences."""

    type: Literal["longest"] = "longest"
    """Which of the training users to train on."""


SelectionConfig = Annotated[AllUsers | RandomUsers | RecentUsers | LongestUsers, Field(discriminator="type")]
"""Selectors of training users. Each is the module `laser.data.selectors.<type>`."""
