"""Searches run by Ray Tune: each trial is a training run of its own on Ray Train workers.

A trial's process only waits for its workers, so it reserves no core: on two cores, both go to the workers. Schedulers
count in our own epochs, because Tune's iteration restarts when a trial is resumed.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler

from laser.cli.unused import refuse_unused
from laser.cluster.join import cluster
from laser.cluster.ray_private import check_temporary_folder, configure_tune
from laser.config.compose import with_overrides
from laser.config.families.selection import ScoredUsers
from laser.config.fields import marked
from laser.config.identity import as_experiment
from laser.config.marks import ARTIFACT
from laser.config.paths import check_places, with_absolute_paths
from laser.config.schema import Experiment, SearchConfig, TuneExperiment
from laser.errors import UserError
from laser.evaluation.metrics import SELECTION_METRIC
from laser.tracking.interface import EPOCH, Tracker
from laser.training.artifacts import Artifacts
from laser.training.run.outcome import read_outcome
from laser.training.train import run_tags
from laser.tuning.plan import planned_trials, sampled_trials
from laser.tuning.space import Choice, Domain, LogUniform, RandInt, Uniform, parse_space
from laser.tuning.sweep import SYMBOLS, Sweep, Trial, TrialRecord, TrialState, open_sweep
from laser.tuning.table import SweepTable
from laser.tuning.trial import METRIC, best_report, end_trial, end_unfinished, epoch_reports, train_trial
from laser.tuning.verdicts import Verdicts

logger = logging.getLogger(__name__)

COLOURS = re.compile("\x1b\\[[0-9;]*m")


@dataclass(frozen=True)
class SearchPlan:
    """A search whose settings were found right."""

    config: TuneExperiment
    base: Experiment
    """The experiment that trials vary."""
    space: dict[str, Domain]
    trials: list[dict[str, Any]] | None
    """The overrides of all trials; None where a sampler decides as it goes."""
    artifacts: Artifacts | None
    """What all trials read, made once; None where the space varies it."""
    checkpoint_bytes: dict[str, int] = field(default_factory=dict)
    """Overrides, as JSON → size of a checkpoint of that trial, for the planned trials that share the artifacts."""

    def data_facts(self) -> dict[str, Any] | None:
        """Return what a summary says of the data; None where trials have different data."""
        from laser.data.dataset import open_dataset

        return open_dataset(self.artifacts.dataset_directory).facts() if self.artifacts else None


def checked_search(config: TuneExperiment) -> SearchPlan:
    """Check the settings, and plan the trials without their artifacts. Nothing is made.

    Raises:
        UserError: a setting, the space or one of the planned trials is wrong. What a sampler draws later is
            checked then, and ends as a failed trial.
    """
    space = parse_space(config.space, Experiment)
    base = with_absolute_paths(as_experiment(config))  # trials run in directories of their own
    trials = planned_trials(space, config.search)
    if trials is None:
        refuse_unused(space, base, _possible(sampled_trials(space), base))
    else:
        for overrides in trials:
            with_overrides(base, overrides)
        refuse_unused(space, base, trials)
    return SearchPlan(config, base, space, trials, None)


def plan_search(config: TuneExperiment) -> SearchPlan:
    """Check the settings and make what trials share, before anything is started.

    Raises:
        UserError: as `checked_search` raises it, or a place, the data or the sweep to resume are wrong.
    """
    check_places(config)
    check_temporary_folder()
    if config.resume:
        open_sweep(config)  # what cannot be resumed is told before anything is made
    plan = checked_search(config)
    scored = isinstance(plan.base.selection, ScoredUsers)  # scores depend on more than what is marked
    if scored or not plan.space.keys().isdisjoint(marked(Experiment, ARTIFACT)):
        return plan
    from laser.training.model import checkpoint_bytes  # they import the models, which trials' own processes do without
    from laser.training.prepare import make_artifacts

    artifacts = make_artifacts(plan.base)
    sizes = {}
    for overrides in plan.trials or ():
        experiment = with_overrides(plan.base, overrides)
        sizes[json.dumps(overrides)] = checkpoint_bytes(experiment, artifacts)
    return replace(plan, artifacts=artifacts, checkpoint_bytes=sizes)


def search_tags(plan: SearchPlan) -> dict[str, Any]:
    """Return the tags of the sweep's own run: those that its trials share, without the settings that it varies."""
    if plan.artifacts is None:
        return {}
    varied = {"settings_key", *(SYMBOLS[key] for key in plan.space if key in SYMBOLS)}
    return {name: value for name, value in run_tags(plan.base, plan.artifacts).items() if name not in varied}


