"""Everything that we use of MLflow and that MLflow does not promise: how its tables are made, and their version.

Checked on MLflow 3.17.2. Another version may drop or rename any of it, so read this file when the pin changes.
"""


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
