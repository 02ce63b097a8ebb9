"""What goes wrong in evaluations, and the finding that catches each."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from laser.config.schema import DataConfig
from laser.data.dataset import Dataset
from laser.data.evaluated import evaluated_examples, evidence
from laser.errors import UserError
from laser.evaluation.findings import FINDINGS, Evidence, findings
from laser.evaluation.ranking import ranks as ranks_of
from laser.evaluation.ranking import ranks_without_histories
from laser.evaluation.top_items import top_scores
from laser.evaluation.user_ranks import UserRanks
from laser.sources.prepare import prepare_dataset

NUM_ITEMS = 40


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """300 users who walk around a ring of items, often three items on; ids are drawn, and times are random."""
    folder = tmp_path_factory.mktemp("ring")
    random, rows = np.random.default_rng(0), []
    for user in range(300):
        item = random.integers(NUM_ITEMS)
        start = random.integers(1000)
        for place in range(6):
            rows.append(f"u{user},i{item},{start + place}\n")
            item = (item + (3 if random.random() < 0.3 else random.integers(1, 12))) % NUM_ITEMS
    (folder / "interactions.csv").write_text("user,item,timestamp\n" + "".join(rows))
    (folder / "items.csv").write_text("item,title\n" + "".join(f"i{item},Title\n" for item in range(NUM_ITEMS)))
    return prepare_dataset(DataConfig(path=str(folder)), folder.parent / "cache")


def evaluated(dataset: Dataset, scores_BI: np.ndarray) -> Evidence:
    """Rank the test users by these scores, by the code that evaluates."""
    examples = dataset.examples("test")
    scores, targets = torch.from_numpy(scores_BI), torch.from_numpy(examples.targets.astype(np.int64))
    shown = ranks_of(scores, targets)
    masked = ranks_without_histories(shown, scores, targets, [examples.history(row) for row in range(len(examples))])
    lists_EK = top_scores(scores, 10).numpy().astype(np.int32)
    ranks = UserRanks(examples.users, examples.targets, shown.numpy(), masked.numpy(), lists_EK, dataset.num_items)
    return evidence(dataset, examples, ranks)


def transitions(dataset: Dataset, shuffled: bool = False) -> np.ndarray:
    """Scores of a fair model: how often items followed one another in training; with labels shuffled, at random."""
    counts = np.zeros((dataset.num_items, dataset.num_items))
    sequences = [dataset.train_items(user) for user in range(dataset.num_users)]
    before = np.concatenate([sequence[:-1] for sequence in sequences])
    after = np.concatenate([sequence[1:] for sequence in sequences])
    np.add.at(counts, (before, np.random.default_rng(5).permutation(after) if shuffled else after), 1)
    noise = np.random.default_rng(1).random(counts.shape) / 10  # so that there are no ties
    examples = dataset.examples("test")
    return (counts + noise)[dataset.item_ids[examples.ends - 1]]


def names(evidence: Evidence) -> list[str]:
    return [text.partition(":")[0] for text in findings(evidence)]


def test_a_fair_model_has_no_finding_but_what_is_true_of_the_data(dataset):
    found = names(evaluated(dataset, transitions(dataset)))
    assert found in (["target in the history"], [])


def test_a_scorer_that_leaks_the_target(dataset):
    scores_BI = transitions(dataset)
    targets = dataset.examples("test").targets
    scores_BI[np.arange(len(targets)), targets] += 100
    assert "leaked target" in names(evaluated(dataset, scores_BI))


def test_a_constant_scorer(dataset):
    found = evaluated(dataset, np.ones((len(dataset.examples("test")), dataset.num_items)))
    assert (found.ranks.ranks == dataset.num_items).all()
    assert names(found)[0] == "constant scores" and "chance" not in names(found)


def test_shuffled_labels(dataset):
    assert "chance" in names(evaluated(dataset, transitions(dataset, shuffled=True)))


def test_the_next_integer_is_the_answer():
    """As in files that number items by first appearance; ours are numbered anew, so the ids are made here."""
    random = np.random.default_rng(0)
    last = random.integers(0, 1000, 500)
    targets = np.where(random.random(500) < 0.05, last + 1, random.integers(0, 1000, 500)).astype(np.int32)
    ranks = random.integers(1, 300, 500)
    users = np.arange(500, dtype=np.int32)
    found = findings(Evidence(UserRanks(users, targets, ranks, ranks), 1000, last))
    assert len(found) == 1 and found[0].startswith("next id: ") and "% of the targets" in found[0]


def test_raw_numbers_of_recformers_files_leak_and_ours_do_not(shared_data: Path, tmp_path: Path):
    dataset = prepare_dataset(DataConfig(path=str(shared_data / "Scientific_mini")), tmp_path)
    examples = dataset.examples("test")
    random = np.random.default_rng(0).integers(1, 800, len(examples))
    ours = evidence(dataset, examples, UserRanks(examples.users, examples.targets, random, random))
    assert "next id" not in names(ours)
    numbers = json.loads((shared_data / "Scientific_mini" / "smap.json").read_text())
    raw = np.array([int(numbers[raw]) for raw in dataset.items.column("raw_id").to_pylist()])
    theirs = UserRanks(examples.users, raw[examples.targets], random, random)
    [found] = findings(Evidence(theirs, dataset.num_items, raw[ours.last_items_E]))
    assert found.startswith("next id: ")


def test_a_target_in_the_own_history_is_counted():
    ranks = np.array([3, 5, 9])
    users = np.arange(3, dtype=np.int32)
    in_history = np.array([True, False, False])
    [found] = findings(Evidence(UserRanks(users, users, ranks, ranks), 50, in_history_E=in_history))
    assert found == "target in the history: 1 of 3; where the history is masked they rank last"


def test_ids_in_the_order_of_time():
    ranks, users = np.array([3, 5]), np.arange(2, dtype=np.int32)
    times = np.arange(200.0)
    [found] = findings(Evidence(UserRanks(users, users, ranks, ranks), 200, first_times_I=times))
    assert found == "ids in the order of time: rank correlation +1.00 with the time of first appearance"
    drawn = Evidence(
        UserRanks(users, users, ranks, ranks), 200, first_times_I=np.random.default_rng(0).permutation(times)
    )
    assert findings(drawn) == []


def test_a_finding_begins_with_its_name():
    """So that a page can be searched for it."""
    assert len(FINDINGS) == 6 and all(name == name.lower() for name in FINDINGS)


def test_ranks_of_other_users_are_refused(dataset):
    examples = dataset.examples("test")
    other = UserRanks(examples.users, examples.targets[::-1].copy(), np.ones(len(examples)), np.ones(len(examples)))
    with pytest.raises(UserError, match="ranks: of other users or targets than the test set of"):
        evaluated_examples(dataset, other)
