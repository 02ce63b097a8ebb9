"""Tests that a run trains on the users that `selection` keeps, and validates and tests on all users."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from laser.config.compose import validate, with_overrides
from laser.config.families.selection import AllUsers
from laser.config.schema import Experiment
from laser.data.selected import select_examples
from laser.errors import UserError
from laser.pages.run_figures import run_figures
from laser.scoring.description import describe_selection
from laser.scoring.scored import chosen_in, read_facts, read_selection
from laser.training.model import whole_laser
from laser.training.prepare import make_artifacts, prepare_inputs
from laser.training.run.outcome import run_results
from laser.training.train import train_laser
from tiny.laser import CPU


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


SCORED = {
    "selection.num_users": 12,
    "selection.effort": "head",
    "selection.surrogate.hidden_size": 8,
    "selection.surrogate.max_epochs": 1,
    "training.train_users": 40,
    "training.validation_users": 20,
    "training.test": False,
    "training.num_workers": 0,
}


@pytest.fixture(scope="module")
def scored(experiment: Experiment) -> Experiment:
    return with_overrides(experiment, {"selection.type": "dealrec", **SCORED})


def test_the_users_that_scores_choose_are_trained_on_in_prefixes_too(scored: Experiment):
    inputs = prepare_inputs(scored)
    table = read_selection(inputs.artifacts.users)
    assert table.column_names == ["user", "influence", "effort", "score", "group", "chosen"]
    left = np.unique(prepare_inputs(with_overrides(scored, {"selection": {"type": "all"}})).train.examples.users)
    np.testing.assert_array_equal(table.column("user"), left)
    chosen = chosen_in(inputs.artifacts.users)
    assert len(chosen) == 12
    for part in (inputs.train, inputs.prefixes):
        np.testing.assert_array_equal(np.unique(part.examples.users), chosen)
    assert min(table.column("effort").to_pylist()) > 0
    # The other draws share the scores, and so does another share of the users.
    greedy = prepare_inputs(with_overrides(scored, {"selection.type": "dealrec_greedy", **SCORED}))
    best = np.argsort(table.column("score").to_numpy())[-12:]
    np.testing.assert_array_equal(chosen_in(greedy.artifacts.users), np.sort(left[best]))
    matched = prepare_inputs(with_overrides(scored, {"selection.type": "matched", **SCORED}))
    lengths = inputs.dataset.num_train_items
    of_matched = chosen_in(matched.artifacts.users)
    np.testing.assert_array_equal(np.sort(lengths[of_matched]), np.sort(lengths[chosen]))


def test_the_effort_of_adapters_is_that_of_each_user_by_itself(scored: Experiment):
    lora = {"finetuning": {"type": "lora", "rank": 2}, "selection.effort": "adapters", "warm_start.epochs": 0}
    config = with_overrides(scored, {**lora, "training.train_users": 8, "selection.num_users": 3})
    table = read_selection(make_artifacts(config).users)
    everyone = with_overrides(config, {"selection": {"type": "all"}})
    inputs = prepare_inputs(everyone)
    laser = whole_laser(everyone, inputs.artifacts, CPU).eval()
    weights = [weight for name, weight in laser.trainable_parameters().items() if name.startswith("llm.")]
    with torch.no_grad():
        items_ID = laser(inputs.items.batch(np.arange(len(inputs.items)), [1.0] * len(inputs.items), CPU)).vector_BD
    expected = {}
    for row, user in enumerate(inputs.train.examples.users):
        batch = inputs.train.batch([row], [1.0], CPU)
        vector_BD = laser(batch).vector_BD
        loss = F.cross_entropy(vector_BD @ items_ID.T / everyone.training.temperature, batch.targets_B)
        squares = [gradient.square().sum() for gradient in torch.autograd.grad(loss, weights)]
        expected[user] = float(torch.stack(squares).sum().sqrt())
    assert len(set(expected.values())) == 8 and min(expected.values()) > 0
    found = dict(zip(table.column("user").to_pylist(), table.column("effort").to_pylist(), strict=True))
    assert found == pytest.approx(expected, rel=1e-4)  # measured: 6e-6


def test_without_a_weight_no_effort_is_computed(scored: Experiment):
    users = make_artifacts(with_overrides(scored, {"selection.effort_weight": 0.0})).users
    table = read_selection(users)
    assert table.column("effort").null_count == len(table)
    assert read_facts(users)["effort_seconds"] == 0


def test_scores_that_overflow_are_refused(scored: Experiment):
    with pytest.raises(UserError, match=r"selection\.type: the effort of 40 of 40 users is not finite"):
        prepare_inputs(with_overrides(scored, {"training.temperature": 1e-30}))


def test_a_run_keeps_its_users_and_what_choosing_them_took(scored: Experiment, tmp_path):
    config = with_overrides(scored, {"training.stage1_epochs": 0, "training.stage2_epochs": 0})
    artifacts = make_artifacts(config)
    train_laser(config, artifacts, tmp_path, lambda metrics, epoch: None)
    results = run_results(tmp_path)
    for name in ("surrogate", "influence", "effort"):
        assert results.figures[f"selection/{name}_seconds"] > 0
    drawn = run_figures(results.history, selection=results.artifacts["selection"])["selection"]
    assert "score of a training user" in drawn and "chosen" in drawn
    kept = results.artifacts["selection"] / "users.parquet"
    np.testing.assert_array_equal(chosen_in(kept), chosen_in(artifacts.users))


def test_a_description_says_who_was_chosen(scored: Experiment):
    inputs = prepare_inputs(scored)
    everyone = select_examples(inputs.dataset, scored.model_copy(update={"selection": AllUsers()}))["train"]
    found = describe_selection(inputs.dataset, inputs.train.examples, everyone, inputs.artifacts.users)
    assert found["num_users"] == {"chosen": 12, "all": 40}
    assert found["groups"]["pruned"] == 4
    assert set(found["spearman"]) >= {"influence, effort", "effort, length"}
