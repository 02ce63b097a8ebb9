"""Opens the artifacts of an experiment and makes batches of its histories on demand."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file
from torch import Tensor

from laser.config.schema import Experiment
from laser.data.dataset import Dataset, open_dataset
from laser.data.examples import Examples
from laser.data.prompts import Prompts
from laser.data.selected import select_examples
from laser.engine.ahead import made_ahead
from laser.llm.late_text import LateText, open_texts
from laser.models.batch import Batch, sent
from laser.recommenders.encodings import Encodings
from laser.recommenders.text import TextMeans
from laser.scoring.scored import chosen_in
from laser.training.artifacts import Artifacts

ITEM_EMBEDDINGS = "item_embeddings_IC"
"""Name of the tensor in the file at `Artifacts.item_embeddings`."""


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

    def own_items(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return row and id of each item of the whole histories, int64. No row repeats an item."""
        items_Q, length_B = self.examples.histories(indices, whole=True)
        num_items = int(items_Q.max(initial=0)) + 1
        pairs_Q = np.sort(np.arange(len(indices)).repeat(length_B) * num_items + items_Q)
        rows_P, items_P = np.divmod(pairs_Q[np.diff(pairs_Q, prepend=-1) > 0], num_items)
        return torch.from_numpy(rows_P), torch.from_numpy(items_P)


@dataclass(frozen=True)
class Inputs:
    """Holds the opened artifacts of a run."""

    artifacts: Artifacts
    dataset: Dataset
    train: Histories
    val: Histories
    test: Histories
    items: Histories
    """Each item as a history of one item, in the order of internal ids."""
    prefixes: Histories | None
    """Every prefix of the training sequences of `train`'s users; None without a warm start of the head."""


def open_inputs(config: Experiment, artifacts: Artifacts) -> Inputs:
    """Open the artifacts. This is quick, because the large files are memory-mapped.

    Args:
        config: the experiment.
        artifacts: those of this experiment, or of one with the same histories, prompts and recommender.
    """
    dataset = open_dataset(artifacts.dataset_directory)
    prompts, item_prompts = artifacts.prompts.open(), artifacts.item_prompts.open()
    item_embeddings_IC = np.zeros((dataset.num_items, 0), np.float32)
    if artifacts.item_embeddings is not None:
        item_embeddings_IC = load_file(artifacts.item_embeddings)[ITEM_EMBEDDINGS]
    selected = select_examples(dataset, config, chosen_in(artifacts.users))
    words = {split: item_prompts if split == "items" else prompts for split in selected}
    texts = open_texts(artifacts.texts, selected, words, config)
    means = None if artifacts.text_means is None else TextMeans.read(artifacts.text_means, config.head.text_decay)
    opened = {}
    for split, examples in selected.items():
        assert artifacts.digests[split] == examples.digest(), f"the artifacts hold other histories for {split}"
        encodings = Encodings(artifacts.encodings[split]) if artifacts.encodings else None
        embeddings_IC = item_embeddings_IC if split == "items" else None
        lengths = words[split].lengths(examples)
        opened[split] = Histories(examples, encodings, words[split], lengths, embeddings_IC, texts.get(split), means)
    return Inputs(
        artifacts=artifacts,
        dataset=dataset,
        train=opened["train"],
        val=opened["val"],
        test=opened["test"],
        items=opened["items"],
        prefixes=opened.get("prefixes"),
    )
