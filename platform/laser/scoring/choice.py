"""Chooses training users by influence and effort, and keeps the choice with what it was made of (arXiv 2401.17197)."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from laser.config.families.selection import GroupedUsers, MatchedUsers, ScoredUsers
from laser.config.identity import stage_key
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.recommenders.pretraining import ARTIFACT_VERSION
from laser.scoring.coverage import (
    Indices,
    Numbers,
    combined,
    draw_as_long,
    draw_from_groups,
    highest,
    score_groups,
)
from laser.scoring.influence import influence
from laser.scoring.scored import Made, cached_column, write_selection

VERSION = 2
"""Raised when influence, effort or draw change their result."""


def choose_users(
    config: ScoredUsers,
    dataset: Dataset,
    users: NDArray[np.int32],
    seed: int,
    cache: Path,
    effort_key: str,
    make_effort: Callable[[], Made],
) -> Path:
    """Return the file of the chosen users (`laser.scoring.scored`), from the cache or made now.

    Its name is known before anything is made, so that a choice is found where surrogate and scores are not.

    Args:
        config: the selection.
        dataset: with the training sequences that the surrogate learns from.
        users: those to choose among, sorted.
        seed: `training.seed`.
        cache: the cache of all artifacts.
        effort_key: names what goes into the effort.
        make_effort: computes the users' effort; called unless it weighs nothing, or is in the cache.
    """
    folder, of_users = cache / "selections", (dataset.fingerprint, sha256(users.tobytes()).hexdigest())
    effort_key = effort_key if config.effort_weight else ""
    path = folder / f"{stage_key('selection', VERSION, ARTIFACT_VERSION, *of_users, config, seed, effort_key)}.parquet"
    if path.exists():
        return path
    found = influence(config, dataset, users, seed, cache)
    spent = None
    if effort_key:
        place = folder / f"{stage_key('effort', VERSION, *of_users, effort_key)}.parquet"
        spent = cached_column(place, "effort", users, make_effort)
    efforts = None if spent is None else spent.values
    check_finite("influence", found.column.values, "lower selection.surrogate.learning_rate")
    if efforts is not None:
        check_finite("effort", efforts, "raise training.temperature")
    scores = combined(found.column.values, efforts, config.effort_weight)
    groups, chosen = draw(config, scores, dataset.num_train_items[users], np.random.default_rng(seed))
    facts = {
        "surrogate_seconds": found.surrogate.result.seconds,
        "influence_seconds": found.column.facts["seconds"],
        "effort_seconds": 0.0 if spent is None else spent.facts["seconds"],
        "gradient_ratio": found.column.facts["gradient_ratio"],
        "hessian_products": found.column.facts["hessian_products"],
    }
    columns = {
        "user": pa.array(users),
        "influence": pa.array(found.column.values),
        "effort": pa.nulls(len(users), pa.float64()) if efforts is None else pa.array(efforts),
        "score": pa.array(scores),
        "group": pa.array(groups),
        "chosen": pa.array(np.isin(np.arange(len(users)), chosen)),
    }
    write_selection(path, columns, facts)
    return path


def check_finite(name: str, values_U: Numbers, remedy: str) -> None:
    """Refuse scores that overflowed: scaled to 0..1, they would choose users by chance.

    Raises:
        UserError: names the setting, how many users it concerns, and the remedy.
    """
    if bad := int((~np.isfinite(values_U)).sum()):
        raise UserError(
            f"selection.type: the {name} of {bad} of {len(values_U)} users is not finite; {remedy}, or take "
            "selection.type=random"
        )


def draw(
    config: ScoredUsers, scores_U: Numbers, lengths_U: Indices, random: np.random.Generator
) -> tuple[Indices, Indices]:
    """Return each user's group, which is 0 without groups, and the indices of the chosen users, sorted.

    Args:
        config: the selection.
        scores_U: the users' scores, by id.
        lengths_U: training items of each user.
        random: draws the users.
    """
    size = config.size(len(scores_U))
    if not isinstance(config, GroupedUsers):
        return np.zeros(len(scores_U), np.int64), highest(scores_U, size)
    num_pruned = min(int(config.hard_prune * len(scores_U)), len(scores_U) - size)
    groups_U = score_groups(scores_U, config.num_groups, num_pruned)
    chosen = draw_from_groups(groups_U, size, random)
    if isinstance(config, MatchedUsers):
        chosen = draw_as_long(lengths_U, chosen, random)
    return groups_U, chosen
