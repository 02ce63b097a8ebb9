"""The influence of each training user on a risk: how much the risk would rise without the user.

I(s) = (1/n) ∇L(s)ᵀ (H + damping)⁻¹ v (arXiv 2401.17197, Eq. 11), where v is the gradient of the risk. H⁻¹ v is found
once for all users. The paper's risk is that of the training users. It has a gradient only as far as the surrogate is
from its minimum, so the paper's score ranks users by what the surrogate has underfitted. The validation users' risk
gives the classical influence.

Shape suffixes: U training users, P numbers of the parameter.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from laser.cli.progress import waiting
from laser.config.families.selection import ScoredUsers
from laser.config.identity import stage_key
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.families.sasrec import SASRec
from laser.recommenders.pretraining import Pretrained, pretrained_recommender
from laser.recommenders.storage import content_hash
from laser.scoring.scored import Column, Made, cached_column
from laser.scoring.solvers import Product, Solution, conjugate_gradients, lissa
from laser.scoring.surrogate import Sequences, Surrogate

VERSION = 1


@dataclass(frozen=True)
class Influence:
    """The influence of some users, in the order of ids."""

    column: Column
    surrogate: Pretrained


def influence(config: ScoredUsers, dataset: Dataset, users: NDArray[np.int32], seed: int, cache: Path) -> Influence:
    """Return the influence of training users, from the cache or computed now.

    Args:
        config: surrogate, risk and solver.
        dataset: with the training sequences that the surrogate learns from.
        users: those to score, sorted, with at least 2 training items each.
        seed: draws the users of H, and those of LiSSA's steps.
        cache: the cache of all artifacts.
    """
    section = config.surrogate
    section = section.model_copy(update={"validate_every": section.max_epochs})  # nothing held out chooses an epoch
    surrogate = pretrained_recommender(section, dataset, cache, test=False)
    names = ("risk", "solver", "damping", "scale", "hessian_users", "steps", "average")
    settings = {name: getattr(config, name) for name in names}
    digest = dataset.examples("train").of_users(users).digest()
    key = stage_key(
        "influence", VERSION, content_hash(surrogate.directory), dataset.fingerprint, digest, settings, seed
    )

    def make() -> Made:
        assert isinstance(surrogate.model, SASRec)
        with waiting(f"influence of {len(users):,} users"):
            return _influence(config, Surrogate(surrogate.model), dataset, users, seed)

    return Influence(cached_column(cache / "selections" / f"{key}.parquet", "influence", users, make), surrogate)


def _influence(
    config: ScoredUsers, surrogate: Surrogate, dataset: Dataset, users: NDArray[np.int32], seed: int
) -> Made:
    started = time.perf_counter()
    longest = surrogate.model.max_history + 1  # with the last target
    sequences = [dataset.train_items(int(user))[-longest:] for user in users]
    train = surrogate.gradients(sequences)
    v_P = train.mean_P
    if config.risk == "validation":
        v_P = surrogate.gradients(_with_target(dataset.examples("val").last(longest - 1)), last_only=True).mean_P
    solution = inverse_hessian_product(config, surrogate, sequences, v_P, seed)
    values_U = surrogate.dot_gradients(sequences, solution.vector_P) / len(users)
    facts = {
        "gradient_ratio": float(train.mean_P.norm()) / train.mean_norm if train.mean_norm else 0.0,
        "hessian_products": float(solution.products),
        "seconds": time.perf_counter() - started,
    }
    return values_U, facts


def inverse_hessian_product(
    config: ScoredUsers, surrogate: Surrogate, sequences: Sequences, v_P: Tensor, seed: int
) -> Solution:
    """Return (H + damping · scale · 1)⁻¹ v by the solver of the settings."""
    random = np.random.default_rng(seed)
    if config.solver == "lissa":
        steps = random.integers(len(sequences), size=config.steps)

        def product_at(step: int) -> Product:
            return lambda vector_P: surrogate.hessian_product([sequences[steps[step]]], vector_P)

        return lissa(product_at, v_P, config.steps, config.damping, config.scale, config.average)
    size = min(config.hessian_users, len(sequences))
    some = [sequences[index] for index in np.sort(random.choice(len(sequences), size, replace=False))]
    damping = config.damping * config.scale
    return conjugate_gradients(lambda vector_P: surrogate.hessian_product(some, vector_P), v_P, damping)


def _with_target(examples: Examples) -> list[NDArray[np.int32]]:
    """Return each history with the item that comes next."""
    return [np.append(examples.history(index), examples.targets[index]) for index in range(len(examples))]