def _possible(samples: Sequence[Mapping[str, Any]], base: Experiment) -> list[Mapping[str, Any]]:
    """Return the samples whose settings go together.

    Raises:
        UserError: none is possible; says why of the first.
    """
    possible, errors = [], []
    for overrides in samples:
        try:
            with_overrides(base, overrides)
            possible.append(overrides)
        except UserError as error:
            errors.append(error)
    if not possible:
        raise errors[0]
    return possible


def run_search(plan: SearchPlan, sweep: Sweep, tracker: Tracker) -> list[TrialRecord]:
    """Run the trials that have not ended yet, and return the records of all.

    A trial that fails does not end the others. The same call resumes an interrupted sweep: it leaves ended trials as
    they are, continues unfinished ones from their last checkpoint, and tries failed ones again.
    """
    search = plan.config.search
    scheduler = trial_scheduler(plan.config)
    param_space: dict[str, Any]
    if plan.trials is None:
        param_space = {key: _tune_domain(domain) for key, domain in plan.space.items()}
    else:
        trials = plan.trials
        if scheduler is None:  # ASHA must hear again what ended trials reached, so they repeat their reports
            ended = [record.overrides for record in sweep.records() if record.is_final]
            trials = [overrides for overrides in trials if overrides not in ended]
        if not trials:
            return sweep.records()
        param_space = {"overrides": tune.grid_search([json.dumps(overrides) for overrides in trials])}
    configure_tune()
    table = SweepTable(plan.base, None if plan.trials is None else len(plan.trials))
    try:
        with cluster():
            _check_driver_resource(search)
            _tuner(plan, sweep, tracker, param_space, scheduler, table).fit()
    finally:
        table.end()
        end_unfinished(sweep, tracker)
    return sweep.records()


def _tuner(
    plan: SearchPlan,
    sweep: Sweep,
    tracker: Tracker,
    param_space: dict[str, Any],
    scheduler: ASHAScheduler | None,
    table: SweepTable,
) -> tune.Tuner:
    search, samples = plan.config.search, plan.trials is None
    verdicts = Verdicts() if scheduler is not None else None
    trainable = tune.with_parameters(
        _run_trial,
        base=plan.base.model_dump_json(),
        artifacts=plan.artifacts,
        sizes=plan.checkpoint_bytes,
        sweep=str(sweep.path),
        tracker=tracker,
        verdicts=verdicts,
    )
    return tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([_own_resources(search)])),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=_optuna(search) if samples else None,
            scheduler=scheduler,
            num_samples=search.num_samples if samples else 1,
            max_concurrent_trials=search.max_concurrent_trials,
            # The next trial has its imports done. A trial that ASHA stops may still run when the next one starts.
            reuse_actors=scheduler is None,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(sweep.path),
            failure_config=tune.FailureConfig(max_failures=search.max_retries),
            verbose=0,
            callbacks=[
                _RecordKeeper(sweep, tracker, table, None if verdicts is None else verdicts.let_go_on),
                tune.logger.JsonLoggerCallback(),
            ],
        ),
    )


def _run_trial(
    params: Mapping[str, Any],
    base: str,
    artifacts: Artifacts | None,
    sizes: Mapping[str, int],
    sweep: str,
    tracker: Tracker,
    verdicts: Verdicts | None,
) -> dict[str, float]:
    """Run one trial in a process of its own. Tune hears of each epoch and, at the end, of the best one.

    A scheduler also hears what earlier sessions reached, because its past is not kept. It may stop the trial at that.
    """
    trial = Sweep(Path(sweep)).trial(_overrides(params))
    with trial.exclusive():
        record, reports = trial.record(), epoch_reports(trial)
        ended = read_outcome(trial.path) is not None or (record is not None and record.is_final)
        if ended or verdicts is not None:
            for report in reports:
                tune.report(report)  # a stop ends this thread here
        if ended:
            return {EPOCH: reports[-1][EPOCH], METRIC: best_report(reports)[METRIC]}

        def epoch_done(metrics: Mapping[str, float], epoch: int) -> None:
            tune.report({**metrics, EPOCH: epoch})

        experiment = Experiment.model_validate_json(base)
        wait = verdicts.waits_of(tune.get_context().get_trial_id()) if verdicts is not None else None
        callbacks = [_ReportToTune(wait)] if experiment.training.num_workers else []
        if artifacts is not None:
            artifacts = replace(artifacts, checkpoint_bytes=_checkpoint_bytes(trial, experiment, artifacts, sizes))
        outcome = train_trial(trial, experiment, artifacts, tracker, callbacks, epoch_done)
    return {EPOCH: outcome.epochs, METRIC: outcome.val[SELECTION_METRIC]}


