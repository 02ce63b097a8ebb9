"""Own sequences in parts: each is there once, and the parts together find what the whole finds."""

import numpy as np
import pytest
import torch

from laser.recommenders import own_items
from laser.recommenders.own_items import OwnItems, own_parts

NUM_ITEMS = 9
SEQUENCES = [np.array(items, dtype=np.int32) for items in ([3, 1, 3], [0], [8, 7, 6, 5, 4, 3], [1, 3])]


def test_entries_are_the_distinct_items_of_each_sequence():
    own = OwnItems(SEQUENCES, NUM_ITEMS)
    assert len(own) == 11 and own.starts.tolist() == [0, 2, 3, 9, 11]
    assert own.items_E.tolist() == [1, 3, 0, 3, 4, 5, 6, 7, 8, 1, 3] and own.counts_E[:3].tolist() == [1, 2, 1]
    entries, known = own.find(np.array([0, 2]), np.array([[3, 8], [8, 1]]))
    assert known.tolist() == [[True, False], [True, False]] and entries[known].tolist() == [1, 8]


@pytest.mark.parametrize("num_pairs", [1, 4, 100])
def test_pairs_are_those_of_one_sequence_each_once(num_pairs):
    own, found = OwnItems(SEQUENCES, NUM_ITEMS), []
    for part, offsets, others in own.pairs(num_pairs):
        firsts = np.repeat(np.arange(part.start, part.stop), np.diff(offsets))
        found += zip(firsts.tolist(), others.tolist(), strict=True)
        first, end = own.bounds(part)
        assert own.pair_numbers(firsts, others).tolist() == own.pair_numbers(others, firsts).tolist()
        assert own.pair_numbers(firsts, others).tolist() == list(range(first, end))
    assert found == [(a, b) for a in range(11) for b in range(a, 11) if own.owners_E[a] == own.owners_E[b]]


@pytest.mark.parametrize("max_pairs", [1, 10, 1000])
def test_parts_hold_each_place_of_the_histories_that_is_an_own_item(max_pairs, monkeypatch):
    monkeypatch.setattr(own_items, "MAX_PAIRS", max_pairs)
    random = np.random.default_rng(0)
    users = random.integers(0, len(SEQUENCES), 30)
    histories = torch.from_numpy(random.integers(0, NUM_ITEMS, (30, 4)))
    found = torch.full_like(histories, -1)
    num_entries = 0
    for own, cells, entries in own_parts([SEQUENCES[user] for user in users], histories, NUM_ITEMS):
        found[cells] = torch.from_numpy(own.items_E)[entries]
        num_entries += len(own)
        assert torch.from_numpy(own.counts_E)[entries].max() <= 2
    expected = [
        [item if item in SEQUENCES[user] else -1 for item in row]
        for user, row in zip(users, histories.tolist(), strict=True)
    ]
    assert found.tolist() == expected
    assert num_entries == 11, "a user's sequence comes once, however many histories the user has"
