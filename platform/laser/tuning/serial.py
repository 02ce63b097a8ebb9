"""The trials of a sweep, run one after the other in this process, without Ray."""

import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from laser.config.schema import Experiment
from laser.errors import UserError
from laser.tracking.interface import Tracker
from laser.tuning.sweep import Sweep, TrialRecord
from laser.tuning.trial import end_trial, end_unfinished, train_trial

logger = logging.getLogger(__name__)


def run_trials_here(
    base: Experiment, trials: Sequence[Mapping[str, Any]], sweep: Sweep, tracker: Tracker
) -> list[TrialRecord]:
    """Run the trials that have not ended yet, and return the records of all that have.

    A trial that fails does not end the others; an interrupted one is resumed from its last checkpoint.

    Args:
        base: the experiment that trials vary.
        trials: what each trial varies: dotted key → value.
        sweep: where the trials are on disk.
        tracker: where the trials are recorded.

    Raises:
        UserError: the settings of a trial are wrong.
    """
    try:
        for number, overrides in enumerate(trials, 1):
            trial = sweep.trial(overrides)
            with trial.exclusive():
                record = trial.record()
                if record is not None and record.is_final:
                    continue
                logger.info("trial %d of %d: %s", number, len(trials), trial.name)
                try:
                    train_trial(trial, base, None, tracker)
                except UserError:
                    raise
                except Exception:
                    end_trial(trial, "failed", tracker, traceback.format_exc().strip())
                else:
                    end_trial(trial, "finished", tracker)
    finally:
        end_unfinished(sweep, tracker)
    return sweep.records()
