"""The model as an object: its lists are those of the evaluation; what becomes of odd histories."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from laser.errors import UserError
from laser.serving.answerer import Answerer
from laser.serving.queries import Options, Query
from serving.conftest import VARIANTS, Trained


@pytest.fixture(scope="session")
def answerer(trained: Callable[[str], Trained], cache: Path) -> Callable[[str], Answerer]:
    known: dict[str, Answerer] = {}

    def of(variant: str) -> Answerer:
        if variant not in known:
            known[variant] = Answerer.open(trained(variant).package, cache)
        return known[variant]

    return of


def histories_of(model: Trained, num: int) -> list[tuple[str, ...]]:
    raw_ids = model.inputs.dataset.items.column("raw_id").to_pylist()
    examples = model.inputs.test.examples
    return [tuple(raw_ids[item] for item in examples.whole_history(row)) for row in range(num)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_lists_are_those_of_the_evaluation(variant, trained, answerer):
    model = trained(variant)
    assert model.ranks.lists_EK is not None
    histories = histories_of(model, 40)
    answers = answerer(variant).recommend(histories, k=10, mask_history=False)
    lists = [[answerer(variant).catalogue.numbers[raw] for raw in answer.items] for answer in answers]
    same = np.mean(np.array(lists) == model.ranks.lists_EK[:40])
    assert same == 1.0  # measured: 1.0 of all variants; in other batches, sums differ in their last bits
    assert all(answer.scores == sorted(answer.scores, reverse=True) for answer in answers)
    titles = model.inputs.dataset.items.column("title").to_pylist()
    assert answers[0].titles == [titles[item] for item in lists[0]]


def test_a_masked_history_is_left_out_of_the_same_order(trained, answerer):
    histories = histories_of(trained("stack"), 10)
    whole = answerer("stack").recommend(histories, k=1000, mask_history=True)
    short = answerer("stack").recommend(histories, k=5, mask_history=True)
    for history, every, first in zip(histories, whole, short, strict=True):
        assert not {*history} & {*every.items}
        assert len(every.items) == len(answerer("stack").catalogue) - len({*history})
        assert (every.items[:5], every.scores[:5]) == (first.items, first.scores)


def test_allowed_and_excluded_items_keep_the_order_of_all(trained, answerer):
    [history] = histories_of(trained("before"), 1)
    [every] = answerer("before").recommend([history], k=1000, mask_history=False)
    allowed, excluded = every.items[1::3], every.items[1:20:6]
    [some] = answerer("before").recommend(
        [history], k=1000, mask_history=False, allowed=[*allowed, "nothing"], excluded=[*excluded, "nobody"]
    )
    assert some.items == [item for item in every.items if item in allowed and item not in excluded]
    with pytest.raises(UserError, match="allowed: no item of the catalogue"):
        answerer("before").recommend([history], allowed=["nothing"])


def test_unknown_items_are_dropped_and_named(trained, answerer):
    [history] = histories_of(trained("before"), 1)
    plain, odd = answerer("before").recommend([history, ("x", *history, "y", "x")])
    assert (odd.items, odd.scores, odd.unknown) == (plain.items, plain.scores, ["x", "y"])
    assert plain.unknown == []


@pytest.mark.parametrize("history", [(), ("x", "y")])
def test_where_nothing_is_known_the_most_popular_items_come(history, trained, answerer):
    dataset = trained("before").inputs.dataset
    counts = np.zeros(dataset.num_items, int)
    for user in range(dataset.num_users):
        np.add.at(counts, dataset.train_items(user), 1)
    [answer] = answerer("before").recommend([history], k=3)
    numbers = [answerer("before").catalogue.numbers[raw] for raw in answer.items]
    assert list(counts[numbers]) == sorted(counts, reverse=True)[:3]
    assert answer.is_popularity and answer.scores == [None] * 3
    excluded = answerer("before").recommend([history], k=2, excluded=answer.items[:1])[0]
    assert excluded.items == answer.items[1:3]


def test_of_a_long_history_the_last_items_are_read_and_all_are_masked(trained, answerer):
    [history] = [history for history in histories_of(trained("before"), 30) if len(set(history)) > 8][:1]
    long, last = answerer("before").recommend([history, history[-3:]], k=1000, mask_history=False)
    assert (long.items, long.scores) == (last.items, last.scores)
    assert (long.num_unread, last.num_unread) == (len(history) - 3, 0)
    [masked] = answerer("before").recommend([history], k=1000)
    assert not {*history} & {*masked.items}


def test_repeats_in_a_history_count_and_equal_histories_are_read_once(trained, answerer, monkeypatch):
    [history] = histories_of(trained("before"), 1)
    short = history[-2:]
    read = []
    vectors = answerer("before").reader.vectors
    monkeypatch.setattr(
        answerer("before").reader, "vectors", lambda histories: read.append(len(histories)) or vectors(histories)
    )
    answers = answerer("before").recommend([short, short, (*short, short[-1])], k=1000)
    assert read == [2]
    assert answers[0] == answers[1]
    assert answers[2].scores != answers[0].scores


def test_each_query_has_its_own_options(trained, answerer):
    histories = histories_of(trained("before"), 2)
    queries = [Query.of(histories[0], Options(k=3)), Query.of(histories[1], Options(k=5, mask_history=False))]
    both = answerer("before").answer(queries)
    alone = [answerer("before").answer([query])[0] for query in queries]
    assert [answer.items for answer in both] == [answer.items for answer in alone]
    assert [len(answer.items) for answer in both] == [3, 5]
