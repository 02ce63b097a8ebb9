"""How much of the frozen LLM's keys and values of texts is shared: CollectiveKV's question, asked of the text cache.

CollectiveKV (arXiv 2601.19178) starts from a decomposition of users' cached keys and values: their leading directions
are those of other users too, and what is left is a user's own. Here the same is measured on what the late prefix reads.
A user's text is read in two ways: as ordinary text, in which an item sees all items before it, and from the text cache,
where each item was read by itself and so is the same for all users.

Shape suffixes: R rows, D numbers of a row (heads times their width), M rows of a pool, K kinds of rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from laser.config.schema import Experiment
from laser.engine.histories import Histories
from laser.errors import UserError
from laser.llm.loading import Decoder, load_llm
from laser.llm.text_states import TextStates, read_histories
from laser.recommenders.pretraining import pretraining_device
from laser.training.inputs import Inputs

POOL = 1024
"""M, rows of a pool: the default of `recommender.pool_size`."""
POOL_STEPS = 10
"""Steps of k-means for a pool."""
HISTORIES_READ = 64
"""Histories that pass through the LLM at once."""

Curve = list[float]
"""A share of the energy for each number of directions, from 1 to D."""


@dataclass(frozen=True)
class Sharing:
    """What holds the keys, or the values, of one block, as shares of their energy.

    Energy is the sum of squared differences from the mean row. The first half of the texts is known. All shares are
    those of the second half.
    """

    mean: float
    """Of the energy about zero, in place of the mean: what the mean row holds."""
    own: Curve
    """In the leading directions of the text itself: the most that so many numbers for each token can hold."""
    shared: Curve
    """In the leading directions of the known half."""
    other: Curve
    """In the leading directions of one other text."""
    pool: float
    """In the nearest row of a pool that was fitted to the known half."""
    item: float | None = None
    """In the same tokens of an item's text that is read by itself; None where all texts are such ones."""

    def numbers_for(self, share: float) -> int:
        """Return how many numbers for each token hold this share in the directions of the known half."""
        return 1 + int(np.searchsorted(self.shared, share))


@dataclass(frozen=True)
class BlockSharing:
    """One block of the LLM."""

    keys: Sharing
    values: Sharing


@dataclass(frozen=True)
class TextSharing:
    """What is shared of a text cache, and the sizes that it is measured against."""

    items: list[BlockSharing]
    """Between items, each read by itself, as they lie in the cache: one entry for each block."""
    users: list[BlockSharing]
    """Between users, whose histories are read as ordinary text."""
    num_items: int
    num_users: int
    item_tokens: int
    """Of all items together, without the instruction."""
    user_tokens: float
    """Of a user's history, without the instruction: the mean."""
    token_bytes: int
    """Of one token in all blocks."""
    width: int
    """D."""

    def low_rank_bytes(self, blocks: Sequence[BlockSharing], share: float) -> int:
        """Return the bytes of one token of which the known directions of each block hold this share."""
        number_bytes = self.token_bytes // (2 * self.width * len(blocks))
        return number_bytes * sum(part.numbers_for(share) for block in blocks for part in (block.keys, block.values))


def text_sharing(config: Experiment, inputs: Inputs, num_users: int) -> TextSharing:
    """Measure what is shared between the items of the catalogue, and between validation users.

    Args:
        config: an experiment with a late prefix that reads each item by itself.
        inputs: its artifacts, opened.
        num_users: at most so many users are drawn, by `training.seed`.

    Raises:
        UserError: the experiment has no text cache, or one of whole histories.
    """
    if config.bituning.prefix_position == "before" or config.prompt.item_attention != "own":
        raise UserError(
            f"bituning.prefix_position: {config.bituning.prefix_position}, with prompt.item_attention "
            f"{config.prompt.item_attention}; it needs a text cache of single items: set them to after and own"
        )
    files = inputs.artifacts.texts
    if files is None:
        raise UserError(f"llm.cache_mib: {config.llm.cache_mib}; the texts' keys and values do not fit: raise it")
    device = pretraining_device(config.training.use_gpu)
    llm = load_llm(inputs.artifacts.llm_directory, files.shape.dtype, config.llm, device)
    random = np.random.default_rng(config.training.seed)
    items = random.permutation(len(inputs.items))
    users = random.permutation(len(inputs.val))[:num_users]
    width = files.shape.heads * files.shape.head_width
    of_items = [_measured(rows, None) for rows in _by_block(_cached(inputs.items, items, llm, device))]
    whole, single = _read(inputs.val, users, llm, device), _cached(inputs.val, users, llm, device)
    of_users = [_measured(*both) for both in zip(_by_block(whole), _by_block(single), strict=True)]
    instruction = len(inputs.items.prompts.instruction)
    return TextSharing(
        items=of_items,
        users=of_users,
        num_items=len(items),
        num_users=len(users),
        item_tokens=int((inputs.items.lengths - instruction).sum()),
        user_tokens=float(inputs.val.lengths[users].mean()) - len(inputs.val.prompts.instruction),
        token_bytes=files.shape.token_bytes,
        width=width,
    )


