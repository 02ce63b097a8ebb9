"""Interactions user after user in time order, in blocks of whole users, and the k-core over such blocks.

Nothing here needs all interactions in memory: they are dealt out to blocks of about `BLOCK_ROWS`, each block is sorted
by itself, and the k-core keeps a count per user and per item. Where the blocks lie depends on the data alone.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from laser.data.ingest.interactions import Interactions, Workspace
from laser.data.ingest.streams import ahead

BLOCK_ROWS = 1 << 19
"""Rows of a block, give or take a user; about 30 MiB while it is sorted."""


def by_user_and_time(
    interactions: Interactions, num_users: int, workspace: Workspace, drop_repeats: bool
) -> tuple[Interactions, int]:
    """Blocks in the order of users, each sorted by user and time; equal times keep the order of the file.

    A split that the source fixes goes before time.

    Args:
        interactions: in file order; they are used up.
        num_users: users are numbered below it.
        workspace: where the blocks go.
        drop_repeats: keep the first of interactions with the same user, item and time.

    Returns:
        the blocks, and how many repeats were dropped.
    """
    dealt, pieces_of_block = _deal(interactions, num_users, workspace)
    blocks = workspace.interactions()
    num_repeats = 0

    def load(pieces: list[int]) -> pa.RecordBatch:
        return pa.concat_batches([dealt.pop(piece) for piece in pieces])

    def order(block: pa.RecordBatch) -> pa.RecordBatch:
        return _without_repeats(_sort(block)) if drop_repeats else _sort(block)

    for block in ahead(order, (load(pieces_of_block[number]) for number in sorted(pieces_of_block))):
        num_repeats -= block.num_rows
        blocks.append(block)
    return blocks, num_repeats + interactions.num_rows


def _deal(
    interactions: Interactions, num_users: int, workspace: Workspace
) -> tuple[Interactions, dict[int, list[int]]]:
    """Deal interactions out to blocks of users: the pieces, in file order, and which of them make a block."""
    counts = np.zeros(num_users, dtype=np.int64)
    for number in range(len(interactions)):
        counts += np.bincount(interactions[number].column("user").to_numpy(), minlength=num_users)
    block_of_user = ((np.cumsum(counts) - counts) // BLOCK_ROWS).astype(np.uint16)  # numpy sorts 16 bits by radix
    dealt = workspace.interactions()
    pieces_of_block: dict[int, list[int]] = defaultdict(list)

    def split(piece: pa.RecordBatch) -> tuple[pa.RecordBatch, NDArray[np.int64]]:
        block = block_of_user[piece.column("user").to_numpy()]
        return piece.take(pa.array(np.argsort(block, kind="stable"))), np.bincount(block)

    for piece, sizes in ahead(split, (interactions.pop(number) for number in range(len(interactions)))):
        for block, end in zip(np.flatnonzero(sizes), np.cumsum(sizes)[sizes > 0], strict=True):
            pieces_of_block[int(block)].append(len(dealt))
            dealt.append(piece.slice(end - sizes[block], sizes[block]))
    return dealt, pieces_of_block


def _sort(block: pa.RecordBatch) -> pa.RecordBatch:
    return _take(
        block, _stable_order(block, [name for name in ("time", "split", "user") if name in block.schema.names])
    )


def _without_repeats(block: pa.RecordBatch) -> pa.RecordBatch:
    """A sorted block without the interactions that equal an earlier one in user, item and time."""
    user, time = (block.column(name).to_numpy() for name in ("user", "time"))
    together = np.flatnonzero((user[1:] == user[:-1]) & (time[1:] == time[:-1]))
    if not len(together):
        return block
    rows = np.union1d(together, together + 1)
    few = _take(block, rows)
    order = _stable_order(few, ["item", "time", "user"])
    same = np.ones(len(order) - 1, dtype=bool)
    for column in few.columns:
        values = column.to_numpy()[order]
        same &= values[1:] == values[:-1]
    return _take(block, np.delete(np.arange(len(user)), rows[order[1:][same]]))


def _take(block: pa.RecordBatch, rows: NDArray[np.int64]) -> pa.RecordBatch:
    return pa.record_batch([column.to_numpy()[rows] for column in block.columns], names=block.schema.names)


def _stable_order(block: pa.RecordBatch, names: list[str]) -> NDArray[np.int64]:
    """Sort by columns, the least important first; like `np.lexsort`, and several times faster."""
    order = np.arange(block.num_rows)
    for name in names:
        values = block.column(name).to_numpy()[order]
        order = order[_stable_argsort(values.astype(np.int64))]
    return order


def _stable_argsort(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Like `np.argsort(kind="stable")`; value and position in one word, where they fit, sort with SIMD."""
    low, bits = int(values.min()), len(values).bit_length()
    if (int(values.max()) - low).bit_length() + bits > 63:
        return np.argsort(values, kind="stable")
    words = (values - low) << bits | np.arange(len(values))
    words.sort()
    return words & ((1 << bits) - 1)


@dataclass(frozen=True)
class Core:
    """What a filter keeps: interactions of kept users with kept items."""

    users: NDArray[np.bool_]
    items: NDArray[np.bool_]
    item_counts: NDArray[np.int64]
    """Kept interactions of each item."""

    def rows(self, block: pa.RecordBatch) -> NDArray[np.int64]:
        """The rows of a block that stay."""
        return np.flatnonzero(self.users[block.column("user").to_numpy()] & self.items[block.column("item").to_numpy()])


def k_core(blocks: Interactions, num_users: int, items: NDArray[np.bool_], k: int) -> tuple[Core, int]:
    """The largest subset of the interactions with `items` in which each user and item has at least k.

    Each pass looks for the interactions of users and items that fell below k in the pass before and takes them off the
    counts, so that only the first one counts all.

    Returns:
        the subset, and how many interactions there were before any was dropped for k.
    """
    user_counts, item_counts = np.zeros(num_users, dtype=np.int64), np.zeros(len(items), dtype=np.int64)
    core = Core(np.ones(num_users, dtype=bool), items.copy(), item_counts)
    for number in range(len(blocks)):
        block = blocks[number]
        rows = core.rows(block)
        users = block.column("user").to_numpy()[rows]
        if len(users):
            user_counts[users[0] : users[-1] + 1] += np.bincount(users - users[0])
        item_counts += np.bincount(block.column("item").to_numpy()[rows], minlength=len(items))
    before = int(item_counts.sum())
    while True:
        gone_users, gone_items = core.users & (user_counts < k), core.items & (item_counts < k)
        if not gone_users.any() and not gone_items.any():
            return core, before
        for number in range(len(blocks)):
            users, chosen = (blocks[number].column(name).to_numpy() for name in ("user", "item"))
            rows = np.flatnonzero(gone_users[users] | gone_items[chosen])
            rows = rows[core.users[users[rows]] & core.items[chosen[rows]]]
            np.subtract.at(user_counts, users[rows], 1)
            np.subtract.at(item_counts, chosen[rows], 1)
        core.users[gone_users] = False
        core.items[gone_items] = False
