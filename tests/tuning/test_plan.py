"""Which trials a search consists of."""

import random

import pytest

from laser.config.schema import Experiment, SearchConfig
from laser.tuning.plan import draw, planned_trials
from laser.tuning.space import parse_space

K_AND_L = {
    "mformer.num_experts": {"choice": [2, 4]},
    "mformer.num_virtual_tokens": {"choice": [4, 8, 16]},
}


def planned(space: dict, **search) -> list[dict] | None:
    return planned_trials(parse_space(space, Experiment), SearchConfig(**search))


def test_grid_is_every_combination_once():
    trials = planned(K_AND_L, algorithm="grid")
    assert len(trials) == 6
    assert {(t["mformer.num_experts"], t["mformer.num_virtual_tokens"]) for t in trials} == {
        (k, length) for k in (2, 4) for length in (4, 8, 16)
    }


def test_random_trials_differ_and_more_of_them_begin_alike():
    few = planned(K_AND_L, algorithm="random", num_samples=3, seed=5)
    more = planned(K_AND_L, algorithm="random", num_samples=5, seed=5)
    assert more[:3] == few
    assert len({str(trial) for trial in more}) == 5


def test_a_small_space_gives_what_it_holds(caplog):
    assert len(planned(K_AND_L, algorithm="random", num_samples=20)) == 6
    assert "6 different trials of 20" in caplog.text


def test_a_sampler_plans_nothing_ahead():
    assert planned(K_AND_L, algorithm="optuna") is None


@pytest.mark.parametrize(
    ("definition", "within"),
    [
        ({"uniform": [0.1, 0.2]}, lambda value: 0.1 <= value <= 0.2),
        ({"loguniform": [1e-4, 1e-2]}, lambda value: 1e-4 <= value <= 1e-2),
    ],
)
def test_draws_stay_in_range(definition, within):
    domain = parse_space({"training.learning_rate": definition}, Experiment)["training.learning_rate"]
    generator = random.Random(0)
    assert all(within(draw(domain, generator)) for _ in range(200))


def test_log_uniform_draws_are_even_over_decades():
    domain = parse_space({"training.learning_rate": {"loguniform": [1e-4, 1e-2]}}, Experiment)["training.learning_rate"]
    generator = random.Random(0)
    low = sum(draw(domain, generator) < 1e-3 for _ in range(2000)) / 2000
    assert abs(low - 0.5) < 0.05  # standard error .011


def test_integers_exclude_the_upper_end():
    domain = parse_space({"mformer.num_experts": {"randint": [1, 4]}}, Experiment)["mformer.num_experts"]
    generator = random.Random(0)
    assert {draw(domain, generator) for _ in range(100)} == {1, 2, 3}
