"""Tests the inputs of a run: examples of chosen users, and prompts of users and items."""

import numpy as np

from laser.config.compose import with_overrides
from laser.llm.loading import load_tokenizer
from laser.training.prepare import prepare_inputs


def test_shares_of_users_are_nested_and_prefixes_are_of_the_same_users(movielens):
    every, last = movielens.examples("train", every_prefix=True), movielens.examples("train")
    users = [set(last.share_of_users(share, seed=1).users.tolist()) for share in (0.05, 0.3, 1.0)]
    assert users[0] < users[1] < users[2]
    assert [len(chosen) for chosen in users] == [47, 283, 943]
    assert set(every.share_of_users(0.05, seed=1).users.tolist()) == users[0]
    assert len(last.share_of_users(1e-9, seed=1)) == 1
    sampled = last.sample_users(20, seed=1)
    assert sampled.users.tolist() == last.sample(20, seed=1).users.tolist()
    assert set(every.sample_users(20, seed=1).users.tolist()) == set(sampled.users.tolist())


def test_the_longest_prefixes_of_each_user(movielens):
    every = movielens.examples("train", every_prefix=True)
    two = movielens.examples("train", every_prefix=True, prefixes_per_user=2)
    for user in (0, 7, 942):
        histories = [every.history(index).tolist() for index in np.flatnonzero(every.users == user)]
        kept = np.flatnonzero(two.users == user)
        assert [two.history(index).tolist() for index in kept] == histories[-2:]
        assert two.targets[kept].tolist() == every.targets[every.users == user][-2:].tolist()
    most = movielens.examples("train", every_prefix=True, prefixes_per_user=10_000)
    assert most.digest() == every.digest()


def test_items_may_have_an_instruction_of_their_own(experiment):
    own = prepare_inputs(with_overrides(experiment, {"prompt.item_instruction": "An item"}))
    same = prepare_inputs(experiment)
    history, item = own.val.examples.history(0), own.items.examples.history(0)
    assert own.val.prompts.tokens(history).tolist() == same.val.prompts.tokens(history).tolist()
    tokenizer = load_tokenizer(own.artifacts.llm_directory)
    theirs, ours = (tokenizer.decode(part.items.prompts.tokens(item)) for part in (same, own))
    assert ours == theirs.replace("Sum up", "An item")
    assert own.items.lengths[0] == len(own.items.prompts.tokens(item))
