"""Which of the training users to train on, a section for each selector; torch-free, as all settings.

The module `laser.data.selectors.<type>` carries a selection out, but for those of `ScoredUsers`, which `laser.scoring`
carries out. A new one is a module there, and a section here in the union.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from laser.config.families.recommenders import SASRecConfig
from laser.config.marks import read_if
from laser.config.section import Fraction, NonNegativeFloat, PositiveFraction, Section


class AllUsers(Section):
    """Train on all training users."""

    main: ClassVar[str | None] = "type"
    neutral: ClassVar[bool] = True
    type: Literal["all"] = "all"
    """Which of the training users to train on."""


class SomeUsers(Section):
    """What the selections share that keep a number of users."""

    main: ClassVar[str | None] = "type"
    num_users: PositiveInt | None = None
    """Users to keep; all of them where there are no more. Give this or fraction."""
    fraction: PositiveFraction | None = None
    """Share of the users to keep, at least one user. Give this or num_users."""

    @model_validator(mode="after")
    def _one_size(self) -> "SomeUsers":
        if (self.num_users is None) == (self.fraction is None):
            raise ValueError(f"num_users: {self.num_users}, fraction: {self.fraction}; give one of them")
        return self

    def size(self, num_users: int) -> int:
        """Return how many of so many users to keep."""
        return min(num_users, self.num_users or max(1, round((self.fraction or 0.0) * num_users)))


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


class SurrogateConfig(SASRecConfig):
    """The small SASRec that influence is measured on. It trains for max_epochs, and nothing held out ends it."""

    dropout: Fraction = 0.5
    """Dropout probability while pre-training. Released code: .5."""
    max_epochs: PositiveInt = 30
    """Number of epochs. Released code: 200, of which it takes the last."""


class ScoredUsers(SomeUsers):
    """What the selections share that score users (DEALRec, arXiv 2401.17197): influence + effort_weight · effort."""

    effort_weight: NonNegativeFloat = 0.3
    """λ, weight of the effort; both are scaled to 0..1 before. Paper: .1 to 2; released code: .3 or 1."""
    effort: Annotated[Literal["suffix", "head", "adapters"], read_if("selection.effort_weight")] = "suffix"
    """What the gradient is of whose norm is a user's effort: the suffix, the head, or LoRA's matrices."""
    risk: Literal["train", "validation"] = "train"
    """Whose mean loss a user has influence on. Paper: train. With validation, the validation items are used twice."""
    surrogate: SurrogateConfig = SurrogateConfig()
    solver: Literal["cg", "lissa"] = "cg"
    """How the inverse Hessian is applied: conjugate gradients, or LiSSA's random steps, as published."""
    damping: PositiveFloat = 0.01
    """LiSSA's damping δ. Both solvers solve with H + damping · scale · 1. Released code: .01."""
    scale: PositiveFloat = 25.0
    """LiSSA's scale σ, above the largest eigenvalue of H. Released code: 25."""
    hessian_users: Annotated[PositiveInt, read_if("selection.solver", "cg")] = 2048
    """H is the mean over a sample of so many users, or over all where there are no more."""
    steps: Annotated[PositiveInt, read_if("selection.solver", "lissa")] = 5000
    """LiSSA's steps of one random user each. Paper: 5,000."""
    average: Annotated[bool, read_if("selection.solver", "lissa")] = False
    """Take the mean of the second half of LiSSA's steps instead of the last one. Paper: false."""


class GroupedUsers(ScoredUsers):
    """What the selections share that draw users from groups of similar scores."""

    hard_prune: Fraction = 0.1
    """Share of the users, those of the highest scores, to leave out before. Paper: none; released code: .1."""
    num_groups: PositiveInt = 50
    """K, groups of equal width by score, of which each gives as many users as it can. Paper: 25, 50 or 75."""


class DealrecUsers(GroupedUsers):
    """Train on users drawn from groups of their scores; training.seed is the seed."""

    type: Literal["dealrec"] = "dealrec"
    """Which of the training users to train on."""


class DealrecGreedyUsers(ScoredUsers):
    """Train on the users with the highest scores."""

    type: Literal["dealrec_greedy"] = "dealrec_greedy"
    """Which of the training users to train on."""


class MatchedUsers(GroupedUsers):
    """Train on random users whose sequences are as long as those that dealrec takes with the same settings."""

    type: Literal["matched"] = "matched"
    """Which of the training users to train on."""


SelectionConfig = Annotated[
    AllUsers | RandomUsers | RecentUsers | LongestUsers | MatchedUsers | DealrecUsers | DealrecGreedyUsers,
    Field(discriminator="type"),
]
"""Selectors of training users."""
