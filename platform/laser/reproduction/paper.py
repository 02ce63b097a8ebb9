"""What the paper prints, and how each of its cells is made: `paper.yaml`, read and typed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

METRICS = ("recall@10", "ndcg@10", "mrr")
MAIN_METRIC = "ndcg@10"
PAPER = Path(__file__).with_name("paper.yaml")


@dataclass(frozen=True)
class Row:
    """One row of a table, or one point of a figure."""

    id: str
    name: str
    kind: Literal["laser", "recommender", "quoted", "hidden"]
    """laser: a training run; recommender: the ID-based recommender alone; quoted: the paper's number alone; hidden: a
    run that other rows start from."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Dotted setting → value; `{run: <row>}` stands for that row's run, `{setting: <key>}` for a setting of the job."""
    reference: str | None = None
    """The row that this one is compared with."""
    paper: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    """Dataset → Recall@10, NDCG@10, MRR."""
    paper_difference: Mapping[str, float] = field(default_factory=dict)
    """Dataset → how much better than the reference in percent, where the paper gives this alone."""
    x: float | None = None
    """Its place on the figure's axis."""

    def paper_metrics(self, dataset: str) -> dict[str, float]:
        """The paper's numbers on one of its datasets; empty where it has none."""
        return dict(zip(METRICS, self.paper[dataset], strict=True)) if dataset in self.paper else {}


@dataclass(frozen=True)
class Count:
    """One row of Table 3."""

    name: str
    paper: float
    """Millions of trainable parameters."""
    of: str
    """The model that the paper counts."""


@dataclass(frozen=True)
class Table:
    """One table or figure."""

    name: str
    """`table 4`, `figure 3`."""
    title: str
    claim: str
    """What the paper concludes from it."""
    split: Literal["val", "test"]
    rows: dict[str, Row]
    counts: dict[str, Count]


@dataclass(frozen=True)
class Paper:
    """All of them, and what they were measured on."""

    model: dict[str, Any]
    """llm, blocks, width."""
    datasets: dict[str, dict[str, int]]
    """Name → num_users, num_items, num_interactions."""
    tables: dict[str, Table]


@cache
def read_paper() -> Paper:
    """Read `paper.yaml`, which is ours: a mistake in it is an assertion."""
    content = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    tables = {name: _table(name, value) for name, value in content.items() if name.startswith(("table", "figure"))}
    return Paper(content["model"], content["datasets"], tables)


def _table(name: str, content: dict[str, Any]) -> Table:
    rows = {id: Row(id, **_plain(row)) for id, row in content.get("rows", {}).items()}
    for row in rows.values():
        assert row.reference is None or row.reference in rows, f"{name}: {row.id}: no row {row.reference}"
    counts = {id: Count(**count) for id, count in content.get("counts", {}).items()}
    return Table(name, content["title"], content["claim"], content.get("split", "test"), rows, counts)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    paper = {dataset: tuple(numbers) for dataset, numbers in row.get("paper", {}).items()}
    return {**row, "paper": paper}
