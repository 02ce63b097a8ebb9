"""What Ray Tune is told."""

from laser.config.compose import with_overrides
from laser.config.schema import TuneExperiment
from laser.tuning.search import _scheduler


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
