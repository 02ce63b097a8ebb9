"""Searches run by Ray Tune: each trial is a training run of its own on Ray Train workers.

A trial's process only waits for its workers, so it reserves no core: on two cores both go to the workers. Schedulers
count in our own epochs, because Tune's iteration restarts when a trial goes on.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler

from laser.config.compose import with_overrides
from laser.config.schema import Experiment, SearchConfig, TuneExperiment
from laser.config.space import Choice, LogUniform, RandInt, Uniform, parse_space
from laser.training.checkpoint import latest_checkpoint
from laser.training.inputs import prepare_inputs, with_absolute_paths
from laser.training.ray_train import EPOCH, connect
from laser.training.stages import SELECTION_METRIC, Outcome
from laser.training.train import train_laser
from laser.tuning.plan import Domain, planned_trials
from laser.tuning.sweep import Sweep, Trial, TrialRecord

logger = logging.getLogger(__name__)

METRIC = f"val/{SELECTION_METRIC}"
SHARED_STAGES = ("data.", "prompt.", "llm.source", "recommender.")
"""Settings of the stages that trials share, unless the space varies them."""


class TrialRun(Protocol):
    """Where a trial's metrics go. It pickles, because the Train controller reports from a process of its own."""

    run_id: str

    def report(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics of an epoch and the number of epochs done."""


class Tracker(Protocol):
    """What a search needs from tracking; it pickles."""

    def start(self, experiment: Experiment, trial: Trial) -> TrialRun:
        """Open the trial's run, or the one of its earlier sessions. Called in the trial's process."""

    def finish(self, trial: Trial, state: str, outcome: Outcome | None) -> None:
        """Close the run of a trial that ended or was interrupted. Called in the sweep's process."""


def run_search(config: TuneExperiment, sweep: Sweep, tracker: Tracker) -> list[TrialRecord]:
    """Run the trials that have not ended yet, and return the records of all.

    A trial that fails does not end the others. A sweep that was interrupted goes on by the same call: ended trials are
    left as they are, unfinished ones go on from their last checkpoint, and failed ones are tried again.

    Raises:
        UserError: a setting or the space is wrong; found before anything starts, except for combinations of values that
            a sampler draws later: these end as failed trials.
    """
    space = parse_space(config.space, Experiment)
    base = Experiment.model_validate_json(config.model_dump_json(include=set(Experiment.model_fields)))
    base = with_absolute_paths(base)  # trials run in directories of their own
    planned = planned_trials(space, config.search)
    for overrides in planned or ():
        with_overrides(base, overrides)
    if not any(key.startswith(SHARED_STAGES) for key in space):
        prepare_inputs(base)  # once, so that all trials find them made
    scheduler = _scheduler(config)
    param_space: dict[str, Any]
    if planned is None:
        param_space = {key: _tune_domain(domain) for key, domain in space.items()}
    else:
        if scheduler is None:  # asha has to hear again what ended trials reached: they repeat their reports
            ended = [record.overrides for record in sweep.records() if record.ended]
            planned = [overrides for overrides in planned if overrides not in ended]
        if not planned:
            return sweep.records()
        param_space = {"overrides": tune.grid_search([json.dumps(overrides) for overrides in planned])}
    connect(dashboard=True)  # which tells Ray that a stopped trial's workers are gone, so that it frees their cores
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C raises KeyboardInterrupt, as everywhere
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    trainable = tune.with_parameters(_run_trial, base=base.model_dump_json(), sweep=str(sweep.path), tracker=tracker)
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([{"memory": 1}])),  # one byte: nothing is refused
        param_space=param_space,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=_optuna(config.search) if planned is None else None,
            scheduler=scheduler,
            num_samples=config.search.num_samples if planned is None else 1,
            max_concurrent_trials=config.search.max_concurrent_trials,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(sweep.path),
            verbose=0,
            callbacks=[_RecordKeeper(sweep, tracker), tune.logger.JsonLoggerCallback()],
        ),
    )
    try:
        tuner.fit()
    finally:
        for trial in sweep.unfinished_trials():
            tracker.finish(trial, "interrupted", None)
    return sweep.records()


