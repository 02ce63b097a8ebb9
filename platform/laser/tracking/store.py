"""The MLflow store: whether it answers, and how long a run waits for it."""

import logging
import os
import time
import urllib.request
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from laser.errors import UserError
from laser.storage.credentials import masked
from laser.tracking.database import SQLiteFile, alone_on_server

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5
"""A server that needs longer for its health check does not answer."""
PATIENCE_SECONDS = 600
"""How long a run waits for its server. The reports of epochs never wait."""
TELL_SECONDS = 30
"""Seconds between two lines that tell of the waiting."""
SERVER_ERROR = 500
"""From this HTTP status on it is the store that fails: its server is gone, or its disk is full."""


def answers(uri: str) -> bool:
    """Return whether an MLflow server answers; a database needs no server."""
    if not uri.startswith("http"):
        return True
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def client(uri: str) -> Any:
    """Wait until the store answers, and return MLflow's client of it.

    Raises:
        UserError: the store has not answered for PATIENCE_SECONDS.
    """
    deadline, told = time.monotonic() + PATIENCE_SECONDS, 0.0
    while not answers(uri):
        if time.monotonic() > deadline:
            raise UserError(
                f"tracking.uri: {masked(uri)} has not answered for {PATIENCE_SECONDS / 60:.0f} minutes; start MLflow "
                "again and rerun with resume=true: what it has missed is recorded from the run's history"
            )
        if time.monotonic() > told + TELL_SECONDS:
            told = time.monotonic()
            logger.warning("MLflow at %s does not answer; waiting %.0f s for it", masked(uri), deadline - told)
        time.sleep(1)
    return client_at_once(uri)


@lru_cache(maxsize=8)
def client_at_once(uri: str) -> Any:
    """Return MLflow's client of the store, whether the store answers or not."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    file = sqlite_file(uri)
    if file is not None:
        file.make()
    with alone_on_server(uri):
        return MlflowClient(tracking_uri=uri)


def write_shared(write: Callable[[], object]) -> None:
    """Write what other processes may be writing too, such as a new dataset or an alias.

    MLflow looks for it and then writes it. If another process has written it in between, a second look finds it.
    """
    from mlflow.exceptions import MlflowException

    try:
        write()
    except MlflowException:
        write()


def sqlite_file(uri: str) -> SQLiteFile | None:
    """Return the file of an SQLite store; None for a store behind a server."""
    return SQLiteFile.named(uri) if uri.startswith("sqlite") else None
