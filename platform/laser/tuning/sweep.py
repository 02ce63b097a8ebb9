"""A sweep on disk, so that it can be stopped at any moment, also by `kill -9`, and resumed.

    <output_dir>/sweeps/<name>/    <name>-2, <name>-3, … for later ones
        sweep.json                 settings that must not change, and what names the content of the LLM
        run_id                     its MLflow run
        complete                   there when every trial has ended
        trials/K=4,L=8-1a2b3c/
            overrides.json         what the trial changes in the experiment
            run_id                 its MLflow run
            started, first_epoch   when it came so far, in unix seconds
            record.json            how the trial ended; absent while it is unfinished
            checkpoints/, history.json, result.json   of `laser.training`
        tune/                      Ray Tune's own files, which are never read back

A sweep is resumed from these files alone. Ray Tune's `Tuner.restore` reads pickles that lag up to ten seconds behind
and lack the scheduler's state. Here a trial is finished as soon as its record is renamed into place.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from laser.config.compose import flatten
from laser.config.fields import marked
from laser.config.identity import first_difference, llm_content, same_llm, stage_key
from laser.config.marks import HOW_IT_RUNS, MAY_DIFFER_ON_RESUME
from laser.config.schema import TuneExperiment
from laser.errors import UserError
from laser.storage.files import write_json, write_whole
from laser.storage.locks import exclusive, held
from laser.training.run.checkpoint import LLM_CONTENT
from laser.training.run.directory import remember_run, remembered_run, run_directory

SYMBOLS = {
    "mformer.num_experts": "K",
    "mformer.num_virtual_tokens": "L",
    "mformer.num_layers": "Z",
    "mformer.hidden_size": "D",
}
"""The paper's symbols of what is most often varied; other settings go by the last part of their key."""

TrialState = Literal["finished", "stopped", "failed"]
"""finished: after all its epochs; stopped: early, by the scheduler; failed: by an error."""
Moment = Literal["started", "first_epoch"]
"""What a trial notes on its way: that it started, and that the untrained model (epoch 0) was validated."""


@dataclass(frozen=True)
class TrialRecord:
    """How a trial ended. Moments are unix seconds, null where unknown; a resumed trial's include the interruption."""

    name: str
    overrides: dict[str, Any]
    """What the trial changes in the sweep's experiment: dotted key → value."""
    state: TrialState
    run_id: str | None
    """The trial's MLflow run; null if it failed before it had one."""
    val: dict[str, float] = field(default_factory=dict)
    """Validation metrics of the best epoch."""
    test: dict[str, float] | None = None
    epochs: int = 0
    """Epochs done, over both stages."""
    error: str | None = None
    """Last line of the error; the trial's `error.txt` holds the whole."""
    started: float | None = None
    """When the trial was first started."""
    first_epoch: float | None = None
    """When the untrained model's validation was reported."""
    ended: float | None = None
    """When the trial's run was closed."""
    seconds: float | None = None
    """Seconds of training, encoding and validation, over all sessions; null before the first epoch."""

    @property
    def is_final(self) -> bool:
        """Whether a resumed sweep leaves the trial as it is; a failed trial is tried again."""
        return self.state != "failed"


class Trial:
    """One trial's directory."""

    def __init__(self, path: Path, name: str, overrides: Mapping[str, Any]) -> None:
        self.path, self.name, self.overrides = path, name, dict(overrides)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until no other process works on this trial, because a sampler may draw the same settings twice."""
        with exclusive(self.path / "lock"):
            write_json(self.path / "overrides.json", self.overrides)
            yield

    def record(self) -> TrialRecord | None:
        """Return how the trial ended, or None while it is unfinished."""
        path = self.path / "record.json"
        return TrialRecord(**json.loads(path.read_text())) if path.is_file() else None

    def write_record(self, record: TrialRecord) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "record.json", asdict(record))

    def note(self, moment: Moment) -> None:
        """Note that the trial has come so far; later sessions leave the first note."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.moment(moment) is None:
            write_whole(self.path / moment, f"{time.time():.3f}\n")

    def moment(self, moment: Moment) -> float | None:
        """Return when the trial came so far, in unix seconds; None if that was not noted."""
        path = self.path / moment
        return float(path.read_text()) if path.is_file() else None

    @property
    def symbols(self) -> dict[str, Any]:
        """The settings that the trial varies and the paper has a symbol for: K, L, …"""
        return {SYMBOLS[key]: value for key, value in self.overrides.items() if key in SYMBOLS}

    @property
    def run_id(self) -> str | None:
        """The MLflow run of earlier sessions, if there is one."""
        return remembered_run(self.path)

    def remember_run(self, run_id: str) -> None:
        remember_run(self.path, run_id)


