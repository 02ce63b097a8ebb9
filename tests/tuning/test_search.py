"""What Ray Tune is told."""

import pytest

from laser.config.compose import with_overrides
from laser.config.schema import TuneExperiment
from laser.tracking.interface import EPOCH
from laser.tuning.search import _scheduler, plan_search
from laser.tuning.trial import METRIC, best_report


def test_asha_counts_the_epochs_of_all_stages_and_of_the_warm_start():
    config = with_overrides(
        TuneExperiment(),
        {
            "search.scheduler": "asha",
            "head.width": 8,
            "warm_start.epochs": 30,  # they are one epoch together
            "training.stage0_epochs": 2,
            "training.stage1_epochs": 3,
            "training.stage2_epochs": 4,
        },
    )
    scheduler = _scheduler(config)
    assert config.num_epochs == 10
    assert scheduler is not None and scheduler._max_t == 9  # the last epoch is no rung


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
    assert plan_search(config).stages is None  # else they were made of data that is not there
