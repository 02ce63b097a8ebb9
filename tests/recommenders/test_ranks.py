"""Ranks of sparse scores are those of dense ones, the batch decides nothing, and long work shows its progress."""

import numpy as np
import pytest
import torch

from laser.config.families.recommenders import ItemKNNConfig, PopularityConfig
from laser.data.batches import pad_right
from laser.data.examples import Examples
from laser.evaluation import sparse_ranks
from laser.evaluation.ranking import ranks, ranks_without_histories
from laser.evaluation.top_items import top_scores
from laser.families.sasrec import SASRec
from laser.recommenders import ranks as module
from laser.recommenders.base import SequentialRecommender
from laser.recommenders.ranks import recommender_ranks
from laser.recommenders.registry import build_recommender

NUM_USERS, NUM_ITEMS = 50, 60


@pytest.fixture
def examples() -> Examples:
    random = np.random.default_rng(0)
    ends = np.cumsum(random.integers(2, 9, NUM_USERS)) - 1
    starts = np.concatenate([[0], ends[:-1] + 1])
    item_ids = random.integers(0, NUM_ITEMS - 5, ends[-1] + 1).astype(np.int32)  # five items are never seen
    return Examples(item_ids, np.arange(NUM_USERS, dtype=np.int32), starts, ends, item_ids[ends])


def recommender(config: ItemKNNConfig | PopularityConfig, examples: Examples) -> SequentialRecommender:
    model = build_recommender(config, NUM_ITEMS)
    model.fit([examples.history(user) for user in range(NUM_USERS)])
    return model.eval()


@pytest.mark.parametrize(
    "config",
    [
        ItemKNNConfig(hidden_size=4),
        ItemKNNConfig(hidden_size=4, degree_exponent=0.3, max_history=3),
        PopularityConfig(),
    ],
    ids=["plain", "damped", "popularity"],
)
@pytest.mark.parametrize("cells", [2**25, 7 * NUM_ITEMS])
def test_sparse_ranks_are_those_of_all_scores(config, cells, examples, monkeypatch):
    monkeypatch.setattr(sparse_ranks, "MAX_CELLS", cells)
    model = recommender(config, examples)
    found = recommender_ranks(model, examples, lists=True)
    short = examples.last(config.max_history)
    item_ids, mask = pad_right([short.history(user) for user in range(NUM_USERS)], 0)
    scores_BI = model.scores(torch.from_numpy(item_ids), torch.from_numpy(mask))
    targets_B = torch.from_numpy(examples.targets.astype(np.int64))
    expected_B = ranks(scores_BI, targets_B)
    assert found.ranks.tolist() == expected_B.tolist()
    histories = [examples.history(user) for user in range(NUM_USERS)]
    assert found.masked.tolist() == ranks_without_histories(expected_B, scores_BI, targets_B, histories).tolist()
    assert found.lists_EK.tolist() == top_scores(scores_BI, 10).tolist()


def test_no_batch_has_more_scores_than_fit(examples, monkeypatch):
    torch.manual_seed(0)
    model = SASRec(NUM_ITEMS, hidden_size=8, num_layers=1, num_heads=1, max_history=5, dropout=0.5)
    whole = recommender_ranks(model, examples)
    seen = []
    monkeypatch.setattr(module, "MAX_SCORES", 9 * NUM_ITEMS + 1)
    monkeypatch.setattr(module, "ranks", lambda scores, targets: seen.append(len(scores)) or ranks(scores, targets))
    assert recommender_ranks(model, examples).ranks.tolist() == whole.ranks.tolist()
    assert max(seen) == 9 and sum(seen) == NUM_USERS and model.training


def test_long_ranking_shows_its_progress(examples, monkeypatch, capsys):
    model = recommender(PopularityConfig(), examples)
    recommender_ranks(model, examples)
    assert not capsys.readouterr().err, "it was short"
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.0)
    recommender_ranks(model, examples)
    assert "rank 50 users by Popularity: 1/1 batch" in capsys.readouterr().err
