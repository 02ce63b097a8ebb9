"""Sorts interactions by user and time in blocks of whole users, and computes the k-core over such blocks.

Nothing here needs all interactions in memory. They are dealt out to blocks of about `BLOCK_ROWS`, and each block is
sorted by itself. The k-core keeps a count per user and per item. The blocks' bounds depend on the data alone.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from laser.ingest.interactions import Interactions, Workspace
from laser.ingest.streams import prefetch

BLOCK_ROWS = 1 << 19
"""Rows of a block, up to the rows of one user; a block takes about 30 MiB while it is sorted."""


class SplitAgainstTime(Exception):
    """A user has an interaction in one split that is later than one in the split behind it."""

    def __init__(self, user: int) -> None:
        super().__init__(f"user {user}")
        self.user = user


def by_user_and_time(
    interactions: Interactions, num_users: int, workspace: Workspace, drop_repeats: bool
) -> tuple[Interactions, int]:
    """Sort interactions by user and time, in blocks of whole users; equal times keep the order of the file.

    Where the source fixes the split, rows are sorted by split before time.

    Args:
        interactions: in file order; this function uses them up.
        num_users: user numbers are below it.
        workspace: holds the blocks.
        drop_repeats: of interactions with the same user, item and time, keep the first alone.

    Returns:
        the blocks in the order of users, and the number of repeats that were dropped.

    Raises:
        SplitAgainstTime: the source fixes a split under which histories would hold what came after their targets.
    """
    dealt, pieces_of_block = _deal(interactions, num_users, workspace)
    blocks = workspace.interactions()
    num_repeats = 0

    def load(pieces: list[int]) -> pa.RecordBatch:
        return pa.concat_batches([dealt.pop(piece) for piece in pieces])

    def order(block: pa.RecordBatch) -> pa.RecordBatch:
        return _without_repeats(_sort(block)) if drop_repeats else _sort(block)

    for block in prefetch(order, (load(pieces_of_block[number]) for number in sorted(pieces_of_block))):
        num_repeats -= block.num_rows
        blocks.append(block)
    return blocks, num_repeats + interactions.num_rows


def _deal(
    interactions: Interactions, num_users: int, workspace: Workspace
) -> tuple[Interactions, dict[int, list[int]]]:
    """Deal interactions out to blocks of users.

    Returns:
        pieces in file order, and the numbers of the pieces that make each block.
    """
    counts = np.zeros(num_users, dtype=np.int64)
    for number in range(len(interactions)):
        counts += np.bincount(interactions[number].column("user").to_numpy(), minlength=num_users)
    block_of_user = ((np.cumsum(counts) - counts) // BLOCK_ROWS).astype(np.uint16)  # numpy sorts 16 bits by radix
    dealt = workspace.interactions()
    pieces_of_block: dict[int, list[int]] = defaultdict(list)

    def split(piece: pa.RecordBatch) -> tuple[pa.RecordBatch, NDArray[np.int64]]:
        block = block_of_user[piece.column("user").to_numpy()]
        return piece.take(pa.array(np.argsort(block, kind="stable"))), np.bincount(block)

    for piece, sizes in prefetch(split, (interactions.pop(number) for number in range(len(interactions)))):
        for block, end in zip(np.flatnonzero(sizes), np.cumsum(sizes)[sizes > 0], strict=True):
            pieces_of_block[int(block)].append(len(dealt))
            dealt.append(piece.slice(end - sizes[block], sizes[block]))
    return dealt, pieces_of_block


def _sort(block: pa.RecordBatch) -> pa.RecordBatch:
    names = block.schema.names
    block = _take(block, _stable_order(block, [name for name in ("time", "split", "user") if name in names]))
    if {"time", "split"} <= set(names):
        user, time = (block.column(name).to_numpy() for name in ("user", "time"))
        back = np.flatnonzero((user[1:] == user[:-1]) & (time[1:] < time[:-1]))
        if len(back):
            raise SplitAgainstTime(int(user[back[0]]))
    return block


def _without_repeats(block: pa.RecordBatch) -> pa.RecordBatch:
    """Drop from a sorted block the interactions that equal an earlier one in user, item and time."""
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
    """Return the order by several columns, the least important first: `np.lexsort`, several times faster."""
    order = np.arange(block.num_rows)
    for name in names:
        values = block.column(name).to_numpy()[order]
        order = order[_stable_argsort(values.astype(np.int64))]
    return order


def _stable_argsort(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `np.argsort(kind="stable")`. Where value and position fit into one word, they are sorted with SIMD."""
    low, bits = int(values.min()), len(values).bit_length()
    if (int(values.max()) - low).bit_length() + bits > 63:
        return np.argsort(values, kind="stable")
    words = (values - low) << bits | np.arange(len(values))
    words.sort()
    return words & ((1 << bits) - 1)


@dataclass(frozen=True)
class Core:
    """What the k-core keeps: interactions of kept users with kept items."""

    users: NDArray[np.bool_]
    items: NDArray[np.bool_]
    item_counts: NDArray[np.int64]
    """Kept interactions of each item."""

    def rows(self, block: pa.RecordBatch) -> NDArray[np.int64]:
        """Return the rows of a block that are kept."""
        return np.flatnonzero(self.users[block.column("user").to_numpy()] & self.items[block.column("item").to_numpy()])


def k_core(blocks: Interactions, num_users: int, items: NDArray[np.bool_], k: int) -> tuple[Core, int]:
    """Find the largest subset of the interactions with `items` in which each user and item has at least k.

    Only the first pass counts all interactions. Each later pass subtracts those of the users and items that fell below
    k in the pass before it.

    Returns:
        the subset, and the number of interactions before any was dropped for k.
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
