"""Item-kNN, EASE, popularity and the hybrid: arithmetic by hand, factors, and a user left out as if never fitted."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, random_array

from laser.config.families.recommenders import EASEConfig, HybridConfig, ItemKNNConfig, PopularityConfig
from laser.data.examples import Examples
from laser.errors import UserError
from laser.families import ease, item_knn
from laser.families.item_knn import ItemKNN
from laser.recommenders.base import FittedRecommender, last_state
from laser.recommenders.encodings import Encodings, make_encodings
from laser.recommenders.item_item import ItemItemRecommender
from laser.recommenders.own_items import OwnItems
from laser.recommenders.registry import build_recommender
from laser.recommenders.scipy_private import sparse_product
from laser.recommenders.text import ReadsText, whitened

NUM_ITEMS, TEXT_WIDTH = 12, 6
CONFIGS = [
    ItemKNNConfig(hidden_size=8),
    ItemKNNConfig(hidden_size=NUM_ITEMS, degree_exponent=0.5, max_history=9, history_decay=0.9),
    ItemKNNConfig(hidden_size=5, degree_exponent=0.1),
    ItemKNNConfig(hidden_size=NUM_ITEMS, degree_exponent=0.1, row_exponent=0.5, max_history=9, history_decay=0.9),
    EASEConfig(hidden_size=5, l2=3.0),
    EASEConfig(hidden_size=NUM_ITEMS, l2=0.5),
    PopularityConfig(),
    HybridConfig(hidden_size=TEXT_WIDTH + 4, degree_exponent=0.2, text_width=TEXT_WIDTH),
]
ITEM_ITEM = [config for config in CONFIGS if isinstance(config, ItemKNNConfig | EASEConfig)]


def named(config) -> str:
    return f"{config.type}-{getattr(config, 'hidden_size', 1)}"


def sequences() -> list[np.ndarray]:
    """Repeated items, a user of one item, and items 10 and 11 that one user alone has."""
    random = np.random.default_rng(0)
    found = [random.integers(0, 10, length).astype(np.int32) for length in (5, 3, 1, 7, 4, 9, 2)]
    return [*found, np.array([10, 2, 11, 10], dtype=np.int32)]


def fitted(config, data: list[np.ndarray]) -> FittedRecommender:
    model = build_recommender(config, NUM_ITEMS)
    if isinstance(model, ReadsText):
        model.read_text(np.random.default_rng(1).normal(size=(NUM_ITEMS, 9)).astype(np.float32))
    model.fit(data)
    return model.eval()


def matrix(model: ItemItemRecommender) -> torch.Tensor:
    """A history of one item scores its row of W."""
    items = torch.arange(model.num_items)[:, None]
    return model.scores(items, torch.ones_like(items, dtype=torch.bool))


def batch(histories: list[list[int]], extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, histories)) + extra
    item_ids = torch.tensor([history + [3] * (length - len(history)) for history in histories])
    return item_ids, torch.arange(length) < torch.tensor([[len(history)] for history in histories])


def test_item_knn_by_hand():
    model = build_recommender(ItemKNNConfig(hidden_size=2, history_decay=0.5), 4)
    model.fit([np.array([0, 1, 2]), np.array([1, 0]), np.array([3, 3])])
    expected = torch.tensor([[0.0, 2.0, 0.5, 0.0], [2.0, 0.0, 1.0, 0.0], [0.5, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]])
    assert torch.equal(matrix(model), expected)
    assert torch.equal(model.scores(*batch([[2, 0]])), 0.5 * expected[2:3] + expected[0:1])
    damped = build_recommender(ItemKNNConfig(hidden_size=2, degree_exponent=1.0), 4)
    damped.fit([np.array([0, 1, 2]), np.array([1, 0]), np.array([3, 3])])
    assert matrix(damped)[0].tolist() == pytest.approx([0, 2 / (2.5 * 3), 0.5 / (2.5 * 1.5), 0])
    rows = build_recommender(ItemKNNConfig(hidden_size=2, row_exponent=1.0), 4)
    rows.fit([np.array([0, 1, 2]), np.array([1, 0]), np.array([3, 3])])
    assert torch.allclose(matrix(rows), expected / expected.sum(dim=1, keepdim=True))


def test_pairs_further_apart_than_the_longest_history_do_not_count():
    model = build_recommender(ItemKNNConfig(hidden_size=2, max_history=2), 4)
    model.fit([np.array([0, 1, 2, 3])])
    assert matrix(model)[0].tolist() == [0, 1, 0.5, 0]


@pytest.mark.parametrize("config", [c for c in ITEM_ITEM if isinstance(c, ItemKNNConfig)], ids=named)
def test_the_size_of_blocks_changes_nothing(config, monkeypatch):
    data = sequences()
    whole = fitted(config, data)
    expected_EC = whole.factors_without(OwnItems(data, NUM_ITEMS))
    monkeypatch.setattr(item_knn, "PAIRS_AT_ONCE", 10)
    blocks = fitted(config, data)
    # Counts are summed in float64 in another order, and rounded to float32.
    torch.testing.assert_close(blocks.counts_P, whole.counts_P, rtol=1e-7, atol=0)
    assert torch.equal(blocks.columns_P, whole.columns_P)
    np.testing.assert_allclose(whole.factors_without(OwnItems(data, NUM_ITEMS)), expected_EC, rtol=0, atol=1e-6)


def test_users_left_out_together_are_left_out_one_by_one(monkeypatch):
    data = sequences()
    model = fitted(EASEConfig(hidden_size=5), data)
    alone_EC = np.concatenate([model.factors_without(OwnItems([own], NUM_ITEMS)) for own in data])
    for cells in (1, 10 * NUM_ITEMS, ease.CELLS_AT_ONCE):
        monkeypatch.setattr(ease, "CELLS_AT_ONCE", cells)
        np.testing.assert_allclose(model.factors_without(OwnItems(data, NUM_ITEMS)), alone_EC, rtol=1e-6, atol=1e-7)


def test_ease_solves_its_regression():
    """Column j of B minimises |X b - x_j|² + λ |b|² with b_j = 0: solved here without the closed form."""
    data, l2 = sequences(), 3.0
    design_UI = np.zeros((len(data), NUM_ITEMS))
    for user, sequence in enumerate(data):
        design_UI[user, sequence] = 1
    weights_II = matrix(fitted(EASEConfig(hidden_size=5, l2=l2), data)).numpy()
    for item in range(NUM_ITEMS):
        others = np.arange(NUM_ITEMS) != item
        gram = design_UI[:, others].T @ design_UI[:, others] + l2 * np.eye(NUM_ITEMS - 1)
        solution = np.linalg.solve(gram, design_UI[:, others].T @ design_UI[:, item])
        np.testing.assert_allclose(weights_II[others, item], solution, atol=1e-6)
        assert weights_II[item, item] == 0


def test_popularity_counts():
    model = build_recommender(PopularityConfig(), 4)
    model.fit([np.array([0, 1, 1]), np.array([1])])
    assert model.scores(*batch([[2], [0]])).tolist() == [[1, 3, 0, 0]] * 2


def test_hybrid_adds_log_counts_and_the_cosine_of_the_texts():
    model = build_recommender(HybridConfig(hidden_size=6, text_width=4, history_decay=0.5), 5)
    model.read_text(np.random.default_rng(3).normal(size=(5, 6)).astype(np.float32))
    model.fit([np.array([0, 1]), np.array([1, 2])])
    text_IW = model.text_IW.numpy()
    history = 0.5 * text_IW[1] + text_IW[3]
    cosine = text_IW @ history / np.linalg.norm(history)
    cosine[[1, 3]] = np.minimum(cosine[[1, 3]], 0)
    counts = 0.5 * np.array([1, 0, 1, 0, 0])  # of item 1, one step back; item 3 was never seen
    np.testing.assert_allclose(
        model.scores(*batch([[1, 3]], extra=2))[0].numpy(), np.log1p(10 * counts) + 6 * cosine, atol=1e-5
    )


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_padding_changes_nothing_and_states_depend_on_the_past_alone(config):
    model = fitted(config, sequences())
    histories = [[3, 7, 1, 9, 4, 4], [0], [11, 0, 5]]
    item_ids, mask = batch(histories, extra=2)
    encoding_BNC, scores_BI = model.encode(item_ids, mask), model.scores(item_ids, mask)
    assert encoding_BNC.shape == (3, 8, model.hidden_size) and scores_BI.shape == (3, NUM_ITEMS)
    assert not encoding_BNC[~mask].any()
    for row, history in enumerate(histories):
        for end in range(1, len(history) + 1):
            alone = model.encode(*batch([history[:end]]))[0, -1]
            torch.testing.assert_close(encoding_BNC[row, end - 1], alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(scores_BI[row], model.scores(*batch([history]))[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [c for c in ITEM_ITEM if c.hidden_size == NUM_ITEMS], ids=named)
def test_at_full_rank_the_last_state_holds_the_scores(config):
    """The scores are the state times √Σ V, which the projection V / √Σ gives back."""
    model = fitted(config, sequences())
    item_ids, mask = batch([[3, 7, 1], [10, 2, 2]])
    kept = model.projection_IC.abs().sum(dim=0) > 0
    back_CI = torch.linalg.pinv(model.projection_IC[:, kept])
    recovered_BI = model.encode(item_ids, mask)[:, -1, kept] @ back_CI
    torch.testing.assert_close(recovered_BI, model.scores(item_ids, mask), rtol=0, atol=1e-4)
    product_BI = model.encode(item_ids, mask)[:, -1] @ torch.from_numpy(model.item_embeddings()).T
    unit = (recovered_BI * product_BI).sum() / product_BI.square().sum()  # of the states and of the embeddings
    torch.testing.assert_close(unit * product_BI, recovered_BI, rtol=0, atol=1e-4)
    rms = model.factors_IC[:, kept].square().mean().sqrt()
    assert rms.item() == pytest.approx(1.0, abs=1e-4)


def test_few_dimensions_hold_rare_items_too():
    """Twenty pairs of items, of which one is taken a hundred times, and each other one once."""
    pairs = [np.array([2 * pair, 2 * pair + 1]) for pair in range(20)]
    model = build_recommender(ItemKNNConfig(hidden_size=2), 40)
    model.fit([*pairs, *[pairs[0]] * 99])
    # D^-1/4 S D^-1/4 has the eigenvalues 10 and -10 for the first pair, 1 and -1 for the others; S has 100 and -100.
    assert model.strengths_C.tolist() == pytest.approx([10.0, 10.0], abs=1e-4)


def test_a_recommender_of_before_the_columns_had_weights_is_read_as_it_was():
    model = fitted(ItemKNNConfig(hidden_size=5), sequences())
    old = {name: value for name, value in model.state_dict().items() if name != "column_I"}
    again = build_recommender(ItemKNNConfig(hidden_size=5), NUM_ITEMS)
    again.load_state_dict(old)
    expected = (model.projection_IC * model.strengths_C).numpy()
    np.testing.assert_allclose(again.item_embeddings(), expected, rtol=1e-6)


@pytest.mark.parametrize("config", ITEM_ITEM, ids=named)
def test_a_user_left_out_is_as_if_never_fitted(config):
    data = sequences()
    model = fitted(config, data)
    for user, own in enumerate(data):
        without = fitted(config, data[:user] + data[user + 1 :])
        items_M, factors_MC = OwnItems([own], NUM_ITEMS).items_E, model.factors_without(OwnItems([own], NUM_ITEMS))
        assert items_M.tolist() == sorted(set(own.tolist()))
        # Worst over the users: 4e-6, at factors up to 9.
        expected_MC = matrix(without)[items_M].double() @ model.projection_IC.double()
        np.testing.assert_allclose(factors_MC, expected_MC.numpy(), rtol=0, atol=1e-4)
    assert not isinstance(model, ItemKNN) or not factors_MC[items_M >= 10].any(), "nobody else has items 10 and 11"


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_training_examples_are_encoded_without_their_own_user(config, tmp_path):
    data = sequences()
    flat = np.concatenate(data)
    ends = np.cumsum([len(sequence) for sequence in data])
    examples = Examples(flat, np.arange(8, dtype=np.int32), ends - [len(s) for s in data], ends - 1, flat[ends - 1])
    examples = examples.take(np.array([0, 3, 7]))
    model = fitted(config, data).requires_grad_(False)
    own = Encodings(make_encodings(model, examples, tmp_path, "own", lambda user: data[user]))
    for row, user in enumerate([0, 3, 7]):
        history = batch([data[user][:-1].tolist()])
        expected = model.encode_without(*history, [data[user]])[0].numpy()
        np.testing.assert_allclose(encoding(own, row), expected, rtol=0, atol=1e-5)
        assert np.abs(expected - model.encode(*history)[0].numpy()).max() > 1e-3
        # Items that the user does not have are described as for everybody.
        other = batch([[item for item in range(NUM_ITEMS) if item not in data[user]]])
        torch.testing.assert_close(model.encode_without(*other, [data[user]]), model.encode(*other))
    without = fitted(PopularityConfig(), data[1:])
    if config.type == "popularity":
        expected = without.encode(*batch([data[0][:-1].tolist()]))[0].numpy()
        np.testing.assert_allclose(encoding(own, 0), expected, atol=1e-6)


def encoding(encodings: Encodings, row: int) -> np.ndarray:
    encoding_1NC, mask_1N = encodings.batch(np.array([row]))
    return encoding_1NC[mask_1N]


def test_a_truncated_decomposition_takes_the_leading_part_of_the_whole():
    random = np.random.default_rng(0)
    data = [random.integers(0, 40, 6).astype(np.int32) for _ in range(60)]
    small, whole = (build_recommender(ItemKNNConfig(hidden_size=size), 40) for size in (4, 40))
    for model in (small, whole):
        model.fit(data)
    ratio = small.factors_IC.abs() / whole.factors_IC[:, :4].abs()  # up to sign and the scale
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-3, atol=0)


def test_whitened_features_have_length_one_and_no_made_up_components():
    features = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32) + 100
    white_IW = whitened(features, 8)
    assert white_IW.shape == (5, 8) and not white_IW[:, 4:].any()
    np.testing.assert_allclose(np.linalg.norm(white_IW, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(white_IW @ white_IW.T - np.eye(5), -0.25 * (1 - np.eye(5)), atol=1e-5)


def test_ease_refuses_a_catalogue_that_it_cannot_invert(monkeypatch):
    monkeypatch.setattr(EASEConfig, "max_items", 10)
    with pytest.raises(UserError, match=r"recommender\.type: ease inverts a matrix of 12 x 12"):
        build_recommender(EASEConfig(), 12)


@pytest.mark.parametrize("config", [c for c in ITEM_ITEM if c.hidden_size == NUM_ITEMS], ids=named)
def test_states_times_item_embeddings_are_the_scores_at_full_rank(config):
    model = fitted(config, sequences())
    item_ids_BN, mask_BN = batch([[2, 0, 7], [10]])
    states_BC = last_state(model.encode(item_ids_BN, mask_BN), mask_BN)
    approximate_BI = states_BC @ torch.from_numpy(model.item_embeddings()).T
    expected_BI = model.scores(item_ids_BN, mask_BN)
    unit = (approximate_BI * expected_BI).sum() / expected_BI.square().sum()  # both factors are of order 1
    torch.testing.assert_close(approximate_BI / unit, expected_BI, rtol=0, atol=1e-4 * float(expected_BI.abs().max()))


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_the_product_is_scipys_to_the_bit(index):
    random = np.random.default_rng(0)
    for density in (0.0, 0.05, 0.9):
        left, right = (random_array((20, 30), density=density, dtype=np.float32, rng=random).tocsr() for _ in range(2))
        right = csr_array(right.T @ right)
        for matrix in (left, right):
            matrix.indices, matrix.indptr = matrix.indices.astype(index), matrix.indptr.astype(index)
        ours, theirs = sparse_product(left, right), left @ right
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))
