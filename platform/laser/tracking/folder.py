"""Runs as plain files in a folder, for machines without MLflow: `tracking.uri=folder:<path>`.

    <path>/<run id>/
        tags.json, figures.json        what MLflow shows as tags and metrics
        epochs.jsonl                   one line for each report: step and metrics
        config.yaml, environment.json
        checkpoint/, recommender/, …   the run's artifacts

It serves the jobs that record single runs: train, pretrain and evaluate. Sweeps and reports search among runs, which
takes MLflow.
"""

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from laser.errors import UserError
from laser.storage.credentials import masked
from laser.storage.files import write_json, write_whole
from laser.storage.places import check_place
from laser.storage.yaml_text import as_yaml
from laser.tracking.environment import environment
from laser.tracking.interface import EPOCH, RunResults

SCHEME = "folder:"
TAGS, FIGURES, EPOCHS = "tags.json", "figures.json", "epochs.jsonl"


@dataclass(frozen=True)
class FolderRun:
    """One run: reported to, filled, read and closed. It pickles."""

    directory: Path

    @property
    def run_id(self) -> str:
        return self.directory.name

    def report(self, metrics: Mapping[str, float], step: int) -> None:
        """Append the metrics of one step (an epoch)."""
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        with (self.directory / EPOCHS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def record(self, results: RunResults) -> None:
        """Record what a run has left so far: missing epochs, figures and files."""
        reported = {row["step"] for row in self._epochs()}
        for row in results.history:
            metrics = dict(row)
            epoch = int(metrics.pop(EPOCH))
            if epoch not in reported:
                self.report(metrics, epoch)
        self.summarise(results.figures)
        for name, directory in results.artifacts.items():
            self.log_directory(directory, name)

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Record final figures; a later value of a figure replaces the one before."""
        known = self._read(FIGURES)
        write_json(self.directory / FIGURES, known | {name: float(value) for name, value in figures.items()})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        known = self._read(TAGS)
        write_json(self.directory / TAGS, known | {name: str(value) for name, value in tags.items()})

    def log_json(self, content: Any, name: str) -> None:
        """Write a JSON artifact."""
        write_json(self.directory / name, content)

    def log_directory(self, directory: Path, name: str) -> None:
        """Copy the files of a directory into the artifact folder `name`."""
        shutil.copytree(directory, self.directory / name, dirs_exist_ok=True)

    def tags(self) -> dict[str, str]:
        return {name: str(value) for name, value in self._read(TAGS).items()}

    def figures(self, prefix: str) -> dict[str, float]:
        """Return the final metrics whose names start with the prefix: rest of the name → value."""
        return {
            name.removeprefix(prefix): value for name, value in self._read(FIGURES).items() if name.startswith(prefix)
        }

    def course(self, prefix: str) -> dict[str, list[tuple[int, float]]]:
        """Return the metrics whose names start with the prefix: rest of the name → (step, value), by step."""
        course: dict[str, dict[int, float]] = {}
        for row in self._epochs():
            for name, value in row.items():
                if name.startswith(prefix) and name != "step":
                    course.setdefault(name.removeprefix(prefix), {})[row["step"]] = value
        return {name: sorted(points.items()) for name, points in course.items()}

    def has(self, name: str) -> bool:
        """Return whether the run has such an artifact, a file or a folder."""
        return (self.directory / name).exists()

    def fetch(self, name: str, into: Path) -> Path:
        """Copy an artifact: a file, or a folder with everything in it.

        Raises:
            UserError: the run has no such artifact.
        """
        if not self.has(name):
            raise UserError(f"run_id: run {self.run_id} has no artifact {name!r}; name a run of jobs/train.py")
        source, place = self.directory / name, into / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            return Path(shutil.copytree(source, place, dirs_exist_ok=True))
        return Path(shutil.copy(source, place))

    def _read(self, name: str) -> dict[str, Any]:
        path = self.directory / name
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def _epochs(self) -> list[dict[str, Any]]:
        path = self.directory / EPOCHS
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may cut the last one


@dataclass(frozen=True)
class FolderTracking:
    """A folder of runs. It pickles."""

    folder: Path

    @contextmanager
    def run(
        self, config: BaseModel, kind: str, name: str, tags: Mapping[str, Any], run_id: str | None = None
    ) -> Iterator[FolderRun]:
        """Open a run, or resume one, and close it after the block.

        The tag `status` is RUNNING, and then FINISHED, KILLED after Ctrl-C, or FAILED with the error as a tag.
        """
        run = FolderRun(self.folder / (run_id or uuid.uuid4().hex))
        run.directory.mkdir(parents=True, exist_ok=True)
        surroundings = environment()
        run.set_tags({**tags, "kind": kind, "name": name, "commit": surroundings["commit"], "status": "RUNNING"})
        settings = as_yaml(config.model_dump(mode="json"))
        write_whole(run.directory / "config.yaml", masked(settings))
        write_json(run.directory / "environment.json", surroundings)
        try:
            yield run
        except KeyboardInterrupt:
            run.set_tags({"status": "KILLED"})
            raise
        except BaseException as error:
            run.set_tags({"status": "FAILED", "error": masked(f"{type(error).__name__}: {error}")[:5000]})
            raise
        run.set_tags({"status": "FINISHED"})

    def address(self) -> None:
        """Return None: no browser shows a folder of runs."""

    def find(self, run_id: str, setting: str = "run_id") -> FolderRun:
        """Return a recorded run.

        Raises:
            UserError: the folder does not have it; names the setting that holds the id.
        """
        if "/" in run_id or not (self.folder / run_id / TAGS).is_file():
            raise UserError(f"{setting}: {run_id!r} is not in {self.folder}; take one from it, or set tracking.uri")
        return FolderRun(self.folder / run_id)


def open_folder(uri: str, must_exist: bool) -> FolderTracking:
    """Return the folder that `folder:<path>` names.

    Raises:
        UserError: it is missing though a recorded run is read, or it cannot be written.
    """
    if not uri.removeprefix(SCHEME):
        raise UserError(f"tracking.uri: {uri}; name a folder after it, as {SCHEME}runs/records")
    folder = Path(uri.removeprefix(SCHEME)).expanduser().absolute()
    if must_exist and not folder.is_dir():
        raise UserError(f"tracking.uri: {uri}: no such folder; set tracking.uri to where the run was recorded")
    if not must_exist:
        check_place(folder, "tracking.uri")
    return FolderTracking(folder)
