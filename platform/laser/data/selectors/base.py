"""What a selector of training users is."""

from typing import Protocol

from laser.config.section import Section
from laser.data.dataset import Dataset
from laser.data.examples import Examples


class Selector(Protocol):
    """The module `laser.data.selectors.<type>`, for a `type` of `selection`."""

    @staticmethod
    def select(dataset: Dataset, examples: Examples, config: Section, seed: int) -> Examples:
        """Select users and return all their examples, in the original order.

        The result depends on the arguments alone. It must not depend on validation or test interactions.

        Args:
            dataset: gives what is known of users.
            examples: training examples; a user may have several.
            config: the member of `SelectionConfig` of this type.
            seed: `training.seed`.

        Raises:
            UserError: the dataset lacks what the selector needs.
        """
