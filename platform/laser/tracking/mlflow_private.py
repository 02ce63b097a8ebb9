"""Everything that we use of MLflow and that MLflow does not promise: how its tables are made, and their version.

Checked on MLflow 3.17.2. Another version may drop or rename any of it, so read this file when the pin changes.
"""

from typing import Any


def latest_schema() -> str:
    """Return the version of the tables that this MLflow reads and writes."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return _get_latest_schema_revision()


def table_names() -> set[str]:
    """Return the names of all tables of this MLflow."""
    import mlflow.store.db.utils  # noqa: F401  it knows all modules that declare tables
    from mlflow.store.db.base_sql_model import Base

    return set(Base.metadata.tables)


def make_tables(uri: str) -> None:
    """Make all tables and the experiment `Default` in an empty database, and close it."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()


SHARED_VIEW = "mlflow.sharedViewState."
"""Begins the tag of an experiment that holds a view; `viewStateShareKey` in an address names the rest. Its value is the
JSON that the page writes itself when a user shares a view."""


def chart(name: str, kind: str, **options: Any) -> dict[str, Any]:
    """Return a chart of a view: of `kind` BAR, LINE, PARALLEL or SCATTER, as the page's own charts are written."""
    base = {"uuid": f"laser-{name}", "type": kind, "metricSectionId": SECTION, "deleted": False, "isGenerated": False}
    if kind == "LINE":
        base |= {"scaleType": "linear", "yAxisKey": "metric", "yAxisExpressions": [], "range": {}, "lineSmoothness": 0}
        base |= {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "ignoreOutliers": False}
    return {**base, "runsCountToCompare": 32, **({"showAllRuns": False} if kind == "PARALLEL" else {}), **options}


def chart_section() -> dict[str, Any]:
    """Return the section of a view in which our charts stand."""
    switches = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": SECTION, "name": "K, L and quality", **switches}


SECTION = "laser-section"
