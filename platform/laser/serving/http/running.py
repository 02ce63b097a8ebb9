"""Runs the application on this machine, or on the cluster that this process has joined, and ends it."""

import logging
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray import serve

from laser.config.jobs import ServeJob
from laser.errors import UserError
from laser.serving.http.application import NAME, TOKEN, build

logger = logging.getLogger(__name__)


@contextmanager
def serving(job: ServeJob) -> Iterator[str]:
    """Serve until the block ends, and yield the address. Requests that run then are answered first.

    Args:
        job: the settings; Ray is joined already.

    Raises:
        UserError: the port is taken, or the settings are wrong.
    """
    make_token(job)
    application = build(job.model_dump(mode="json"))
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it would tell each move of its own parts
    quiet = {"log_level": "WARNING"}
    serve.start(http_options={"host": job.host, "port": job.port}, logging_config=quiet)
    logger.info("starting replicas, %d of them: each opens the model and answers once", job.min_replicas)
    try:
        try:
            serve.run(application, name=NAME, route_prefix="/")
        except RuntimeError as error:
            raise UserError(f"model: the replicas did not start ({str(error).splitlines()[0]}); see the log") from error
        yield f"http://{job.host}:{job.port}"
    finally:
        serve.shutdown()


def make_token(job: ServeJob) -> None:
    """Write a new token into `token_file` unless it is there, for this account alone to read."""
    if job.token_file is None or TOKEN in os.environ:
        return
    path = Path(job.token_file).expanduser()
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")


def answers(address: str) -> bool:
    """Return whether the server says that it is well."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False
