"""What a run's page says of it in words: what it is, and what it has reached."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from laser.config.schema import Experiment
from laser.evaluation.metrics import SELECTION_METRIC, title

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description, in Markdown."""
REACHED = "\n\n**Reached:** "
"""Begins what is added once a run has results."""


def described(kind: str, config: BaseModel, tags: Mapping[str, Any]) -> str:
    """Say in sentences what a run is.

    Args:
        kind: `pretrain`, `reference`, `train`, `trial`, `tune` or `reproduce`.
        config: its resolved settings.
        tags: `dataset` and `data`, where it reads data.
    """
    if not isinstance(config, Experiment):
        return f"A run of jobs/{kind}.py."
    place = f" on {tags['dataset']}" if "dataset" in tags else ""
    data = f" Data: {tags['data']}." if "data" in tags else ""
    return f"{_subject(kind, config)}{place}.{data}"


def with_results(note: str, figures: Mapping[str, float]) -> str:
    """Add what a run has reached to its description; what was added before is replaced.

    Args:
        note: the description so far.
        figures: `best/<metric>`, `untrained/<metric>`, `test/<metric>`, `epochs` and `seconds`, as far as known.
    """
    best = figures.get(f"best/{SELECTION_METRIC}")
    if best is None:
        return note
    name = title(SELECTION_METRIC)
    parts = [f"{name} {best:.4f} on validation users"]
    if f"untrained/{SELECTION_METRIC}" in figures:
        parts[0] += f" ({figures[f'untrained/{SELECTION_METRIC}']:.4f} untrained)"
    if f"test/{SELECTION_METRIC}" in figures:
        parts.append(f"{figures[f'test/{SELECTION_METRIC}']:.4f} on test users")
    cost = [f"{figures['epochs']:.0f} epochs"] if "epochs" in figures else []
    cost += [f"{figures['seconds']:.0f} seconds"] if "seconds" in figures else []
    after = f", after {' and '.join(cost)}" if cost else ""
    return f"{note.partition(REACHED)[0]}{REACHED}{' and '.join(parts)}{after}."


def _subject(kind: str, config: Experiment) -> str:
    if kind in ("pretrain", "reference"):
        return f"The ID-based recommender {config.recommender.type}, trained"
    length, blocks = config.mformer.num_virtual_tokens, config.llm.num_layers
    llm = f"the LLM {config.llm.source}" + (f", its first {blocks} blocks," if blocks else "")
    if kind == "tune":
        varied = ", ".join(getattr(config, "space", {}))
        return f"A sweep over {varied} with {llm}"
    if kind == "reproduce":
        return f"A table of the paper, reproduced with {llm}"
    reader = f", which reads {config.recommender.type}," if config.uses_recommender else ""
    prefix = {
        "mformer": f"Laser with K = {config.mformer.num_experts} experts and L = {length} virtual tokens",
        "projection": f"A projection of the last {length} states to virtual tokens",
        "free": f"A free prefix of L = {length} virtual tokens",
        "none": "No prefix",
    }[config.bituning.prefix]
    return f"{prefix}{reader} before {llm}"
