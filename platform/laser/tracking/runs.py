"""MLflow runs: opened, resumed, found and searched in a store that is checked first.

tracking = open_tracking(config.tracking)
with tracking.run(config, "train", name="quickstart", tags={"dataset": "ml-100k"}) as run:
    run.report({"loss": 0.5}, step=1)
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from pydantic import BaseModel

from laser.config.compose import flatten
from laser.config.schema import Experiment, TrackingConfig
from laser.errors import UserError
from laser.storage.credentials import masked
from laser.storage.places import check_place
from laser.storage.yaml_text import as_yaml
from laser.tracking.database import SQLiteFile, check_server
from laser.tracking.description import NOTE, described
from laser.tracking.environment import environment, source_tags
from laser.tracking.folder import SCHEME, FolderTracking, open_folder
from laser.tracking.run import Run
from laser.tracking.store import answers, client, sqlite_file
from laser.tracking.view import experiment_tags, runs_address

logger = logging.getLogger(__name__)

PARAMS_PER_REQUEST = 100  # MLflow's limit
DATASET_TAGS = {"dataset", "dataset_fingerprint"}
"""Tags of a run that reads a dataset: its name, and what tells its content apart."""


@dataclass(frozen=True)
class Tracking:
    """An MLflow store that was found usable, and an experiment in it. It pickles."""

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
            run_id: a run of an earlier session to resume; a new one starts if the store does not have it.
        """
        store = client(self.uri)
        run = self._reopened(run_id)
        if run is None:
            tags = {**tags, "mlflow.runName": name}
            if parent is not None:
                tags["mlflow.parentRunId"] = parent
            created = store.create_run(self._experiment_id(), tags={key: str(value) for key, value in tags.items()})
            run = Run(self.uri, created.info.run_id)
        surroundings = environment()
        source = source_tags(surroundings)
        if parent is not None:  # a trial's own process is a worker of Ray: its command says nothing
            above = store.get_run(parent).data.tags
            source |= {name: above[name] for name in ("mlflow.source.name", "mlflow.source.type") if name in above}
        run.set_tags({"kind": kind, NOTE: described(kind, config, tags), **source})
        if DATASET_TAGS <= tags.keys() and isinstance(config, Experiment):
            run.log_dataset(str(tags["dataset"]), str(tags["dataset_fingerprint"]), config.data.path, tags.get("data"))
        known = store.get_run(run.run_id).data.params  # cannot be changed once they are there
        self._log_params(run, {key: value for key, value in flatten(config).items() if key not in known})
        run.log_text(masked(as_yaml(config.model_dump(mode="json"))), "config.yaml")
        run.log_json(surroundings, "environment.json")
        return run

    @contextmanager
    def run(
        self, config: BaseModel, kind: str, name: str, tags: Mapping[str, Any], run_id: str | None = None
    ) -> Iterator[Run]:
        """`start` a run and close it after the block: FINISHED, KILLED after Ctrl-C, FAILED with the error as a tag."""
        run = self.start(config, kind, name, tags, run_id=run_id)
        try:
            yield run
        except KeyboardInterrupt:
            if answers(self.uri):  # a user who interrupts does not want to wait
                run.finish("KILLED")
            raise
        except BaseException as error:
            self._record_failure(run, error)
            raise
        run.finish("FINISHED")

    @staticmethod
    def _record_failure(run: Run, error: BaseException) -> None:
        """Close a failed run. A full disk, for one, ends its store too; then the first error is the one to show."""
        if not answers(run.uri):
            logger.error("failed, to be recorded once MLflow is back: %s", masked(f"{type(error).__name__}: {error}"))
        try:
            run.set_tags({"error": masked(f"{type(error).__name__}: {error}")[:5000]})
            run.finish("FAILED")
        except Exception as second:
            logger.warning("run %s could not be closed: %s", run.run_id, masked(str(second)).splitlines()[0])

    def find(self, run_id: str, setting: str = "run_id") -> Run:
        """Return a recorded run.

        Raises:
            UserError: the store does not have it; names the setting that holds the id.
        """
        from mlflow.exceptions import MlflowException

        try:
            client(self.uri).get_run(run_id)
        except MlflowException as error:
            raise UserError(
                f"{setting}: {run_id!r} is not in {self.uri}; take one from a job's summary or the MLflow UI, "
                "or set tracking.uri"
            ) from error
        return Run(self.uri, run_id)

    def address(self, server: str | None = None) -> str | None:
        """Return the address at which a browser opens on the experiment's runs; None before its first run.

        Args:
            server: address of the server that shows the store; that of the store itself, or of `make ui`, by default.
        """
        found = self._found_experiment()
        return None if found is None else runs_address(server or self.uri, found.experiment_id)

    def search(self, condition: str) -> list[Run]:
        """Return the experiment's runs that meet a condition in MLflow's language, the latest first."""
        store = client(self.uri)
        experiment = store.get_experiment_by_name(self.experiment)
        if experiment is None:
            return []
        order = ["attributes.start_time DESC"]
        found = store.search_runs([experiment.experiment_id], condition, order_by=order, max_results=1000)
        return [Run(self.uri, run.info.run_id) for run in found]

    def check_experiment(self) -> None:
        """Refuse an experiment that the store does not have.

        Raises:
            UserError: names those that it has.
        """
        if self._found_experiment() is None:
            known = sorted(one.name for one in client(self.uri).search_experiments())
            raise UserError(
                f"experiment: {self.experiment!r} is not in {masked(self.uri)}; name one that is: {', '.join(known)}"
            )

    def _reopened(self, run_id: str | None) -> Run | None:
        if run_id is None:
            return None
        try:
            run = self.find(run_id)
        except UserError:
            return None
        client(self.uri).update_run(run_id, status="RUNNING")
        return run

    def _log_params(self, run: Run, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entities = [Param(key, masked(str(value))) for key, value in params.items()]
        for start in range(0, len(entities), PARAMS_PER_REQUEST):
            client(self.uri).log_batch(run.run_id, params=entities[start : start + PARAMS_PER_REQUEST])

    def check_writable(self) -> None:
        """Refuse a store that takes no runs of the experiment. What is missing is made with the first run.

        Raises:
            UserError: says what stands in the way.
        """
        from mlflow.exceptions import MlflowException

        file = sqlite_file(self.uri)
        if file is not None:
            file.check_writable()
            check_place(file.artifacts, "tracking.uri")
            if not file.path.exists():
                return
        try:
            found = self._found_experiment()
        except MlflowException as error:
            reason = masked(str(error)).splitlines()[0]
            raise UserError(f"tracking.uri: {masked(self.uri)}: {reason}; check the store and your access") from error
        folder = _local_folder(found.artifact_location) if found is not None and file is not None else None
        if folder is not None:
            check_place(folder, "tracking.uri")

    def _found_experiment(self) -> Any:
        """Return the experiment, or None before its first run."""
        found = client(self.uri).get_experiment_by_name(self.experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise UserError(
                f"tracking.experiment: {self.experiment!r} was deleted; restore it in MLflow or take another name"
            )
        return found

    def _experiment_id(self) -> str:
        """Return the id of the experiment, and make it for its first run. Several processes may do so at once."""
        from mlflow.exceptions import MlflowException

        found = self._found_experiment()
        if found is None:
            file = sqlite_file(self.uri)
            place = None if file is None else file.artifacts.as_uri()  # a server knows its own place
            try:
                tags = experiment_tags()
                return client(self.uri).create_experiment(self.experiment, artifact_location=place, tags=tags)
            except MlflowException:  # another process made it meanwhile
                found = self._found_experiment()
                if found is None:
                    raise
        return found.experiment_id


def open_records(config: TrackingConfig, must_exist: bool = False) -> Tracking | FolderTracking:
    """Return the store of a job that records single runs: MLflow's, or a folder, which needs no MLflow.

    Args:
        config: the settings; `tracking.uri=folder:<path>` names a folder.
        must_exist: as `open_tracking` has it.

    Raises:
        UserError: as `open_tracking` raises it.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
    if uri.startswith(SCHEME):
        return open_folder(uri, must_exist)
    if find_spec("mlflow") is None:
        raise UserError(f"tracking.uri: {uri or 'null'} needs MLflow, which is not installed; set {SCHEME}<path>")
    return open_tracking(config, must_exist)


def runs_with_ranks(tracking: Tracking | FolderTracking, dataset: str | None) -> list[Run]:
    """Return the finished runs of the experiment that hold ranks of test users, the latest first.

    Args:
        tracking: the store.
        dataset: name of the dataset that they are of; None for all.

    Raises:
        UserError: the store is a folder, in which nothing can be searched; or it has no such experiment.
    """
    if isinstance(tracking, FolderTracking):
        raise UserError(f"experiment: {tracking.folder} is a folder of runs, which has none; name the runs by runs=")
    tracking.check_experiment()
    found = tracking.search("attributes.status = 'FINISHED'")
    # Compared here, because a name may hold quotes.
    return [run for run in found if dataset in (None, run.tags().get("dataset")) and run.has("ranks")]


def open_tracking(config: TrackingConfig, must_exist: bool = False) -> Tracking:
    """Return the MLflow store that the settings name, after checking that it is usable.

    `tracking.uri` comes first, then `MLFLOW_TRACKING_URI`, then `sqlite:///mlflow.db` in the working directory.

    Args:
        config: the settings.
        must_exist: a recorded run is read. Refuse an SQLite file that is missing, which the first run would make
            otherwise, and take one that cannot be written.

    Raises:
        UserError: an unknown kind of store, a folder or file that is missing, half made or cannot be written, a server
            that does not answer, or an experiment that was deleted.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme = uri.partition("://")[0]
    if scheme.partition("+")[0] == "sqlite":
        file = SQLiteFile.named(uri)
        if must_exist and not file.path.is_file():
            raise UserError(f"tracking.uri: {uri}: no such file; set tracking.uri to where the run was recorded")
        file.check()
        tracking = Tracking(file.uri, config.experiment)
    elif scheme in ("http", "https"):
        if not answers(uri):
            raise UserError(f"tracking.uri: {masked(uri)} does not answer; start the MLflow server or set another")
        tracking = Tracking(uri, config.experiment)
    elif scheme.partition("+")[0] in ("postgresql", "mysql", "mssql"):
        check_server(uri)
        tracking = Tracking(uri, config.experiment)
    elif uri.startswith(SCHEME):
        raise UserError(f"tracking.uri: {uri}; a folder serves train, pretrain and evaluate: set sqlite:///<file>")
    else:
        raise UserError(f"tracking.uri: {uri}; wanted sqlite:///<file>, http(s)://<server> or a database URI")
    if not must_exist:
        tracking.check_writable()
    return tracking


def _local_folder(location: str) -> Path | None:
    """Return the folder that the address of local artifacts names; None for artifacts elsewhere.

    MLflow decodes `%xx` also in a plain path, which is how experiments were made before.
    """
    parts = urlparse(location)
    if parts.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parts.path if parts.scheme else location))