def sharing_of(texts: Sequence[Tensor], items: Sequence[Tensor] | None = None) -> Sharing:
    """Measure what is shared between texts.

    Args:
        texts: the rows (R, D) of each; at least four.
        items: the same tokens of each text, of items that are read by themselves.
    """
    half = len(texts) // 2
    unseen = texts[half:]
    known_RD, unseen_RD = torch.cat(tuple(texts[:half])).float(), torch.cat(tuple(unseen)).float()
    mean_D = known_RD.mean(dim=0)
    about_zero = float(unseen_RD.square().sum())
    known_RD, unseen_RD = known_RD - mean_D, unseen_RD - mean_D
    total = float(unseen_RD.square().sum())
    of_texts = [part.float() - mean_D for part in unseen]
    bases = [directions(part) for part in of_texts]
    left = unseen_RD - nearest(unseen_RD, fitted_pool(known_RD))
    return Sharing(
        mean=1 - total / about_zero,
        own=_curve(of_texts, bases),
        shared=_curve([unseen_RD], [directions(known_RD)]),
        other=_curve(of_texts, bases[1:] + bases[:1]),
        pool=1 - float(left.square().sum()) / total,
        item=None
        if items is None
        else 1 - float((torch.cat(tuple(items[half:])) - torch.cat(tuple(unseen))).float().square().sum()) / total,
    )


def _measured(texts: list[Tensor], items: list[Tensor] | None) -> BlockSharing:
    """Measure a block, of whose keys and values the rows (R, 2, D) of each text are given."""
    keys, values = (
        sharing_of([text[:, part] for text in texts], None if items is None else [text[:, part] for text in items])
        for part in (0, 1)
    )
    return BlockSharing(keys, values)


def directions(rows_RD: Tensor) -> Tensor:
    """Return the directions of rows as columns, those with the most energy first: D, or R where that is less."""
    if len(rows_RD) < rows_RD.shape[1]:
        return torch.linalg.svd(rows_RD, full_matrices=False)[2].T
    return torch.linalg.eigh((rows_RD.T @ rows_RD).double())[1].flip(1).float()


def _curve(texts: Sequence[Tensor], bases: Sequence[Tensor]) -> Curve:
    """Return the share of the texts' energy in the first directions of each one's basis, for each number of them."""
    energy_D = torch.zeros(texts[0].shape[1], dtype=torch.float64, device=texts[0].device)
    for text, basis in zip(texts, bases, strict=True):
        energy_D[: basis.shape[1]] += (text @ basis).square().sum(dim=0)
    return (energy_D.cumsum(0) / sum(float(text.square().sum()) for text in texts)).tolist()


def fitted_pool(rows_RD: Tensor) -> Tensor:
    """Return the rows (M, D) of a pool, by k-means."""
    from sklearn.cluster import KMeans

    kinds_KD, counts_K = torch.unique(rows_RD, dim=0, return_counts=True)  # equal tokens may have equal rows
    fit = KMeans(min(POOL, len(kinds_KD)), init="random", n_init=1, max_iter=POOL_STEPS, random_state=0).fit
    found = fit(kinds_KD.cpu().numpy(), sample_weight=counts_K.cpu().numpy())
    return torch.from_numpy(found.cluster_centers_).to(rows_RD)


def nearest(rows_RD: Tensor, pool_MD: Tensor) -> Tensor:
    """Return for each row the one of the pool that is nearest to it."""
    return pool_MD[torch.cdist(rows_RD, pool_MD).argmin(dim=1)]


Blocks = list[list[Tensor]]
"""For each history, its rows (R, 2, D) in each block, on the CPU: keys and values of its text after the instruction."""


def _by_block(histories: Blocks) -> Iterator[list[Tensor]]:
    """Yield for each block its rows of all histories."""
    yield from (list(rows) for rows in zip(*histories, strict=True))


@torch.inference_mode()
def _cached(histories: Histories, chosen: np.ndarray, llm: Decoder, device: torch.device) -> Blocks:
    """Read histories from the text cache, each item where it stands in the history."""
    found: Blocks = []
    for indices in _parts(chosen):
        assert histories.text is not None
        text = histories.text.of(indices, device)
        assert isinstance(text, TextStates)
        found += _rows(text, len(histories.prompts.instruction), llm)
    return found


@torch.inference_mode()
def _read(histories: Histories, chosen: np.ndarray, llm: Decoder, device: torch.device) -> Blocks:
    """Read histories as ordinary text."""
    found: Blocks = []
    for indices in _parts(chosen):
        batch = histories.batch(indices, [1.0] * len(indices), device)
        text = read_histories(llm, batch.token_ids_Q, batch.text_lengths_B)
        found += _rows(text, len(histories.prompts.instruction), llm)
    return found


def _parts(chosen: np.ndarray) -> list[np.ndarray]:
    return np.array_split(chosen, range(HISTORIES_READ, len(chosen), HISTORIES_READ))


def _rows(text: TextStates, instruction: int, llm: Decoder) -> Blocks:
    """Return the rows of each history after its instruction, which all share."""
    turns = text.turning(llm)
    lengths = text.places.length_B.tolist()
    none = text.states[0].new_empty(len(lengths), 0, *text.states[0].shape[2:])
    blocks = []
    for number in range(len(text.states)):
        both = torch.stack(text.block(number, turns, (none, none)), dim=1)  # (B, 2, G, T, E)
        blocks.append(both.permute(0, 3, 1, 2, 4).flatten(3).cpu())
    return [[rows[row, instruction:length] for rows in blocks] for row, length in enumerate(lengths)]
