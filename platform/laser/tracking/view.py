"""How a browser shows the runs of an experiment: which page opens, and which columns and charts stand on it.

MLflow opens an experiment on traces, unless the address says otherwise or this browser was told before. What columns
and charts a page has it keeps in the browser too, but an address may name a view that is a tag of the experiment.
So our address names the runs and our view.
"""

import json
from typing import Any

from laser.evaluation.metrics import SELECTION_METRIC
from laser.tracking.mlflow_private import SHARED_VIEW, chart, chart_section
from laser.tracking.run import metric_name

VIEW = "laser"
"""Name of our view."""
DEFAULT_SERVER = "http://127.0.0.1:5000"
"""Where `make ui` and `mlflow ui` listen by default."""
BEST = metric_name(f"best/{SELECTION_METRIC}")
VALIDATION = metric_name(f"val/{SELECTION_METRIC}")
TEST = metric_name(f"test/{SELECTION_METRIC}")
K_AND_L = ["mformer.num_experts", "mformer.num_virtual_tokens"]


def experiment_tags() -> dict[str, str]:
    """Return the tags of a new experiment: its kind, the metric that counts, a description, and our view."""
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.experiment.primaryMetric.name": BEST,
        "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
        "mlflow.note.content": "Runs of Laser: a frozen LLM, tuned for sequential recommendation by virtual tokens. "
        "A sweep is a run of kind `tune`, and its trials are the runs below it.",
        f"{SHARED_VIEW}{VIEW}": json.dumps(runs_view()),
    }


def runs_address(server: str, experiment_id: str) -> str:
    """Return the address that opens on the runs, in our view.

    Args:
        server: address of an MLflow server. For a database it is that of `make ui`.
        experiment_id: the experiment.
    """
    base = server.rstrip("/") if server.startswith("http") else DEFAULT_SERVER
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def runs_view() -> dict[str, Any]:
    """Return our view: all runs, the best first, with K, L and NDCG@10 before everything else."""
    columns = [*(f"tags.`{name}`" for name in ("kind", "K", "L")), *(f"metrics.`{name}`" for name in (BEST, TEST))]
    columns += ["attributes.`Dataset`", "tags.`llm`", "attributes.`Source`", "attributes.`User`"]
    charts = [
        chart("parallel", "PARALLEL", selectedParams=K_AND_L, selectedMetrics=[BEST]),
        chart("course", "LINE", metricKey=VALIDATION, selectedMetricKeys=[VALIDATION], xAxisKey="step"),
        chart("best", "BAR", metricKey=BEST),
        chart("loss", "LINE", metricKey="loss", selectedMetricKeys=["loss"], xAxisKey="step"),
        chart(
            "cost",
            "SCATTER",
            xaxis={"key": "seconds", "type": "METRIC"},
            yaxis={"key": BEST, "type": "METRIC"},
        ),
    ]
    return {
        "orderByKey": f"metrics.`{BEST}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "compareRunCharts": charts,
        "compareRunSections": [chart_section()],
        "isAccordionReordered": True,
    }
