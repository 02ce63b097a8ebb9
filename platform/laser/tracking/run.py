"""One MLflow run: reported to, filled, read and closed.

The store may be away for a while. What an epoch reports meanwhile is kept and delivered with the next report. What a
kill loses, `Run.record` takes from the run's history. All other calls wait for the store.

MLflow refuses `@` in names, so `val/ndcg@10` is recorded as `val/ndcg_at_10`.
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from laser.errors import UserError
from laser.evaluation.metrics import SELECTION_METRIC
from laser.pages.run_figures import run_figures
from laser.storage.credentials import masked
from laser.tracking.description import NOTE, with_results
from laser.tracking.interface import RunResults
from laser.tracking.store import SERVER_ERROR, answers, client, client_at_once, write_shared

Status = Literal["FINISHED", "FAILED", "KILLED"]

logger = logging.getLogger(__name__)

DIGEST_CHARACTERS = 36
"""MLflow takes no longer digest of a dataset."""
STEP_METRIC = f"val/{SELECTION_METRIC}"
"""A metric that every epoch reports; it tells which epochs a run holds already."""


@dataclass(frozen=True)
class Run:
    """One MLflow run. It pickles, so that other processes can report to it."""

    uri: str
    run_id: str
    undelivered: list[tuple[dict[str, float], int, int]] = field(default_factory=list, compare=False, repr=False)
    """What this process has reported and the store has not taken yet: metrics, step, and time in ms."""

    def report(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step (an epoch), and what the store has missed. It never waits for the store."""
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
        """Deliver what is kept. The store takes a point of one time once, so a repeated delivery doubles nothing."""
        from mlflow.entities import Metric

        while self.undelivered:
            metrics, step, time_ms = self.undelivered[0]
            names = sorted(metrics, key=lambda name: name != STEP_METRIC)  # MLflow compares runs by the first one
            entities = [Metric(metric_name(name), float(metrics[name]), time_ms, step) for name in names]
            client_at_once(self.uri).log_batch(self.run_id, metrics=entities)
            del self.undelivered[0]

    def report_missing(self, history: Iterable[Mapping[str, float]]) -> None:
        """Record the rows (metrics and `epoch`) that the run lacks, as after a kill just before a report."""
        store = client(self.uri)
        self._deliver()
        recorded = {point.step for point in store.get_metric_history(self.run_id, metric_name(STEP_METRIC))}
        for row in history:
            metrics = dict(row)
            epoch = int(metrics.pop("epoch"))
            if epoch not in recorded:
                self.report(metrics, epoch)

    def record(self, results: RunResults) -> None:
        """Record what a run has left so far: missing epochs, figures, files and drawings, and what it reached."""
        self.report_missing(results.history)
        self.summarise(results.figures)
        for name, directory in results.artifacts.items():
            self.log_directory(directory, name)
        artifacts = results.artifacts
        self.log_drawings(run_figures(results.history, artifacts.get("ranks"), artifacts.get("selection")))
        self.set_tags({NOTE: with_results(self.tags().get(NOTE, ""), results.figures)})

    def log_drawings(self, drawings: Mapping[str, str]) -> None:
        """Write drawings (name → SVG) into the artifact folder `figures`."""
        from laser.pages.plots import as_file  # matplotlib takes a second to import

        for name, svg in drawings.items():
            self.log_text(as_file(svg), f"figures/{name}.svg")

    def log_dataset(self, name: str, digest: str, source: str, profile: Any = None) -> None:
        """Link the run to the data that it reads, so that runs of equal data are found by it.

        Args:
            name: of the dataset.
            digest: its fingerprint; MLflow takes 36 characters of it.
            source: where the raw data came from.
            profile: what is said of it.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        whence, said = json.dumps({"uri": masked(source)}), json.dumps({"data": profile})
        dataset = Dataset(name, digest[:DIGEST_CHARACTERS], "local", whence, schema=None, profile=said)
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training and evaluation")])]
        write_shared(lambda: client(self.uri).log_inputs(self.run_id, datasets=inputs))

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Record final figures; a later value of a figure replaces the one before."""
        for name, value in figures.items():
            client(self.uri).log_metric(self.run_id, metric_name(name), float(value))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        for name, value in tags.items():
            client(self.uri).set_tag(self.run_id, name, value)

    def log_text(self, text: str, name: str) -> None:
        """Write a text artifact."""
        client(self.uri).log_text(self.run_id, text, name)

    def log_json(self, content: Any, name: str) -> None:
        """Write a JSON artifact."""
        self.log_text(json.dumps(content, indent=1) + "\n", name)

    def log_directory(self, directory: Path, name: str) -> None:
        """Copy the files of a directory into the artifact folder `name`."""
        client(self.uri).log_artifacts(self.run_id, str(directory), name)

    def finish(self, status: Status) -> None:
        client(self.uri).set_terminated(self.run_id, status)

    def tags(self) -> dict[str, str]:
        return dict(client(self.uri).get_run(self.run_id).data.tags)

    def figures(self, prefix: str) -> dict[str, float]:
        """Return the final metrics whose names start with the prefix: rest of the name, as `ndcg@10` → value."""
        metrics = client(self.uri).get_run(self.run_id).data.metrics
        return {
            name.removeprefix(prefix).replace("_at_", "@"): value
            for name, value in metrics.items()
            if name.startswith(prefix)
        }

    def course(self, prefix: str) -> dict[str, list[tuple[int, float]]]:
        """Return the metrics whose names start with the prefix: rest of the name → (step, value), by step."""
        store = client(self.uri)
        names = [name for name in store.get_run(self.run_id).data.metrics if name.startswith(prefix)]
        course = {}
        for name in names:
            points = {point.step: point.value for point in store.get_metric_history(self.run_id, name)}
            course[name.removeprefix(prefix).replace("_at_", "@")] = sorted(points.items())
        return course

    def has(self, name: str) -> bool:
        """Return whether the run has such an artifact, a file or a folder."""
        folder = name.rpartition("/")[0]
        return any(item.path == name for item in client(self.uri).list_artifacts(self.run_id, folder or None))

    def settings(self) -> dict[str, str]:
        """Return the flattened settings, as text."""
        return dict(client(self.uri).get_run(self.run_id).data.params)

    def fetch(self, name: str, into: Path) -> Path:
        """Download an artifact: a file, or a folder with everything in it.

        Raises:
            UserError: the run has no such artifact.
        """
        if not self.has(name):
            raise UserError(
                f"run_id: run {self.run_id} has no artifact {name!r}; name a run of jobs/train.py or a trial"
            )
        into.mkdir(parents=True, exist_ok=True)
        return Path(client(self.uri).download_artifacts(self.run_id, name, str(into)))


def metric_name(name: str) -> str:
    """Return a metric's name as MLflow takes it."""
    return name.replace("@", "_at_")
