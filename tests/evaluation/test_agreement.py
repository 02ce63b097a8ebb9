"""Our metrics beside those of other libraries, on random rankings with ties. Where a convention differs, it is named.

docs/decisions/evaluation.md lists the conventions. pytrec-eval-terrier and ir-measures come with the test extra;
LensKit asks for another pandas, so its test runs where somebody has installed it.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from laser.evaluation.metrics import rank_metric
from laser.evaluation.ranking import ranks
from laser.families.ease import EASE

NUM_USERS, NUM_ITEMS = 60, 50
METRICS = {
    "ndcg_cut_10": "ndcg@10",
    "ndcg_cut_20": "ndcg@20",
    "recall_10": "recall@10",
    "success_10": "hit@10",
    "recip_rank": "mrr",
}
"""trec_eval's name → ours."""


def rankings(levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of so many levels, and targets. Few levels make many ties."""
    random = np.random.default_rng(levels)
    scores_BI = random.integers(0, levels, (NUM_USERS, NUM_ITEMS)).astype(np.float32)
    return scores_BI, random.integers(0, NUM_ITEMS, NUM_USERS)


def our_ranks(scores_BI: np.ndarray, targets_B: np.ndarray) -> np.ndarray:
    return ranks(torch.from_numpy(scores_BI), torch.from_numpy(targets_B)).numpy()


def trec(scores_BI: np.ndarray, targets_B: np.ndarray, target_name: str) -> tuple[dict, dict]:
    """Judgements and runs; the target is called `target_name`, and the other items `item…`."""
    runs, judgements = {}, {}
    for user, (scores_I, target) in enumerate(zip(scores_BI, targets_B, strict=True)):
        names = [f"item{item:03}" if item != target else target_name for item in range(NUM_ITEMS)]
        runs[str(user)] = dict(zip(names, map(float, scores_I), strict=True))
        judgements[str(user)] = {target_name: 1}
    return judgements, runs


@pytest.mark.parametrize("levels", [10**7, 12, 2, 1])
def test_trec_eval_agrees_where_ties_go_against_the_target(levels):
    """trec_eval breaks ties by the item's name, the later first; a name before all others is the last of its ties."""
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is not installed")
    scores_BI, targets_B = rankings(levels)
    judgements, runs = trec(scores_BI, targets_B, "a")
    evaluator = pytrec_eval.RelevanceEvaluator(judgements, {"ndcg_cut.10,20", "recall.10", "success.10", "recip_rank"})
    theirs = evaluator.evaluate(runs)
    ours = our_ranks(scores_BI, targets_B)
    for their_name, our_name in METRICS.items():
        values = [theirs[str(user)][their_name] for user in range(NUM_USERS)]
        np.testing.assert_allclose(rank_metric(our_name)(ours), values, rtol=0, atol=1e-12)


def test_trec_eval_flatters_a_constant_scorer_whose_target_has_a_late_name():
    """The convention that differs: by the name alone the target is first of all; ours is the last."""
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is not installed")
    scores_BI, targets_B = rankings(1)
    judgements, runs = trec(scores_BI, targets_B, "z")
    theirs = pytrec_eval.RelevanceEvaluator(judgements, {"recip_rank"}).evaluate(runs)
    assert {row["recip_rank"] for row in theirs.values()} == {1.0}
    assert set(our_ranks(scores_BI, targets_B)) == {NUM_ITEMS}


def test_ir_measures_agrees_and_breaks_ties_in_two_ways():
    """Its RR@k, of another provider than the others, puts the earlier name first: there the last of its ties is z."""
    ir_measures = pytest.importorskip("ir_measures", reason="ir-measures is not installed")
    from ir_measures import RR, R, Success, nDCG

    scores_BI, targets_B = rankings(9)
    ours = our_ranks(scores_BI, targets_B)
    names = {
        nDCG @ 10: ("ndcg@10", "a"),
        R @ 5: ("recall@5", "a"),
        Success @ 1: ("hit@1", "a"),
        RR @ 10: ("mrr@10", "z"),
    }
    for measure, (name, target_name) in names.items():
        found = ir_measures.calc_aggregate([measure], *trec(scores_BI, targets_B, target_name))
        assert rank_metric(name)(ours).mean() == pytest.approx(found[measure], abs=1e-12)


def lenskit_discount(rank: np.ndarray) -> np.ndarray:
    """LensKit's gain of a rank: 1 at ranks 1 and 2, then 1 / log2(rank); ours is 1 / log2(rank + 1)."""
    return 1 / np.maximum(1, np.log2(rank))


def test_lenskit_agrees_but_for_the_discount():
    """It takes ties in the order of its list, so the list is given in ours: a target behind all of its ties."""
    pytest.importorskip("lenskit", reason="LensKit is not installed; it asks for pandas 2, and the project has 3")
    from lenskit.data import ItemList
    from lenskit.metrics import NDCG, Hit, Recall, RecipRank, call_metric

    scores_BI, targets_B = rankings(7)
    ours = our_ranks(scores_BI, targets_B)
    for user, (scores_I, target) in enumerate(zip(scores_BI, targets_B, strict=True)):
        order = np.lexsort((np.arange(NUM_ITEMS) == target, -scores_I))
        listed, wanted = ItemList(order.tolist(), ordered=True), ItemList([int(target)])
        rank = ours[user : user + 1]
        for metric, name in ((Hit, "hit@10"), (Recall, "recall@10")):
            assert call_metric(metric, listed, wanted, n=10) == rank_metric(name)(rank)[0]
        assert call_metric(RecipRank, listed, wanted) == pytest.approx(rank_metric("mrr")(rank)[0], abs=1e-12)
        within = rank[0] <= 10
        theirs = call_metric(NDCG, listed, wanted, n=10)
        assert theirs == pytest.approx(lenskit_discount(rank)[0] * within, abs=1e-6)
        assert theirs >= rank_metric("ndcg@10")(rank)[0] - 1e-6


def test_lenskits_golden_table():
    """Its reciprocal ranks are ours. Its nDCG is ours in form: gains by rank over ideal ones, by its discount."""
    with (Path(__file__).parent / "lenskit" / "topn-java.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 91
    for row in rows:
        if not row["hits"]:
            assert float(row["ndcg"]) == float(row["recip_rank"]) == rank_metric("mrr@100")(np.array([101]))[0] == 0
            continue
        hits = np.array([[int(number) for number in hit.split(":")] for hit in row["hits"].split()])
        ratings = np.array([int(rating) for rating in row["ratings"].split()])
        first = hits[:, 0].min(keepdims=True)
        assert rank_metric("mrr@100")(first)[0] == pytest.approx(float(row["recip_rank"]), abs=1e-12)
        ideal = (np.sort(ratings)[::-1] * lenskit_discount(np.arange(1, 6))).sum()
        gained = (hits[:, 1] * lenskit_discount(hits[:, 0])).sum() / ideal
        assert gained == pytest.approx(float(row["ndcg"]), abs=1e-9)


PLACES = np.array([1, 2, 3, 5])
RECBOLE = {
    "hit": [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]],
    "recall": [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]],
    "mrr": [[1, 1, 1], [0, 1 / 2, 1 / 2], [0, 0, 1 / 3], [0, 0, 0]],
    "ndcg": [[1, 1, 1], [0, 1 / np.log2(3), 1 / np.log2(3)], [0, 0, 1 / 2], [0, 0, 0]],
}
"""Hits at places 1, 2, 3 and beyond the list, at cutoffs 1 to 3: the form of RecBole's own tests of its metrics."""


