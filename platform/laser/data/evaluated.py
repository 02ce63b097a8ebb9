"""What an evaluation may need of the dataset beside ranks and lists: popularity, words, histories, times."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from laser.config.families.splits import TemporalSplit
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.errors import UserError
from laser.evaluation.findings import Evidence
from laser.evaluation.lists import ListContext
from laser.evaluation.segments import SegmentContext
from laser.evaluation.user_ranks import UserRanks

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def evaluated_examples(dataset: Dataset, ranks: UserRanks) -> Examples:
    """Return the test examples of the ranked users, in the order of the ranks.

    Raises:
        UserError: the ranks are of other users or targets.
    """
    examples = dataset.examples("test")
    rows = np.searchsorted(examples.users, ranks.users).clip(max=max(0, len(examples) - 1))
    examples = examples.take(rows)
    if not (np.array_equal(examples.users, ranks.users) and np.array_equal(examples.targets, ranks.targets)):
        raise UserError(f"ranks: of other users or targets than the test set of {dataset.name} {dataset.fingerprint}")
    return examples


def list_context(dataset: Dataset, ranks: UserRanks) -> ListContext:
    """Return what metrics of lists need; the ranks have lists."""
    return ListContext(ranks.num_items, ranks.targets, dataset.train_counts, item_words(dataset))


def segment_context(dataset: Dataset, examples: Examples) -> SegmentContext:
    """Return what groups of users are made of."""
    lengths_E = examples.ends - examples.starts
    if not isinstance(dataset.split, TemporalSplit) or dataset.times is None:
        return SegmentContext(lengths_E, examples.targets, dataset.train_counts)
    cut, last = dataset.manifest["cuts"][1], int(dataset.times.max())
    after_E = (dataset.times[examples.ends] - cut) / max(1, last - cut)
    return SegmentContext(lengths_E, examples.targets, dataset.train_counts, after_E, dataset.split.horizons)


def evidence(dataset: Dataset, examples: Examples, ranks: UserRanks) -> Evidence:
    """Return what findings are looked for in."""
    in_history = [target in examples.whole_history(row) for row, target in enumerate(examples.targets)]
    last_items_E = dataset.item_ids[examples.ends - 1].astype(np.int64)
    return Evidence(ranks, dataset.num_candidates, last_items_E, np.array(in_history), _first_times(dataset))


def _first_times(dataset: Dataset) -> NDArray[np.float64] | None:
    if dataset.times is None:
        return None
    first_times_I = np.full(dataset.num_items, np.nan)
    order = np.argsort(-dataset.times, kind="stable")  # of several rows of an item the last assignment stays
    first_times_I[dataset.item_ids[order]] = dataset.times[order]
    return first_times_I


def item_words(dataset: Dataset) -> "csr_array":
    """Return which words each item's title and attributes have, rows of length 1: csr float64 [I, W]."""
    from scipy.sparse import csr_array

    texts = dataset.items.select(["title", *dataset.item_attributes])
    joined = pc.binary_join_element_wise(*(pc.fill_null(column, "") for column in texts.columns), " ").to_pylist()
    numbers: dict[str, int] = {}
    words = [sorted({numbers.setdefault(word, len(numbers)) for word in _WORDS(text.lower())}) for text in joined]
    lengths = np.array([len(found) for found in words])
    values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths)
    starts = np.append(0, np.cumsum(lengths))
    columns = np.array([number for found in words for number in found], dtype=np.int64)
    return csr_array((values, columns, starts), shape=(dataset.num_items, max(1, len(numbers))))


_WORDS: Callable[[str], list[str]] = re.compile(r"\w+").findall
