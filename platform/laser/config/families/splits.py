"""How users' interactions are divided into training, validation and test, a section for each way; torch-free.

The function of the type in `laser.data.splits` carries a split out.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from laser.config.section import Section, Seed

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class LeaveOneOut(Section):
    """Each user's last item is for test, and the one before it for validation. A split of the source's own is kept."""

    neutral: ClassVar[bool] = True
    type: Literal["leave_one_out"] = "leave_one_out"
    """How interactions are divided. leave_one_out, ratio and cold divide each user's sequence at a time of its own, so
    that training knows what comes after another user's target (arXiv 2507.16289); temporal has one time for all."""


class HeldOutShares(Section):
    """What the splits share that hold out the latest interactions."""

    val_fraction: Share = 0.1
    """Share of the interactions for validation, which come before those for test."""
    test_fraction: Share = 0.1
    """Share of the interactions for test, the latest."""

    @model_validator(mode="after")
    def _something_to_train_on(self) -> "HeldOutShares":
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"test_fraction: {self.test_fraction}; with val_fraction {self.val_fraction} nothing is left to train "
                "on; lower one of them"
            )
        return self


class TemporalSplit(HeldOutShares):
    """One time for all users divides training from validation, and a later one validation from test."""

    type: Literal["temporal"] = "temporal"
    """How interactions are divided. The target is a user's first item after the cut. The data must have timestamps."""
    horizons: PositiveInt = 3
    """Parts of the time after the cut, equally long, for which jobs/compare.py shows the metrics apart."""


class RatioSplit(HeldOutShares):
    """The last share of each user's sequence is for test, and the share before it for validation."""

    type: Literal["ratio"] = "ratio"
    """How interactions are divided. Where a share is less than one item it is one, as long as one is left to train on.
    The target is the first item of a share."""


class ColdSplit(Section):
    """Targets are items that no training sequence holds."""

    type: Literal["cold"] = "cold"
    """How interactions are divided. A user's target is the last cold item that she took; what comes after it, and
    earlier cold items, are left out. Half of the cold items are targets of validation, half of test."""
    fraction: Share = 0.1
    """Share of the items that are cold."""
    seed: Seed = 0
    """Seed of their choice."""
    candidates: Literal["all", "cold"] = "all"
    """Items that are ranked: the whole catalogue, or the cold items alone. Among few candidates a random order scores
    high already, so figures of pools of different sizes do not compare."""


SplitConfig = Annotated[LeaveOneOut | TemporalSplit | RatioSplit | ColdSplit, Field(discriminator="type")]
"""Ways to split. Each is a function of `laser.data.splits.SPLITS`."""
