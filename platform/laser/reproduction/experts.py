"""Which users each expert serves, from a run's router and the cached encodings: no pass through the LLM is needed.

Shape suffixes: E users, N history items, C recommender width, K experts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from laser.config.schema import Experiment
from laser.data.dataset import Dataset
from laser.engine.histories import Histories
from laser.models.mformer import Router
from laser.training.prepare import prepare_inputs
from laser.training.run.checkpoint import read_checkpoint

USERS_PER_FORWARD = 1024
ROUTER = "mformer.router.score.weight"
NUM_VALUES = 3
"""Attribute values that are named for each expert."""


@dataclass(frozen=True)
class ExpertUsers:
    """The users of a split and the expert that serves each, with what may tell them apart."""

    users: pa.Table
    """user_id int32, expert int32, gate float32 (probability of the chosen expert), history_length int32, popularity
    float64 (median, over the history, of how many training interactions an item has), attribute text."""
    num_experts: int
    attribute: str | None
    """Which item attribute the column `attribute` holds, the most frequent value of the history; None without any."""

    @property
    def experts_E(self) -> NDArray[np.int32]:
        return self.users.column("expert").to_numpy()

    def column(self, name: str) -> NDArray[Any]:
        return self.users.column(name).to_numpy(zero_copy_only=False)

    def of(self, expert: int, name: str) -> NDArray[Any]:
        """A column, for the users of one expert."""
        return self.column(name)[self.experts_E == expert]


def expert_users(config: Experiment, checkpoint: Path, recommender: Path) -> ExpertUsers | None:
    """Route the test users of a run; None where nothing is routed.

    Args:
        config: the run's experiment.
        checkpoint: directory of its selected checkpoint.
        recommender: directory of the recommender that it was trained on.
    """
    weights = read_checkpoint(checkpoint).trainable()
    if ROUTER not in weights:
        return None
    inputs = prepare_inputs(config, recommender)
    experts_E, gates_E = _route(weights[ROUTER], inputs.test)
    dataset, examples = inputs.dataset, inputs.test.examples
    histories = [examples.history(row) for row in range(len(examples))]
    counts_I = training_counts(dataset)
    attribute = wanted_attribute(dataset.item_attributes)
    values_I = dataset.items.column(attribute).to_pylist() if attribute else []
    users = pa.table(
        {
            "user_id": pa.array(examples.users, pa.int32()),
            "expert": pa.array(experts_E, pa.int32()),
            "gate": pa.array(gates_E, pa.float32()),
            "history_length": pa.array([len(history) for history in histories], pa.int32()),
            "popularity": pa.array([float(np.median(counts_I[history])) for history in histories], pa.float64()),
            "attribute": pa.array([_majority(values_I, history) for history in histories], pa.string()),
        }
    )
    return ExpertUsers(users, len(weights[ROUTER]), attribute)


def wanted_attribute(names: Sequence[str]) -> str | None:
    """The items' category or genre where they have one, else their first attribute."""
    kinds = [name for name in names if any(word in name.lower() for word in ("categor", "genre", "class"))]
    return next(iter([*kinds, *names]), None)


def _route(weight_KC: torch.Tensor, histories: Histories) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The chosen expert of each user, and its gate."""
    assert histories.encodings is not None, "what has a router reads a recommender"
    router = Router(weight_KC.shape[1], weight_KC.shape[0])
    router.score.weight = torch.nn.Parameter(weight_KC)
    experts_E = np.empty(len(histories), dtype=np.int32)
    gates_E = np.empty(len(histories), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(histories), USERS_PER_FORWARD):
            rows = np.arange(start, min(start + USERS_PER_FORWARD, len(histories)))
            encoding_BNC, mask_BN = map(torch.from_numpy, histories.encodings.batch(rows))
            gate_BK = router(encoding_BNC, mask_BN).gate_BK
            experts_E[rows], gates_E[rows] = gate_BK.argmax(dim=-1).numpy(), gate_BK.amax(dim=-1).numpy()
    return experts_E, gates_E


def training_counts(dataset: Dataset) -> NDArray[np.int64]:
    """Training interactions of each item."""
    examples = dataset.examples("train")
    trained = [dataset.item_ids[start : end + 1] for start, end in zip(examples.starts, examples.ends, strict=True)]
    return np.bincount(np.concatenate(trained), minlength=dataset.num_items)


def explained_share(values: Sequence[float] | NDArray[Any], experts: Sequence[int] | NDArray[Any]) -> float:
    """Share of the variance of a number that the expert explains (η²): 0 nothing, 1 all."""
    values_E, experts_E = np.asarray(values, dtype=np.float64), np.asarray(experts)
    total = ((values_E - values_E.mean()) ** 2).sum()
    if not total:
        return 0.0
    means = {expert: values_E[experts_E == expert].mean() for expert in np.unique(experts_E)}
    between = sum((means[expert] - values_E.mean()) ** 2 for expert in experts_E)
    return float(between / total)


def association(values: Sequence[str | None], experts: Sequence[int] | NDArray[Any]) -> float:
    """Cramér's V, corrected for chance (Bergsma 2013), between attribute values and experts: 0 none, 1 complete.

    Users without a value are left out.
    """
    pairs = [(value, int(expert)) for value, expert in zip(values, experts, strict=True) if value]
    rows, columns = sorted({value for value, _ in pairs}), sorted({expert for _, expert in pairs})
    if len(rows) < 2 or len(columns) < 2:
        return 0.0
    counts = np.zeros((len(rows), len(columns)))
    for value, expert in pairs:
        counts[rows.index(value), columns.index(expert)] += 1
    total = counts.sum()
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / total
    phi = float(((counts - expected) ** 2 / expected).sum() / total)
    height, width = counts.shape
    phi = max(0.0, phi - (height - 1) * (width - 1) / (total - 1))
    height, width = height - (height - 1) ** 2 / (total - 1), width - (width - 1) ** 2 / (total - 1)
    return float(np.sqrt(phi / min(height - 1, width - 1)))


def typical_values(experts: ExpertUsers, expert: int) -> list[tuple[str, float]]:
    """The attribute values that are most over-represented among an expert's users, and by which factor.

    A value counts if at least five of the expert's users have it.
    """
    every = Counter(value for value in experts.column("attribute") if value)
    own = Counter(value for value in experts.of(expert, "attribute") if value)
    factor = {
        value: (count / own.total()) / (every[value] / every.total()) for value, count in own.items() if count >= 5
    }
    return sorted(factor.items(), key=lambda item: (-item[1], item[0]))[:NUM_VALUES]


def _majority(values_I: Sequence[str | None], history: NDArray[np.int32]) -> str | None:
    """The most frequent value among a history's items; of equals the most recent."""
    if not values_I:
        return None
    values = [values_I[item] for item in history[::-1] if values_I[item]]
    return Counter(values).most_common(1)[0][0] if values else None


def load_course(course: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, list[tuple[float, float]]]:
    """Share of the histories that each expert handled, over the epochs: from the metrics `expert_load/<expert>`."""
    return {f"expert {expert}": [(float(x), y) for x, y in course[expert]] for expert in sorted(course, key=int)}
