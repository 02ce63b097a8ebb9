"""What makes an evaluation doubtful, as far as it can be told from its ranks, its lists and the data.

A new check is one entry in `FINDINGS`. A finding is a sentence with its figures; it warns and refuses nothing.

Shape suffixes: E users, I catalogue items.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from laser.evaluation.user_ranks import UserRanks

DEVIATIONS = 5.0
"""Standard deviations from chance at which a share of users, or a correlation, is called no chance."""


@dataclass(frozen=True)
class Evidence:
    """The outcome of an evaluation, and what is known of its users."""

    ranks: UserRanks
    num_items: int
    """Items that are ranked."""
    last_items_E: NDArray[np.int64] | None = None
    """Id of the last item of each history; None where the data are not at hand."""
    in_history_E: NDArray[np.bool_] | None = None
    """Whether the target is in the user's own history."""
    first_times_I: NDArray[np.float64] | None = None
    """When each item was first taken, NaN where never; None without timestamps."""


def constant_scores(evidence: Evidence) -> str | None:
    """Ties count against the model, so a scorer that gives all items one score ranks every target last."""
    last = float((evidence.ranks.ranks == evidence.num_items).mean())
    if last < 0.5:
        return None
    return (
        f"constant scores: {last:.0%} of the targets rank last, as they do where most items have the same score; "
        "counts give one to all items that were never counted with the history"
    )


def leaked_target(evidence: Evidence) -> str | None:
    """Nobody finds the one next item of most users among a whole catalogue."""
    first = float((evidence.ranks.ranks == 1).mean())
    if first < 0.5 or evidence.num_items < 10:
        return None
    return f"leaked target: {first:.0%} of the targets rank first; look whether the scorer reads what it predicts"


def chance(evidence: Evidence) -> str | None:
    """Ranks of a random order are uniform, and so are those of a model whose labels were shuffled.

    The first tenth of the candidates tells, not the mean rank: a good item-kNN gives most items no score at all, and
    ties count against it.
    """
    tenth = -(-evidence.num_items // 10)
    expected, found = tenth / evidence.num_items, float((evidence.ranks.ranks <= tenth).mean())
    if constant_scores(evidence) or found >= expected + 2 * np.sqrt(expected * (1 - expected) / len(evidence.ranks)):
        return None
    return (
        f"chance: {found:.1%} of the targets are among the first tenth of the candidates, as in a random order; look "
        "whether labels or item ids were mixed up"
    )


def next_id(evidence: Evidence) -> str | None:
    """Numbering by first appearance makes the next id the answer (a probe of many public data sets)."""
    if evidence.last_items_E is None:
        return None
    expected = len(evidence.ranks) / evidence.num_items
    found = int((evidence.ranks.targets == evidence.last_items_E + 1).sum())
    if found <= expected + DEVIATIONS * np.sqrt(expected) + DEVIATIONS:
        return None
    share = found / len(evidence.ranks)
    return f"next id: {share:.1%} of the targets are the next integer after the history's last item; number items anew"


def target_in_history(evidence: Evidence) -> str | None:
    """Masked, such a target ranks last; shown, it is found by repeating the history."""
    if evidence.in_history_E is None or not evidence.in_history_E.any():
        return None
    found, users = int(evidence.in_history_E.sum()), len(evidence.in_history_E)
    return f"target in the history: {found:,} of {users:,}; where the history is masked they rank last"


def ids_in_time(evidence: Evidence) -> str | None:
    """Ids that follow the time of first appearance tell which items are new."""
    if evidence.first_times_I is None:
        return None
    seen = np.flatnonzero(~np.isnan(evidence.first_times_I))
    if len(seen) < 10:
        return None
    places = np.argsort(np.argsort(evidence.first_times_I[seen], kind="stable"))
    correlation = float(np.corrcoef(np.arange(len(seen)), places)[0, 1])
    if abs(correlation) < DEVIATIONS / np.sqrt(len(seen) - 1):
        return None
    return f"ids in the order of time: rank correlation {correlation:+.2f} with the time of first appearance"


FINDINGS: dict[str, Callable[[Evidence], str | None]] = {
    "constant scores": constant_scores,
    "leaked target": leaked_target,
    "chance": chance,
    "next id": next_id,
    "target in the history": target_in_history,
    "ids in the order of time": ids_in_time,
}
"""Name → function, which returns a sentence that begins with the name, or None."""


def findings(evidence: Evidence) -> list[str]:
    """Return what makes the evaluation doubtful, a sentence each."""
    return [found for check in FINDINGS.values() if (found := check(evidence)) is not None]