class Sweep:
    """One sweep's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_id(self) -> str | None:
        """The sweep's MLflow run; None before it has one."""
        return remembered_run(self.path)

    def remember_run(self, run_id: str) -> None:
        remember_run(self.path, run_id)

    @property
    def complete(self) -> bool:
        """Whether every trial has ended, well or not."""
        return (self.path / "complete").exists()

    def mark_complete(self) -> None:
        (self.path / "complete").touch()

    def trial(self, overrides: Mapping[str, Any]) -> Trial:
        """Return the trial of these settings; equal settings are the same trial."""
        slug = re.sub(r"[^A-Za-z0-9=.,-]+", "_", _short_name(overrides).replace(" ", ","))[:80]
        return Trial(self.path / "trials" / stage_key(slug, dict(overrides)), trial_name(overrides), overrides)

    def unfinished_trials(self) -> list[Trial]:
        """Return the trials that were started and have no record."""
        paths = [path.parent for path in sorted(self.path.glob("trials/*/overrides.json"))]
        trials = [self.trial(json.loads((path / "overrides.json").read_text())) for path in paths]
        return [trial for trial in trials if trial.record() is None]

    def records(self) -> list[TrialRecord]:
        """Return the records of all trials that have ended."""
        paths = sorted(self.path.glob("trials/*/record.json"))
        return [TrialRecord(**json.loads(path.read_text())) for path in paths]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold the sweep for this process.

        Raises:
            UserError: another process runs it.
        """
        with held(self.path, "runs this sweep"):
            yield

    def check_same_settings(self, config: TuneExperiment) -> None:
        """Refuse to resume a sweep under settings that would make its trials incomparable.

        Raises:
            UserError: names the first setting that differs.
        """
        then, content = self._settings().get(LLM_CONTENT), _llm_content(config)
        if not same_llm(then, content):
            raise UserError(
                f"llm.source: holds {content}, and the sweep to resume ({self.path}) began with {then}; put the LLM "
                "back, or leave out resume to start a new sweep"
            )
        before, now = self._settings()["config"], _comparable(config)
        key = first_difference(before, now, TuneExperiment)
        if key is not None:
            raise UserError(
                f"{key}: {now.get(key)!r} differs from {before.get(key)!r} of the sweep to resume ({self.path}); "
                "set it back, or leave out resume to start a new sweep"
            )

    def _settings(self) -> dict[str, Any]:
        return json.loads((self.path / "sweep.json").read_text())


def open_sweep(config: TuneExperiment) -> Sweep:
    """Start a new sweep or, with `resume`, take the latest one of the same name.

    Raises:
        UserError: there is none to resume, or its settings differ.
    """
    if config.resume:
        sweep = latest_sweep(config)
        if sweep is None:
            raise UserError(
                f"resume: no sweep named {config.name!r} under {config.output_dir}; "
                "leave it out to start one, or set name and output_dir of the stopped one"
            )
        sweep.check_same_settings(config)
        return sweep
    path = run_directory(_sweeps_directory(config), config.name, resume=False)
    write_json(path / "sweep.json", {"config": _comparable(config), LLM_CONTENT: _llm_content(config)})
    return Sweep(path)


def latest_sweep(config: TuneExperiment) -> Sweep | None:
    """Return the sweep of this name that was started last, complete or not."""
    try:
        path = run_directory(_sweeps_directory(config), config.name, resume=True)
    except UserError:
        return None
    return Sweep(path) if (path / "sweep.json").is_file() else None


def trial_name(overrides: Mapping[str, Any]) -> str:
    """Return a short name that tells trials apart: `K=4 L=16`.

    Where it does not show a value whole, a part of the overrides' hash follows: `learning_rate=0.0001235 #3fa9c1`.
    """
    name = _short_name(overrides)
    if all(_shows(_value_text(value), value) for value in overrides.values()):
        return name
    return f"{name} #{stage_key('', dict(overrides))[1:7]}"


def _short_name(overrides: Mapping[str, Any]) -> str:
    short = {key: SYMBOLS.get(key, key.rpartition(".")[2]) for key in overrides}
    unique = {key: name if list(short.values()).count(name) == 1 else key for key, name in short.items()}
    return " ".join(f"{unique[key]}={_value_text(value)}" for key, value in overrides.items()) or "defaults"


def _value_text(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 32 else f"{text[:29]}..."


def _shows(text: str, value: Any) -> bool:
    """Whether the text is of this value alone."""
    if isinstance(value, float):
        return float(text) == value
    if isinstance(value, str):  # `None`, `True` and `8` are also how other values look
        return re.fullmatch(r"(?!None$|True$|False$)[A-Za-z_][A-Za-z0-9_.:/-]*", value) is not None and text == value
    return text == str(value)


def _sweeps_directory(config: TuneExperiment) -> Path:
    return Path(config.output_dir).expanduser().absolute() / "sweeps"


def _llm_content(config: TuneExperiment) -> str:
    return llm_content(config.llm.source, Path(config.cache_dir).expanduser())


def _comparable(config: TuneExperiment) -> dict[str, Any]:
    """Return the flattened settings that must stay the same when a sweep resumes, so that its trials compare."""
    of_search = [key for key in marked(TuneExperiment, MAY_DIFFER_ON_RESUME) if key.startswith("search.")]
    may_differ = (*marked(TuneExperiment, HOW_IT_RUNS), *of_search)
    return {key: value for key, value in flatten(config).items() if key not in may_differ}
