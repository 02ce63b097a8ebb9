"""What Ray Tune is told."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from laser.config.compose import with_overrides
from laser.config.schema import TuneExperiment
from laser.errors import UserError
from laser.tracking.interface import EPOCH
from laser.training.model import weightless_laser
from laser.tuning.search import plan_search, trial_scheduler
from laser.tuning.trial import METRIC, best_report


def rungs(config: TuneExperiment) -> list[int]:
    """The epochs after which a trial is stopped that is worse than another one."""
    found = set()
    for weak_from in range(1, config.num_epochs + 1):
        scheduler = trial_scheduler(config)
        if scheduler is None:
            return []
        scheduler.set_search_properties(METRIC, "max")
        assert stopped_at(scheduler, config, weak_from=None) is None
        found.add(stopped_at(scheduler, config, weak_from))
    return sorted(found - {None})


def stopped_at(scheduler: ASHAScheduler, config: TuneExperiment, weak_from: int | None) -> int | None:
    """Report the epochs of a trial until it is stopped; it is the best one until it becomes weak."""
    trial = SimpleNamespace(trial_id=str(weak_from))
    scheduler.on_trial_add(None, trial)
    for epoch in range(config.num_epochs + 1):  # 0 is the untrained model
        score = 0.5 if weak_from is None else 0.6 if epoch < weak_from else 0.1
        if scheduler.on_trial_result(None, trial, {EPOCH: epoch, METRIC: score}) == TrialScheduler.STOP:
            return epoch
    return None


@pytest.mark.parametrize(("grace", "expected"), [(1, [1, 2, 4, 8]), (5, [5]), (9, [9]), (10, [])])
def test_asha_counts_the_epochs_of_all_stages_and_of_the_warm_start(grace, expected):
    config = with_overrides(
        TuneExperiment(),
        {
            "search.scheduler": "asha",
            "search.grace_epochs": grace,
            "search.reduction_factor": 2,
            "head.width": 8,
            "warm_start.epochs": 30,  # they are one epoch together
            "training.stage0_epochs": 2,
            "training.stage1_epochs": 3,
            "training.stage2_epochs": 4,
        },
    )
    assert config.num_epochs == 10
    assert rungs(config) == expected  # the last epoch, 10, is none: whoever reaches it may finish


def test_the_untrained_model_is_no_candidate_unless_it_is_alone():
    untrained, first, second = ({EPOCH: float(epoch), METRIC: score} for epoch, score in enumerate((0.3, 0.1, 0.2)))
    assert best_report([untrained, first, second]) == second
    assert best_report([untrained]) == untrained
    assert best_report([]) == {}


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("data.k_core", [0, 2]),
        ("recommender.trained.seed", [0, 1]),
        ("llm.trust_remote_code", [False, True]),
        ("head.standardise", [False, True]),
        ("training.every_prefix", [False, True]),
        ("training.train_fraction", [0.5, 1.0]),
        ("training.train_users", [10, None]),
        ("training.validation_users", [10, None]),
        ("training.seed", [0, 1]),
    ],
)
def test_trials_share_no_artifacts_that_depend_on_what_they_vary(key, values):
    base = with_overrides(TuneExperiment(), {"recommender.type": "stack", "data.path": "nowhere"})
    config = base.model_copy(update={"space": {key: {"choice": values}}})
    assert plan_search(config).artifacts is None  # else they were made of data that is not there


def test_each_planned_trial_has_its_own_checkpoint_size(tiny_llm, cache):
    base = with_overrides(
        TuneExperiment(),
        {
            "llm": str(tiny_llm), "cache_dir": str(cache), "recommender": "popularity", "prompt.max_history_items": 3,
            "mformer.num_layers": 1, "mformer.num_heads": 4, "training.train_users": 9, "training.validation_users": 9,
        },
    )  # fmt: skip
    space = {"mformer.hidden_size": {"choice": [16, 64]}, "mformer.num_experts": {"choice": [2]}}
    plan = plan_search(base.model_copy(update={"space": space}))
    small, large = plan.checkpoint_bytes.values()
    assert plan.artifacts is not None and small < large
    of_llm = (plan.artifacts.llm_directory, plan.artifacts.recommender_width)
    laser = weightless_laser(with_overrides(plan.base, plan.trials[1]), *of_llm, torch.device("cpu"))
    weights = sum(weight.numel() for weight in laser.trainable_parameters().values())
    assert large == 4 * (3 * weights + plan.artifacts.num_items * 32)  # weights, two moments, item embeddings


@pytest.mark.parametrize("algorithm", ["grid", "random", "optuna"])
@pytest.mark.parametrize(
    ("changes", "key", "values", "message"),
    [
        (
            {"bituning.prefix": "free"},
            "mformer.num_experts",
            [2, 4],
            "changes nothing, because bituning.prefix is free",
        ),
        ({"recommender": "sasrec"}, "recommender.l2", [1.0, 2.0], "not a setting of the chosen recommender.type"),
        ({}, "selection.num_users", [3, 4], "not a setting of the chosen selection.type"),
    ],
)
def test_a_space_over_what_nothing_reads_is_refused_before_any_work(algorithm, changes, key, values, message):
    base = with_overrides(TuneExperiment(), {"data.path": "nowhere", "search.algorithm": algorithm, **changes})
    with pytest.raises(UserError, match=message):
        plan_search(base.model_copy(update={"space": {key: {"choice": values}}}))


def test_a_process_that_only_starts_a_training_imports_no_models():
    """A trial has two such processes: its own, and Ray Train's controller. Each took 3.4 s to import models."""
    code = (
        "import sys, laser.training.ray_train, laser.tuning.search\n"
        "sys.exit(', '.join({'transformers', 'sklearn', 'deepspeed', 'mlflow'} & sys.modules.keys()) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