class _ReportToTune(TuneReportCallback):
    """Passes the workers' reports to Tune, and makes the workers wait for the verdict where there is a scheduler."""

    def __init__(self, wait: Callable[[int], None] | None) -> None:
        super().__init__()
        self.wait = wait


def _checkpoint_bytes(trial: Trial, base: Experiment, artifacts: Artifacts, sizes: Mapping[str, int]) -> int:
    """Size of a checkpoint of this trial: known of planned ones, counted now of one that a sampler has drawn."""
    known = sizes.get(json.dumps(trial.overrides))
    if known is not None:
        return known
    from laser.training.model import checkpoint_bytes

    return checkpoint_bytes(with_overrides(base, trial.overrides), artifacts)


class _RecordKeeper(tune.Callback):
    """Writes each trial's record as soon as the trial ends, shows each step on the way, and passes verdicts on."""

    def __init__(
        self, sweep: Sweep, tracker: Tracker, table: SweepTable, let_go_on: Callable[[str, int], None] | None
    ) -> None:
        self.sweep, self.tracker, self.table, self.let_go_on = sweep, tracker, table, let_go_on

    def setup(self, **info: Any) -> None:
        self.table.begin()

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        ours = self._ours(trial)
        ours.note("started")
        self.table.started(ours)

    def on_trial_result(
        self, iteration: int, trials: Sequence[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        self.table.epoch(self._ours(trial), result)
        if self.let_go_on is not None and not result["done"]:  # Tune has asked the scheduler before
            self.let_go_on(trial.trial_id, int(result[EPOCH]))

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        ours = self._ours(trial)
        state: TrialState = "finished" if read_outcome(ours.path) else "stopped"
        self.table.ended(ours, state)
        end_trial(ours, state, self.tracker)

    def on_trial_recover(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        error = _error_text(trial) if trial.error_file else "its process died"
        logger.warning("trial %s is tried again after: %s", self._ours(trial).name, error.splitlines()[-1])

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        self.table.ended(self._ours(trial), "failed")
        end_trial(self._ours(trial), "failed", self.tracker, _error_text(trial))

    def _ours(self, trial: Any) -> Trial:
        return self.sweep.trial(_overrides(trial.config))


def _error_text(trial: Any) -> str:
    """Return the whole error of a trial; Ray's `get_error()` looks where it is not yet."""
    return COLOURS.sub("", Path(trial.error_file).read_text(encoding="utf-8", errors="replace")).strip()


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


def _own_resources(search: SearchConfig) -> dict[str, float]:
    """Return what a trial's own process reserves: almost nothing, because Ray refuses an empty bundle."""
    return {search.driver_resource: 0.001} if search.driver_resource else {"memory": 1}


def _check_driver_resource(search: SearchConfig) -> None:
    """Refuse a search that would wait forever for a resource that no node offers."""
    name, offered = search.driver_resource, ray.cluster_resources()
    if name and name not in offered:
        custom = sorted(key for key in offered if ":" not in key and key not in ("CPU", "GPU", "memory"))
        raise UserError(
            f"search.driver_resource: no node offers {name!r} (there are: {', '.join(custom) or 'none'}); "
            "leave it out, or start the head with --resources"
        )


def _optuna(search: SearchConfig) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(metric=METRIC, mode="max", seed=search.seed)


def trial_scheduler(config: TuneExperiment) -> ASHAScheduler | None:
    """Return asynchronous successive halving over epochs (arXiv 1810.05934), if the search asks for it.

    The last epoch is no rung: a trial that came so far may finish, because its test comes after.
    """
    last_rung = config.num_epochs - 1
    if config.search.scheduler == "none" or last_rung < config.search.grace_epochs:
        return None
    return ASHAScheduler(
        time_attr=EPOCH,
        max_t=last_rung,
        grace_period=config.search.grace_epochs,
        reduction_factor=config.search.reduction_factor,
        stop_last_trials=False,
    )
