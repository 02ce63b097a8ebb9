"""Training, validation and test examples: a history, and the item that comes next."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Examples:
    """Histories and the items that come next. A history is `item_ids[start:end]`."""

    item_ids: NDArray[np.int32]
    """Items of all interactions, user after user. All examples read from it."""
    users: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    targets: NDArray[np.int32]
    whole_starts: NDArray[np.int64] | None = None
    """Where histories started before `last` cut them; None while they are whole."""
    candidates: NDArray[np.int64] | None = None
    """The items among which targets are ranked, sorted; None for the whole catalogue."""

    def __len__(self) -> int:
        return len(self.targets)

    def history(self, index: int) -> NDArray[np.int32]:
        """Return the item ids of one history, oldest first."""
        return self.item_ids[self.starts[index] : self.ends[index]]

    def whole_history(self, index: int) -> NDArray[np.int32]:
        """Return the item ids of one history, those included that `last` cut off."""
        starts = self.starts if self.whole_starts is None else self.whole_starts
        return self.item_ids[starts[index] : self.ends[index]]

    def histories(self, indices: NDArray[np.int64], whole: bool = False) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the item ids of some histories, one after the other, and how many each has.

        With `whole`, those that `last` cut off are included.
        """
        starts = self.starts if not whole or self.whole_starts is None else self.whole_starts
        firsts, lengths = starts[indices], self.ends[indices] - starts[indices]
        ends = np.cumsum(lengths)
        return self.item_ids[np.arange(lengths.sum()) + np.repeat(firsts - ends + lengths, lengths)], lengths

    def wanted(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
        """Return the targets and the whole histories of some examples, by their numbers among the candidates.

        Items of a history that are no candidates are left out.
        """
        histories = [self.whole_history(int(index)) for index in indices]
        if self.candidates is None:
            return self.targets[indices].astype(np.int64), histories
        return self._places(self.targets[indices]), [self._places(items) for items in histories]

    def _places(self, items: NDArray[np.int32]) -> NDArray[np.int64]:
        assert self.candidates is not None
        places = np.searchsorted(self.candidates, items).clip(max=len(self.candidates) - 1)
        return places[self.candidates[places] == items]

    def items_at(self, places: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the items that these numbers among the candidates stand for."""
        return places.astype(np.int32) if self.candidates is None else self.candidates[places].astype(np.int32)

    def last(self, num_items: int) -> "Examples":
        """Cut all histories to their most recent items."""
        whole_starts = self.starts if self.whole_starts is None else self.whole_starts
        return replace(self, starts=np.maximum(self.starts, self.ends - num_items), whole_starts=whole_starts)

    def take(self, indices: NDArray[np.int64]) -> "Examples":
        """Return the examples at these indices, in their order."""
        return replace(
            self,
            users=self.users[indices],
            starts=self.starts[indices],
            ends=self.ends[indices],
            targets=self.targets[indices],
            whole_starts=None if self.whole_starts is None else self.whole_starts[indices],
        )

    def sample(self, num_examples: int, seed: int) -> "Examples":
        """Draw a sample without replacement, in the original order; all examples where there are no more."""
        if num_examples >= len(self):
            return self
        chosen = np.random.default_rng(seed).choice(len(self), num_examples, replace=False)
        return self.take(np.sort(chosen))

    def sample_users(self, num_users: int | None, seed: int) -> "Examples":
        """Return all examples of a random sample of users; all examples for None, and where there are no more users."""
        users = np.unique(self.users)
        if num_users is None or num_users >= len(users):
            return self
        chosen = np.random.default_rng(seed).choice(len(users), num_users, replace=False)
        return self.of_users(users[chosen])

    def share_of_users(self, fraction: float, seed: int) -> "Examples":
        """Return all examples of a random share of the users, of at least one user.

        With the same seed, a larger share includes the users of the smaller ones.
        """
        if fraction == 1.0:
            return self
        users = np.random.default_rng(seed).permutation(np.unique(self.users))
        chosen = users[: max(1, round(fraction * len(users)))]
        return self.of_users(chosen)

    def of_users(self, users: NDArray[np.int32]) -> "Examples":
        """Return all examples of these users, in the original order."""
        return self.take(np.flatnonzero(np.isin(self.users, users)))

    def digest(self) -> str:
        """Return a hash of the histories' positions. With the dataset's fingerprint it names what is made of them."""
        digest = hashlib.sha256()
        for column in (self.users, self.starts, self.ends):
            digest.update(column.tobytes())
        return digest.hexdigest()

    @staticmethod
    def of_items(num_items: int) -> "Examples":
        """Return each item as a history of one item, in the order of ids. Its target is itself."""
        ids = np.arange(num_items, dtype=np.int32)
        positions = np.arange(num_items, dtype=np.int64)
        return Examples(ids, ids, positions, positions + 1, ids)