@pytest.mark.parametrize("kind", RECBOLE)
def test_matrices_in_the_form_of_recboles_tests(kind):
    ours = np.stack([rank_metric(f"{kind}@{cutoff}")(PLACES) for cutoff in (1, 2, 3)], axis=1)
    np.testing.assert_allclose(ours, RECBOLE[kind], rtol=0, atol=1e-15)


def test_rectools_divides_by_the_ideal_of_the_cutoff():
    """RecTools' NDCG takes k wanted items for ideal unless told otherwise, so with one wanted item it is smaller."""
    ideal = (1 / np.log2(np.arange(2, 12))).sum()
    ours = rank_metric("ndcg@10")(np.array([1, 4]))
    theirs = 1 / np.log2(np.array([1, 4]) + 1) / ideal  # its definition, `divide_by_achievable=False`
    np.testing.assert_allclose(theirs * ideal, ours, rtol=1e-12)
    assert ideal == pytest.approx(4.543559338088346)


RECTOOLS_HISTORIES = [[11, 12, 14], [11, 12, 13], [11, 12, 14, 15], [11, 15, 17]]
RECTOOLS_EASE = {
    0: {11: 0.00986199, 12: 0.00988546, 13: 0.0039526, 15: 0.00788948, 17: 0.00196058},
    1: {11: 0.00789747, 12: 0.00791307, 14: 0.00789337, 15: 0.00590922, 17: 0.00196845},
}
"""Items of four users, and scores of the first two, by which RecTools (Apache-2.0) checks its EASE, λ = 500."""


def test_rectools_golden_scores_of_ease_are_those_of_the_transposed_weights():
    """Steck's scores are X B, with B's columns divided by the diagonal; RecTools' are X Bᵀ. Ours are Steck's."""
    items = sorted({item for history in RECTOOLS_HISTORIES for item in history})
    sequences = [np.array([items.index(item) for item in history]) for history in RECTOOLS_HISTORIES]
    ease = EASE(len(items), hidden_size=4, max_history=10, history_decay=1.0, l2=500.0)
    ease.fit(sequences)
    for user, wanted in RECTOOLS_EASE.items():
        history_1N = torch.from_numpy(sequences[user])[None]
        ours_I = ease.scores(history_1N, torch.ones_like(history_1N, dtype=torch.bool))[0]
        theirs_I = ease.weights_II[:, sequences[user]].sum(dim=1)
        assert torch.equal(ours_I, ease.weights_II[sequences[user]].sum(dim=0))
        found = {item: theirs_I[items.index(item)].item() for item in wanted}
        assert found == pytest.approx(wanted, abs=1e-8)
