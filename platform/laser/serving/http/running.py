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
from ray.serve import Application

from laser.cluster.ports import check_port
from laser.config.jobs import ServeJob
from laser.errors import UserError
from laser.serving.files import check_readable
from laser.serving.http.application import NAME, TOKEN, build
from laser.storage.cache import make_once
from laser.storage.places import check_file

logger = logging.getLogger(__name__)


def application_of(job: ServeJob) -> Application:
    """Make the application before Ray starts, so that what is wrong is told at once.

    Raises:
        UserError: the settings are wrong, there is no such model, or the port is taken.
    """
    if job.new_items is not None:
        check_readable(Path(job.new_items).expanduser(), "new_items")
    if "RAY_ADDRESS" not in os.environ:  # elsewhere Ray Serve may run already, and have the port
        check_port(job.host, job.port)
    make_token(job)
    return build(job.model_dump(mode="json"))


@contextmanager
def serving(job: ServeJob, application: Application) -> Iterator[str]:
    """Serve until the block ends, and yield the address. Requests that run then are answered first.

    Args:
        job: the settings; Ray is joined already.
        application: of `application_of`.

    Raises:
        UserError: the replicas do not start.
    """
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
    if not path.exists():
        check_file(path, "token_file")
    make_once(path, _write_token)


def _write_token(path: Path) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")


def answers(address: str) -> bool:
    """Return whether the server says that it is well."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False
