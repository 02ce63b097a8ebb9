"""MLflow runs: opened, gone on with, filled and closed. The only room that knows MLflow.

A server may go away for a while: what an epoch reports meanwhile is kept and delivered with the next one, or by
`Run.record` from the run's checkpoints, and all else waits for the server.

    tracking = open_tracking(config.tracking)
    with tracking.run(config, "train", name="quickstart", tags={"dataset": "ml-100k"}) as run:
        run.report({"loss": 0.5}, step=1)

MLflow refuses `@` in names, so `val/ndcg@10` is recorded as `val/ndcg_at_10`.
"""

import json
import logging
import os
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml
from pydantic import BaseModel

from laser.config.compose import flatten
from laser.config.credentials import masked
from laser.config.schema import TrackingConfig
from laser.errors import UserError
from laser.evaluation.metrics import SELECTION_METRIC
from laser.tracking.environment import environment

Status = Literal["FINISHED", "FAILED", "KILLED"]

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5
"""A server that takes longer to say that it is well does not answer."""
PATIENCE_SECONDS = 600
"""How long a run waits for its server, but for the reports of epochs, which never wait."""
TELL_SECONDS = 30
"""Between two lines that say so."""
SERVER_ERROR = 500
"""From here on it is the store that fails: a server that is gone, a disk that is full."""
PARAMS_PER_REQUEST = 100  # MLflow's limit
STEP_METRIC = f"val/{SELECTION_METRIC}"
"""Reported with every epoch: tells which epochs a run holds already."""


class Results(Protocol):
    """What is recorded of a run; `laser.training.run.outcome.RunResults` is one."""

    @property
    def history(self) -> Iterable[Mapping[str, float]]: ...
    @property
    def figures(self) -> Mapping[str, float]: ...
    @property
    def artifacts(self) -> Mapping[str, Path]: ...


