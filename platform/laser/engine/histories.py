"""Histories of users or items as the model reads them, and batches of them, made on demand."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from laser.data.examples import Examples
from laser.data.prompts import Prompts
from laser.engine.ahead import made_ahead
from laser.llm.late_text import LateText
from laser.models.batch import Batch, sent
from laser.recommenders.base import SequentialRecommender
from laser.recommenders.encodings import Encodings
from laser.recommenders.ranks import counted_scores
from laser.recommenders.text import TextMeans

if TYPE_CHECKING:  # recommenders that are trained run without scipy
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Histories:
    """Holds examples as the model reads them, text tokens and recommender encodings, and makes batches of them."""

    examples: Examples
    encodings: Encodings | None
    """None if the experiment reads no recommender."""
    prompts: Prompts
    lengths: NDArray[np.int64]
    """Text tokens of each example."""
    item_embeddings_IC: NDArray[np.float32] | None = None
    """The recommender's embeddings of the items, if the examples are the items themselves."""
    text: LateText | None = None
    """What a late prefix reads; None with the prefix before the text."""
    means: TextMeans | None = None
    """The items' text features, if a head reads them."""
    recommender: Callable[[], SequentialRecommender] | None = None
    """Gives the recommender itself, for its counted scores; None if the experiment reads no recommender."""

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Sequence[int] | NDArray[np.int64], weights: ArrayLike, device: torch.device) -> Batch:
        """Make a batch of some examples; `weights` is 1 for real ones and 0 for those that only fill a shard."""
        indices = np.asarray(indices)
        token_ids = self.prompts.packed(*self.examples.histories(indices))
        if self.encodings is None:  # each history gets one item of width 0
            encoding, encoding_mask = np.zeros((len(indices), 1, 0), np.float32), np.ones((len(indices), 1), np.bool_)
        else:
            encoding, encoding_mask = self.encodings.batch(indices)
        batch = Batch(
            token_ids_Q=torch.from_numpy(token_ids.astype(np.int64)),
            text_lengths_B=torch.from_numpy(self.lengths[indices]),
            encoding_BNC=torch.from_numpy(encoding),
            encoding_mask_BN=torch.from_numpy(encoding_mask),
            state_BC=torch.from_numpy(self.states(indices)),
            targets_B=torch.from_numpy(self.examples.targets[indices].astype(np.int64)),
            weights_B=torch.tensor(weights, dtype=torch.float32),
            num_users=len(indices) if self.item_embeddings_IC is None else 0,
            num_tokens=int(self.lengths[indices][np.asarray(weights) > 0].sum()),
            own_items=self.own_items(indices),
            text=None if self.text is None else self.text.of(indices, device),
        )
        return sent(batch, device)

    def batches(self, parts: list[NDArray[np.int64]], device: torch.device) -> AbstractContextManager[Iterator[Batch]]:
        """Give a batch of the examples of each part; a GPU has them ahead."""
        return made_ahead(lambda rows: self.batch(rows, np.ones(len(rows)), device), parts, device)

    def costs(self, num_added_tokens: int) -> NDArray[np.int64]:
        """Return what reading each history costs, in tokens that pass through the LLM."""
        return self.lengths if self.text is None else self.text.costs(self.lengths, num_added_tokens)

    def states(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the recommender's last hidden states or item embeddings, then text features: float32 states_BC."""
        items_B = self.examples.targets[indices]
        if self.item_embeddings_IC is not None:
            state_BC = self.item_embeddings_IC[items_B]
        elif self.encodings is not None:
            state_BC = self.encodings.last(indices)
        else:
            state_BC = np.zeros((len(indices), 0), np.float32)
        if self.means is None:
            return state_BC
        are_items = self.item_embeddings_IC is not None
        text_BW = self.means.items(items_B) if are_items else self.means.histories(*self.examples.histories(indices))
        return np.concatenate([state_BC, text_BW], axis=1)

    def counted_scores(self, indices: NDArray[np.int64], whole_catalogue: bool = False) -> "csr_array | None":
        """Return the recommender's counted scores of the candidates, or of the whole catalogue; None if it has none."""
        if self.recommender is None:
            return None
        examples = replace(self.examples, candidates=None) if whole_catalogue else self.examples
        return counted_scores(self.recommender(), examples, indices)

    def own_items(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return row and id of each item of the whole histories, int64. No row repeats an item."""
        items_Q, length_B = self.examples.histories(indices, whole=True)
        num_items = int(items_Q.max(initial=0)) + 1
        pairs_Q = np.sort(np.arange(len(indices)).repeat(length_B) * num_items + items_Q)
        rows_P, items_P = np.divmod(pairs_Q[np.diff(pairs_Q, prepend=-1) > 0], num_items)
        return torch.from_numpy(rows_P), torch.from_numpy(items_P)


@dataclass(frozen=True)
class SharedText:
    """Holds the longest of several histories that begin at the same item, and where the others end in its text."""

    histories: Histories
    longest: int
    rows: NDArray[np.int64]
    """Rows of the histories in the outputs."""
    ends: NDArray[np.int64]
    """Number of text tokens of each history."""

    @property
    def tokens(self) -> int:
        return int(self.ends.max())

    def read(self) -> NDArray[np.int32]:
        return self.histories.prompts.tokens(self.histories.examples.history(self.longest))


def shared_texts(parts: Sequence[Histories], first_row: int) -> Iterator[SharedText]:
    """Yield texts that together hold every history; histories that begin at the same item of a sequence share one.

    Args:
        parts: histories of the same sequences, with the same prompts.
        first_row: row in the outputs of the first history of the first part.
    """
    sizes = [len(part) for part in parts]
    part_E = np.repeat(np.arange(len(parts)), sizes)
    index_E = np.concatenate([np.arange(size) for size in sizes])
    start_E = np.concatenate([part.examples.starts for part in parts])
    length_E = np.concatenate([part.lengths for part in parts])
    order = np.lexsort([length_E, start_E])
    breaks = np.flatnonzero(np.diff(start_E[order])) + 1
    for group in np.split(order, breaks):
        longest = group[-1]
        yield SharedText(parts[part_E[longest]], int(index_E[longest]), first_row + group, length_E[group])
