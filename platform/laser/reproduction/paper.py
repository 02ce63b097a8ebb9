"""What the paper prints, and how each of its cells is made: `paper.yaml` and the files of `tables/`, read and typed.

A new table is one more file in `tables/`; `paper.yaml` says what stands in one.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ValidationError

from laser.config.explain import complaint
from laser.config.jobs import TABLES
from laser.config.section import Section
from laser.errors import UserError

S = TypeVar("S", bound=Section)
LASER = "Laser, arXiv 2409.01605"
PAPER = TABLES.with_name("paper.yaml")


class Paper(Section):
    """What the paper's numbers were measured with."""

    model: dict[str, Any]
    """llm, blocks, width."""
    metrics: tuple[str, ...]
    """The metrics that the paper prints, in its order."""
    datasets: dict[str, dict[str, int]]
    """Name → num_users, num_items, num_interactions."""


class Row(Section):
    """One row of a table, or one point of a figure."""

    id: str
    """Names the row in the file, in references and on disk."""
    name: str
    """Names the row in the report."""
    kind: Literal["laser", "recommender", "quoted", "hidden"]
    """laser: a training run; recommender: the ID-based recommender alone; quoted: the paper's number alone; hidden: a
    run that other rows start from."""
    changes: dict[str, Any] = {}
    """Dotted setting → value; `{run: <row>}` stands for that row's run, `{setting: <key>}` for a setting of the job."""
    reference: str | None = None
    """The row that this one is compared with."""
    paper: dict[str, tuple[float, ...]] = {}
    """Dataset → the paper's numbers, in the order of `Paper.metrics`."""
    paper_difference: dict[str, float] = {}
    """Dataset → how much better than the reference in percent, where the paper gives this alone."""
    x: float | None = None
    """Its place on the figure's axis."""

    def paper_metrics(self, dataset: str) -> dict[str, float]:
        """The paper's numbers on one of its datasets; empty where it has none."""
        return dict(zip(read_paper().metrics, self.paper[dataset], strict=True)) if dataset in self.paper else {}


class Count(Section):
    """One row of a table of parameters."""

    name: str
    """Names the row in the report."""
    paper: float
    """Millions of trainable parameters."""
    of: str
    """The model that the paper counts."""


class Table(Section):
    """One table or figure."""

    name: str
    """`table 4`, `figure 3`."""
    title: str
    """What it is about."""
    claim: str
    """What the paper concludes from it."""
    source: str = LASER
    """The paper that it is of."""
    dataset: str | None = None
    """The data of the numbers of another paper than Laser's."""
    split: Literal["val", "test"] = "test"
    """Which held-out items are ranked."""
    rows: dict[str, Row] = {}
    """Id → row."""
    costs: bool = False
    """Show what each row costs too: trained weights, optimizer, time, memory."""
    counts: dict[str, Count] = {}
    """Way of tuning → its parameters, counted in place of runs."""


@cache
def read_paper() -> Paper:
    """Read `paper.yaml`."""
    return _checked(Paper, yaml.safe_load(PAPER.read_text(encoding="utf-8")), PAPER)


def table_files() -> list[Path]:
    """The files of all tables and figures."""
    return sorted(TABLES.glob("*.yaml"))


@cache
def read_table(name: str) -> Table:
    """Read the file of a table or figure: `table 4` is `tables/table-4.yaml`.

    Raises:
        UserError: the file has other fields, or a row names another that is not there.
    """
    path = TABLES / f"{name.replace(' ', '-', 1)}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if isinstance(rows := content.get("rows"), dict):
        content["rows"] = {id: {"id": id, **row} for id, row in rows.items()}
    table = _checked(Table, {"name": name, **content}, path)
    for row in table.rows.values():
        runs = [value["run"] for value in row.changes.values() if isinstance(value, dict) and "run" in value]
        for other in (row.reference, *runs):
            if other is not None and other not in table.rows:
                raise UserError(f"{path}: rows.{row.id}: no row {other!r}; there are: {', '.join(table.rows)}")
        for dataset, numbers in row.paper.items():
            if dataset not in read_paper().datasets or len(numbers) != len(read_paper().metrics):
                raise UserError(
                    f"{path}: rows.{row.id}.paper: {dataset}: {list(numbers)}; wanted one of "
                    f"{', '.join(read_paper().datasets)}, with a number for each of {', '.join(read_paper().metrics)}"
                )
    return table


def _checked(cls: type[S], content: Any, path: Path) -> S:
    try:
        return cls.model_validate_json(json.dumps(content))
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{path}: {field}: {complaint(error)[:300]}") from error
