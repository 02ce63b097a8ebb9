"""Finds what a split has to know of all interactions: the times that divide them, or the items that are cold."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from laser.config.families.splits import ColdSplit, SplitConfig, TemporalSplit
from laser.data.splits import Cuts, cold_roles
from laser.errors import UserError
from laser.ingest.interactions import Interactions
from laser.ingest.order import Core

BINS = 1 << 16
"""Times are counted in so many ranges at once: 512 KiB of counts, and at most five passes over the interactions."""


def find_cuts(config: SplitConfig, blocks: Interactions, core: Core) -> Cuts:
    """Return the cuts of a split.

    Raises:
        UserError: the split needs timestamps and there are none, or too few different ones.
    """
    if isinstance(config, ColdSplit):
        return Cuts(roles_I=cold_roles(core.item_counts > 0, config))
    if not isinstance(config, TemporalSplit):
        return Cuts()
    if "time" not in blocks[0].schema.names:
        raise UserError(
            "data.split.type: temporal; the data have no timestamps; name their column by data.timestamp_column, or "
            "take leave_one_out, ratio or cold"
        )
    num_rows = int(core.item_counts.sum())
    shares = (1 - config.val_fraction - config.test_fraction, 1 - config.test_fraction)
    val_time, test_time = (_nth_time(blocks, core, int(share * num_rows)) for share in shares)
    if not _nth_time(blocks, core, 0) < val_time < test_time:
        raise UserError(
            f"data.split.val_fraction: {config.val_fraction}, data.split.test_fraction: {config.test_fraction}; too "
            f"many of {num_rows:,} interactions have the same time; change the fractions, or take ratio"
        )
    return Cuts((val_time, test_time))


def _nth_time(blocks: Interactions, core: Core, place: int) -> int:
    """Return the time at a place in the order of all kept interactions, in memory bounded by a block.

    The range in which it lies is narrowed down by counting, pass after pass.
    """
    bounds = [(int(times.min()), int(times.max())) for times in _times(blocks, core)]
    low, high = min(bound[0] for bound in bounds), max(bound[1] for bound in bounds)
    while low < high:
        step = (high - low) // BINS + 1
        counts = np.zeros(BINS, dtype=np.int64)
        for times in _times(blocks, core):
            # Unsigned, because the distance of two 64-bit times may not fit into one; it wraps to the right value.
            distances = times[(times >= low) & (times <= high)].astype(np.uint64) - np.uint64(low % (1 << 64))
            counts += np.bincount((distances // np.uint64(step)).astype(np.int64), minlength=BINS)
        ends = np.cumsum(counts)
        bin_ = int(np.searchsorted(ends, place, side="right"))
        place -= int(ends[bin_] - counts[bin_])
        low, high = low + bin_ * step, min(high, low + (bin_ + 1) * step - 1)
    return low


def _times(blocks: Interactions, core: Core) -> Iterator[NDArray[np.int64]]:
    for number in range(len(blocks)):
        times = blocks[number].column("time").to_numpy()[core.rows(blocks[number])]
        if len(times):
            yield times