@dataclass(frozen=True)
class Run:
    """One MLflow run. It pickles, so that other processes can report to it."""

    uri: str
    run_id: str
    undelivered: list[tuple[dict[str, float], int, int]] = field(default_factory=list, compare=False, repr=False)
    """Metrics, step and time in ms of what this process has reported while the store took none."""

    def report(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step (an epoch), and those that the store has missed; never waits for it."""
        from mlflow.exceptions import MlflowException

        self.undelivered.append((dict(metrics), step, int(time.time() * 1000)))
        try:
            if answers(self.uri):
                self._deliver()
        except MlflowException as error:
            if error.get_http_status_code() < SERVER_ERROR:
                raise
        if self.undelivered:
            logger.warning(
                "MLflow at %s takes no reports; %d wait for it, the last of epoch %d",
                masked(self.uri), len(self.undelivered), step,
            )  # fmt: skip

    def _deliver(self) -> None:
        """The store takes the same point of the same time once, so a repeated delivery doubles nothing."""
        from mlflow.entities import Metric

        while self.undelivered:
            metrics, step, time_ms = self.undelivered[0]
            entities = [Metric(_metric_name(name), float(value), time_ms, step) for name, value in metrics.items()]
            _store(self.uri).log_batch(self.run_id, metrics=entities)
            del self.undelivered[0]

    def report_missing(self, history: Iterable[Mapping[str, float]]) -> None:
        """Record those rows (metrics and `epoch`) that the run lacks, as after a kill just before a report."""
        client = _client(self.uri)
        self._deliver()
        recorded = {point.step for point in client.get_metric_history(self.run_id, _metric_name(STEP_METRIC))}
        for row in history:
            metrics = dict(row)
            epoch = int(metrics.pop("epoch"))
            if epoch not in recorded:
                self.report(metrics, epoch)

    def record(self, results: "Results") -> None:
        """Record what a run has left so far: the epochs that are missing, its figures, its files."""
        self.report_missing(results.history)
        self.summarise(results.figures)
        for name, directory in results.artifacts.items():
            self.log_directory(directory, name)

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Record final figures; each has one value, the latest."""
        for name, value in figures.items():
            _client(self.uri).log_metric(self.run_id, _metric_name(name), float(value))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        for name, value in tags.items():
            _client(self.uri).set_tag(self.run_id, name, value)

    def log_text(self, text: str, name: str) -> None:
        """Write a text artifact."""
        _client(self.uri).log_text(self.run_id, text, name)

    def log_json(self, content: Any, name: str) -> None:
        """Write a JSON artifact."""
        self.log_text(json.dumps(content, indent=1) + "\n", name)

    def log_directory(self, directory: Path, name: str) -> None:
        """Copy the files of a directory into the artifact folder `name`."""
        _client(self.uri).log_artifacts(self.run_id, str(directory), name)

    def finish(self, status: Status) -> None:
        _client(self.uri).set_terminated(self.run_id, status)

    def tags(self) -> dict[str, str]:
        return dict(_client(self.uri).get_run(self.run_id).data.tags)

    def figures(self, prefix: str) -> dict[str, float]:
        """The final metrics whose names start with the prefix, by the rest of their names: `best/` → `ndcg@10`."""
        metrics = _client(self.uri).get_run(self.run_id).data.metrics
        return {
            name.removeprefix(prefix).replace("_at_", "@"): value
            for name, value in metrics.items()
            if name.startswith(prefix)
        }

    def course(self, prefix: str) -> dict[str, list[tuple[int, float]]]:
        """The metrics whose names start with the prefix, by the rest of their names, over the steps: (step, value)."""
        client = _client(self.uri)
        names = [name for name in client.get_run(self.run_id).data.metrics if name.startswith(prefix)]
        course = {}
        for name in names:
            points = {point.step: point.value for point in client.get_metric_history(self.run_id, name)}
            course[name.removeprefix(prefix).replace("_at_", "@")] = sorted(points.items())
        return course

    def has(self, name: str) -> bool:
        """Whether the run has such an artifact, a file or a folder."""
        folder = name.rpartition("/")[0]
        return any(item.path == name for item in _client(self.uri).list_artifacts(self.run_id, folder or None))

    def settings(self) -> dict[str, str]:
        """The flattened settings, as text."""
        return dict(_client(self.uri).get_run(self.run_id).data.params)

    def fetch(self, name: str, into: Path) -> Path:
        """Download an artifact (a file, or a folder with all in it).

        Raises:
            UserError: the run has no such artifact.
        """
        if not self.has(name):
            raise UserError(
                f"run_id: run {self.run_id} has no artifact {name!r}; name a run of jobs/train.py or a trial"
            )
        return Path(_client(self.uri).download_artifacts(self.run_id, name, str(into)))


@dataclass(frozen=True)
class Tracking:
    """An MLflow store that was found usable, and the experiment in it. It pickles."""

    uri: str
    experiment: str

    def start(
        self,
        config: BaseModel,
        kind: str,
        name: str,
        tags: Mapping[str, Any],
        parent: str | None = None,
        run_id: str | None = None,
    ) -> Run:
        """Open a run that holds the resolved config, the environment and the tags.

        Args:
            config: recorded as `config.yaml` and as flattened parameters.
            kind: what the run is: `pretrain`, `train`, `tune` or `trial`.
            name: its name in the UI.
            tags: what runs are found and grouped by.
            parent: run id of the run above it.
            run_id: a run of an earlier session to go on with; a new one starts where the store does not have it.
        """
        client = _client(self.uri)
        run = self._reopened(run_id)
        if run is None:
            tags = {**tags, "mlflow.runName": name}
            if parent is not None:
                tags["mlflow.parentRunId"] = parent
            created = client.create_run(self._experiment_id(), tags={key: str(value) for key, value in tags.items()})
            run = Run(self.uri, created.info.run_id)
        surroundings = environment()
        code = {"commit": surroundings["commit"], "mlflow.source.git.commit": surroundings["commit"]}
        run.set_tags({"kind": kind, **{key: value for key, value in code.items() if value}})
        known = client.get_run(run.run_id).data.params  # cannot be changed once they are there
        self._log_params(run, {key: value for key, value in flatten(config).items() if key not in known})
        run.log_text(masked(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)), "config.yaml")
        run.log_json(surroundings, "environment.json")
        return run

    @contextmanager
    def run(
        self, config: BaseModel, kind: str, name: str, tags: Mapping[str, Any], run_id: str | None = None
    ) -> Iterator[Run]:
        """`start` a run and close it at the end: FINISHED, KILLED after Ctrl-C, FAILED with the error as a tag."""
        run = self.start(config, kind, name, tags, run_id=run_id)
        try:
            yield run
        except KeyboardInterrupt:
            if answers(self.uri):  # whoever interrupts does not want to wait
                run.finish("KILLED")
            raise
        except BaseException as error:
            self._record_failure(run, error)
            raise
        run.finish("FINISHED")

    @staticmethod
    def _record_failure(run: Run, error: BaseException) -> None:
        """What ends a run may end its store too, a full disk for one; then the first error is the one to show."""
        if not answers(run.uri):
            logger.error("failed, to be recorded once MLflow is back: %s", masked(f"{type(error).__name__}: {error}"))
        try:
            run.set_tags({"error": masked(f"{type(error).__name__}: {error}")[:5000]})
            run.finish("FAILED")
        except Exception as second:
            logger.warning("run %s could not be closed: %s", run.run_id, masked(str(second)).splitlines()[0])

    def find(self, run_id: str, setting: str = "run_id") -> Run:
        """A recorded run.

        Raises:
            UserError: the store does not have it; names the setting that it was given in.
        """
        from mlflow.exceptions import MlflowException

        try:
            _client(self.uri).get_run(run_id)
        except MlflowException as error:
            raise UserError(
                f"{setting}: {run_id!r} is not in {self.uri}; take one from a job's summary or the MLflow UI, "
                "or set tracking.uri"
            ) from error
        return Run(self.uri, run_id)

    def search(self, condition: str) -> list[Run]:
        """The runs of the experiment that meet a condition in MLflow's language, the latest first."""
        client = _client(self.uri)
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None:
            return []
        order = ["attributes.start_time DESC"]
        found = client.search_runs([experiment.experiment_id], condition, order_by=order, max_results=1000)
        return [Run(self.uri, run.info.run_id) for run in found]

    def _reopened(self, run_id: str | None) -> Run | None:
        if run_id is None:
            return None
        try:
            run = self.find(run_id)
        except UserError:
            return None
        _client(self.uri).update_run(run_id, status="RUNNING")
        return run

    def _log_params(self, run: Run, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entities = [Param(key, masked(str(value))) for key, value in params.items()]
        for start in range(0, len(entities), PARAMS_PER_REQUEST):
            _client(self.uri).log_batch(run.run_id, params=entities[start : start + PARAMS_PER_REQUEST])

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        client = _client(self.uri)
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return client.create_experiment(self.experiment, artifact_location=_artifact_location(self.uri))
            except MlflowException:  # another process made it meanwhile
                found = client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise UserError(
                f"tracking.experiment: {self.experiment!r} was deleted; restore it in MLflow or take another name"
            )
        return found.experiment_id


def open_tracking(config: TrackingConfig, must_exist: bool = False) -> Tracking:
    """The store of the settings, checked before any work is done for it.

    `tracking.uri` goes before `MLFLOW_TRACKING_URI`, and that before `sqlite:///mlflow.db` in the working directory.

    Args:
        config: the settings.
        must_exist: refuse an SQLite file that is not there, instead of having it made with the first run.

    Raises:
        UserError: an unknown kind of store, a folder or file that is missing, or a server that does not answer.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme = uri.partition("://")[0]
    if scheme == "sqlite":
        path = (
            Path(uri.removeprefix("sqlite:///")).expanduser().absolute()
        )  # the same for processes that start elsewhere
        if not path.parent.is_dir():
            raise UserError(f"tracking.uri: {uri}: no folder {path.parent}; make it or set another file")
        if must_exist and not path.is_file():
            raise UserError(f"tracking.uri: {uri}: no such file; set tracking.uri to where the run was recorded")
        return Tracking(f"sqlite:///{path}", config.experiment)
    if scheme in ("http", "https"):
        if not answers(uri):
            raise UserError(f"tracking.uri: {masked(uri)} does not answer; start the MLflow server or set another")
        return Tracking(uri, config.experiment)
    if scheme.partition("+")[0] in ("postgresql", "mysql", "mssql"):
        return Tracking(uri, config.experiment)
    raise UserError(f"tracking.uri: {uri}; wanted sqlite:///<file>, http(s)://<server> or a database URI")


def _artifact_location(uri: str) -> str | None:
    """Beside an SQLite file; a server knows its own."""
    if not uri.startswith("sqlite:///"):
        return None
    return str(Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts")


def answers(uri: str) -> bool:
    """Whether an MLflow server answers; a database is reached without one."""
    if not uri.startswith("http"):
        return True
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _client(uri: str) -> Any:
    """The store, as soon as it answers.

    Raises:
        UserError: it has not answered for PATIENCE_SECONDS.
    """
    deadline, told = time.monotonic() + PATIENCE_SECONDS, 0.0
    while not answers(uri):
        if time.monotonic() > deadline:
            raise UserError(
                f"tracking.uri: {masked(uri)} has not answered for {PATIENCE_SECONDS / 60:.0f} minutes; start MLflow "
                "again and go on with resume=true: what it has missed is recorded from the checkpoints"
            )
        if time.monotonic() > told + TELL_SECONDS:
            told = time.monotonic()
            logger.warning("MLflow at %s does not answer; waiting %.0f s for it", masked(uri), deadline - told)
        time.sleep(1)
    return _store(uri)


@lru_cache(maxsize=8)
def _store(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _metric_name(name: str) -> str:
    return name.replace("@", "_at_")
