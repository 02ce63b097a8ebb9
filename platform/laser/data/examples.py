"""Training, validation and test examples: a history, and the item that came next."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Examples:
    """Histories and the item that came next. A history is `item_ids[start:end]`."""

    item_ids: NDArray[np.int32]
    """Flat interactions, shared by all examples."""
    users: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    targets: NDArray[np.int32]
    whole_starts: NDArray[np.int64] | None = None
    """Where the histories start that `last` has cut; None while they are whole."""

    def __len__(self) -> int:
        return len(self.targets)

    def history(self, index: int) -> NDArray[np.int32]:
        """Item ids of one example, oldest first."""
        return self.item_ids[self.starts[index] : self.ends[index]]

    def whole_history(self, index: int) -> NDArray[np.int32]:
        """Item ids of one example, also those before the most recent ones that `last` has kept."""
        starts = self.starts if self.whole_starts is None else self.whole_starts
        return self.item_ids[starts[index] : self.ends[index]]

    def last(self, num_items: int) -> "Examples":
        """The same examples with histories cut to their most recent items."""
        whole_starts = self.starts if self.whole_starts is None else self.whole_starts
        return replace(self, starts=np.maximum(self.starts, self.ends - num_items), whole_starts=whole_starts)

    def take(self, indices: NDArray[np.int64]) -> "Examples":
        """A selection, in the order of `indices`."""
        return replace(
            self,
            users=self.users[indices],
            starts=self.starts[indices],
            ends=self.ends[indices],
            targets=self.targets[indices],
            whole_starts=None if self.whole_starts is None else self.whole_starts[indices],
        )

    def sample(self, num_examples: int, seed: int) -> "Examples":
        """A seeded sample without replacement, in the original order; all where there are no more."""
        if num_examples >= len(self):
            return self
        chosen = np.random.default_rng(seed).choice(len(self), num_examples, replace=False)
        return self.take(np.sort(chosen))

    def sample_users(self, num_users: int, seed: int) -> "Examples":
        """All examples of a seeded sample of users, in the original order; all where there are no more users."""
        users = np.unique(self.users)
        if num_users >= len(users):
            return self
        chosen = np.random.default_rng(seed).choice(len(users), num_users, replace=False)
        return self.take(np.flatnonzero(np.isin(self.users, users[chosen])))

    def share_of_users(self, fraction: float, seed: int) -> "Examples":
        """All examples of a seeded share of the users, at least one; a larger share of one seed holds the smaller."""
        if fraction == 1.0:
            return self
        users = np.random.default_rng(seed).permutation(np.unique(self.users))
        chosen = users[: max(1, round(fraction * len(users)))]
        return self.take(np.flatnonzero(np.isin(self.users, chosen)))

    def digest(self) -> str:
        """A hash of which histories these are; with the dataset's fingerprint it names what is made of them."""
        digest = hashlib.sha256()
        for column in (self.users, self.starts, self.ends):
            digest.update(column.tobytes())
        return digest.hexdigest()

    @staticmethod
    def of_items(num_items: int) -> "Examples":
        """Each item as a history of one item, in the order of ids; its target is itself."""
        ids = np.arange(num_items, dtype=np.int32)
        positions = np.arange(num_items, dtype=np.int64)
        return Examples(ids, ids, positions, positions + 1, ids)
