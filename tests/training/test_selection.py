"""Tests that a run trains on the users that `selection` keeps, and validates and tests on all users."""

import numpy as np
import pytest

from laser.config.compose import validate, with_overrides
from laser.config.schema import Experiment
from laser.training.prepare import prepare_inputs


@pytest.fixture(scope="module")
def experiment(tiny_llm, cache) -> Experiment:
    return validate(
        Experiment,
        {
            "cache_dir": str(cache),
            "data": {"k_core": 60},
            "prompt": {"attributes": [], "max_history_items": 3, "max_item_tokens": 8},
            "llm": {"source": str(tiny_llm), "dtype": "fp32"},
            "recommender": {"type": "none"},
            "bituning": {"prefix": "free"},
            "head": {"width": 16},
            "warm_start": {"epochs": 1},
        },
    )


def test_a_selection_keeps_users_of_the_training_set_alone(experiment: Experiment):
    everything = prepare_inputs(experiment)
    lengths = everything.dataset.num_train_items
    selected = prepare_inputs(with_overrides(experiment, {"selection.type": "longest", "selection.num_users": 20}))
    users = np.unique(selected.train.examples.users)
    assert len(users) == 20 < len(everything.train)
    assert lengths[users].min() >= np.delete(lengths, users).max()
    np.testing.assert_array_equal(np.unique(selected.prefixes.examples.users), users)
    for name in ("val", "test", "items"):
        assert getattr(selected, name).examples.digest() == getattr(everything, name).examples.digest()


def test_a_selection_chooses_among_the_users_that_train_users_leaves(experiment: Experiment):
    fewer = with_overrides(experiment, {"training.train_users": 30})
    left = np.unique(prepare_inputs(fewer).train.examples.users)
    chosen = with_overrides(fewer, {"selection.type": "recent", "selection.num_users": 10})
    inputs = prepare_inputs(chosen)
    users = np.unique(inputs.train.examples.users)
    assert len(users) == 10
    times = inputs.dataset.last_train_times(left)
    assert set(users) <= set(left)
    assert times[np.isin(left, users)].min() >= times[~np.isin(left, users)].max()
