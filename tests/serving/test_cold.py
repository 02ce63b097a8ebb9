"""Items that are left out of the data leave no trace there, and are ranked as new ones."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from laser.config.compose import with_overrides
from laser.errors import UserError
from laser.evaluation.ranking import ranks
from laser.serving.answerer import Answerer
from laser.serving.cold import cold_metrics, leave_items_out, table_rows, without_items
from laser.serving.fresh import train_and_package
from laser.sources.prepare import prepare_dataset


@pytest.fixture(scope="module")
def cold_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cold")


def test_no_interaction_of_a_left_out_item_is_trained_on(serving_experiment, cache, cold_cache):
    dataset = prepare_dataset(serving_experiment.data, cache)
    data = leave_items_out(dataset, 0.1, 0, cold_cache)
    assert len(data.cold) == round(0.1 * dataset.num_items)
    assert {*pq.read_table(data.new_items).column("item").to_pylist()} == data.cold
    left = pq.read_table(data.folder / "interactions.parquet")
    assert not {*left.column("item").to_pylist()} & data.cold
    raw = dataset.items.column("raw_id").to_pylist()
    kept = [raw[item] for item in dataset.item_ids if raw[item] not in data.cold]
    assert left.column("item").to_pylist() == kept  # in order of users and time
    assert leave_items_out(dataset, 0.1, 0, cold_cache).cold == data.cold
    assert leave_items_out(dataset, 0.1, 1, cold_cache).cold != data.cold


def test_data_of_another_split_are_refused(serving_experiment, cache, cold_cache):
    data = leave_items_out(prepare_dataset(serving_experiment.data, cache), 0.1, 0, cold_cache)
    with pytest.raises(UserError, match=r"data\.split\.type: ratio; .* leave data\.split out, or train on"):
        without_items(with_overrides(serving_experiment, {"data.split": {"type": "ratio"}}), data)


def test_users_whose_next_item_is_new_are_ranked_over_all_items(serving_experiment, cache, cold_cache, tmp_path):
    dataset = prepare_dataset(serving_experiment.data, cache)
    data = leave_items_out(dataset, 0.2, 0, cold_cache)
    settings = {"output_dir": str(tmp_path), "training.stage2_epochs": 0, "training.test": False}
    config = with_overrides(without_items(serving_experiment, data), settings)
    _, package = train_and_package(config)
    assert not {*package.catalogue.items.column("raw_id").to_pylist()} & data.cold
    answerer = Answerer.open(package, cache, data.new_items)
    figures = cold_metrics(answerer, dataset, data, cache)
    raw, examples = dataset.items.column("raw_id").to_pylist(), dataset.examples("test")
    cold_rows = [row for row in range(len(examples)) if raw[examples.targets[row]] in data.cold]
    assert figures["cold_users"] == len(cold_rows)
    assert figures["known_users"] == len(examples) - len(cold_rows)
    # Nobody has chosen a new item, so popularity ranks each of them last.
    popular = figures["cold_targets"]["popularity"]
    assert popular["ndcg@10"] == 0 and popular["mrr"] == pytest.approx(1 / len(answerer.catalogue))
    assert [row[0] for row in table_rows(figures)] == ["laser", "text cosine", "popularity"]
    # The model's figures again, user by user, through its lists.
    number = answerer.catalogue.numbers
    found = []
    for row in cold_rows[:20]:
        history = [raw[item] for item in examples.whole_history(row)]
        [answer] = answerer.recommend([history], k=10_000, mask_history=False)
        found.append(1 + answer.items.index(raw[examples.targets[row]]))
    vectors, bias = answerer.reader.vectors(
        [np.array([number[raw[item]] for item in examples.whole_history(row)], np.int32) for row in cold_rows[:20]]
    )
    scores = vectors @ answerer.items_ID.T
    assert bias == 0
    targets = torch.tensor([number[raw[examples.targets[row]]] for row in cold_rows[:20]])
    assert np.mean(np.array(found) == ranks(scores, targets).numpy()) >= 0.9  # products differ in their last bits