def _run_trial(params: Mapping[str, Any], base: str, sweep: str, tracker: Tracker) -> dict[str, float]:
    """One trial, in a process of its own; Tune hears of each epoch and, at the end, of the best one."""
    trial = Sweep(Path(sweep)).trial(_overrides(params))
    with trial.exclusive():
        record, outcome = trial.record(), _outcome(trial)
        if outcome or (record and record.ended):
            reports = _reports(trial)
            for report in reports:
                tune.report(report)
            return {EPOCH: reports[-1][EPOCH], METRIC: max(report[METRIC] for report in reports)}
        experiment = with_overrides(Experiment.model_validate_json(base), trial.overrides)
        run = tracker.start(experiment, trial)
        trial.remember_run(run.run_id)
        if experiment.training.num_workers:
            outcome = train_laser(experiment, trial.path, run.report, [TuneReportCallback()])
        else:

            def report_here(metrics: Mapping[str, float], epoch: int) -> None:
                run.report(metrics, epoch)
                tune.report({**metrics, EPOCH: epoch})

            outcome = train_laser(experiment, trial.path, report_here)
    return {EPOCH: outcome.epochs, METRIC: outcome.val[SELECTION_METRIC]}


class _RecordKeeper(tune.Callback):
    """Writes each trial's record the moment it ends, and a line for each step of the way."""

    def __init__(self, sweep: Sweep, tracker: Tracker) -> None:
        self.sweep, self.tracker = sweep, tracker

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        logger.info("trial %s started", self._ours(trial).name)

    def on_trial_result(
        self, iteration: int, trials: Sequence[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        logger.info("trial %s, epoch %d: %s %.4f", self._ours(trial).name, result[EPOCH], METRIC, result[METRIC])

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        ours = self._ours(trial)
        self._end(ours, "finished" if _outcome(ours) else "stopped", None)

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        ours, error = self._ours(trial), str(trial.get_error())
        ours.path.mkdir(parents=True, exist_ok=True)
        (ours.path / "error.txt").write_text(f"{error}\n")
        self._end(ours, "failed", error.strip().splitlines()[-1] if error.strip() else "unknown")

    def _ours(self, trial: Any) -> Trial:
        return self.sweep.trial(_overrides(trial.config))

    def _end(self, trial: Trial, state: Literal["finished", "stopped", "failed"], error: str | None) -> None:
        record = trial.record()
        if record is not None and record.ended:
            return  # it only repeated its reports
        reports, outcome = _reports(trial), _outcome(trial)
        best = max(reports, key=lambda report: report[METRIC], default={})
        record = TrialRecord(
            name=trial.name,
            overrides=trial.overrides,
            state=state,
            run_id=trial.run_id,
            val={name.removeprefix("val/"): value for name, value in best.items() if name.startswith("val/")},
            test=outcome.test if outcome else None,
            epochs=int(reports[-1][EPOCH]) if reports else 0,
            error=error,
        )
        self.tracker.finish(trial, state, outcome)
        trial.write_record(record)
        if error is None:
            logger.info("trial %s %s: best %s %.4f", trial.name, state, METRIC, best[METRIC])
        else:
            logger.error("trial %s failed: %s (whole error: %s)", trial.name, error, trial.path / "error.txt")


def _outcome(trial: Trial) -> Outcome | None:
    path = trial.path / "result.json"
    return Outcome(**json.loads(path.read_text())) if path.is_file() else None


def _reports(trial: Trial) -> list[dict[str, float]]:
    """The validation metrics of each epoch, over all sessions of the trial."""
    checkpoint = latest_checkpoint(trial.path / "checkpoints")
    rows = checkpoint.state.history if checkpoint else []
    return [{name: value for name, value in row.items() if name == EPOCH or name.startswith("val/")} for row in rows]


def _overrides(params: Mapping[str, Any]) -> dict[str, Any]:
    if "overrides" in params:
        return json.loads(params["overrides"])
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in params.items()}


def _tune_domain(domain: Domain) -> Any:
    match domain:
        case Choice():
            return tune.choice([json.dumps(value) for value in domain.values])  # text, because Optuna takes no lists
        case Uniform():
            return tune.uniform(domain.low, domain.high)
        case LogUniform():
            return tune.loguniform(domain.low, domain.high)
        case RandInt():
            return tune.randint(domain.low, domain.high)


def _optuna(search: SearchConfig) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(metric=METRIC, mode="max", seed=search.seed)


def _scheduler(config: TuneExperiment) -> ASHAScheduler | None:
    """Asynchronous successive halving over epochs (arXiv 1810.05934), if asked for.

    The last epoch is no rung: a trial that came so far may finish, because its test comes after.
    """
    last_rung = config.training.stage1_epochs + config.training.stage2_epochs - 1
    if config.search.scheduler == "none" or last_rung < config.search.grace_epochs:
        return None
    return ASHAScheduler(
        time_attr=EPOCH,
        max_t=last_rung,
        grace_period=config.search.grace_epochs,
        reduction_factor=config.search.reduction_factor,
        stop_last_trials=False,
    )
