"""Items that the model was not trained with join the ranking by their text."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.sparse import csr_array

from laser.errors import UserError
from laser.serving.answerer import Answerer
from laser.serving.catalogue import TEMPERATURE, Neighbours, nearest
from serving.conftest import VARIANTS


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_copy_of_an_item_is_ranked_as_the_item(variant, trained, cache, tmp_path):
    model = trained(variant)
    items, num_known = model.inputs.dataset.items, model.inputs.dataset.num_items
    copied = [3, 17, 40]
    rows = items.take(copied).drop_columns(["item_id"])
    rows = rows.set_column(0, "item", pa.array([f"new {raw.as_py()}" for raw in rows.column("raw_id")]))
    pq.write_table(rows, tmp_path / "new.parquet")
    answerer = Answerer.open(model.package, cache, tmp_path / "new.parquet")
    assert len(answerer.catalogue) == num_known + 3
    # A stand-in has the same text: the item itself, or another one with that text.
    titles = answerer.catalogue.titles
    assert [titles[row] for row in answerer.catalogue.stand_ins[num_known:]] == [titles[row] for row in copied]
    same = [
        row for row, stand_in in zip(copied, answerer.catalogue.stand_ins[num_known:], strict=True) if row == stand_in
    ]
    assert same
    new_JD = answerer.items_ID[num_known:].float().numpy()
    old_JD = answerer.reader.items(np.array(copied)).numpy()
    whole_score = variant in ("stack", "joined")  # behind the text stands the recommender's embedding
    if whole_score:  # without stage 2
        np.testing.assert_allclose(old_JD, answerer.items_ID[copied].numpy(), rtol=0, atol=1e-5)
    kept = [copied.index(row) for row in same]
    # measured: 5e-7; the texts stand in other batches
    texts = slice(None, 8 if whole_score else None)
    np.testing.assert_allclose(new_JD[kept, texts], old_JD[kept, texts], rtol=0, atol=1e-5)
    raw_ids = items.column("raw_id").to_pylist()
    [answer] = answerer.recommend([[raw_ids[1], "new " + raw_ids[same[0]]]], k=1000, mask_history=False)
    assert answer.unknown == [] and len(answer.items) == num_known + 3
    scores = dict(zip(answer.items, answer.scores, strict=True))
    history = [np.array([1, num_known + copied.index(same[0])], np.int32)]
    (vector_BD, bias), pairs = answerer.reader.vectors(history), answerer.reader.pairs(history)
    values_BI = torch.zeros(1, num_known + 3)
    values_BI[pairs.rows_P, pairs.items_P] = pairs.values(bias)
    assert bool(pairs.counted_P.any()) == (variant == "joined")
    own = float(vector_BD[0] @ torch.from_numpy(new_JD[kept[0]]) + values_BI[0, history[0][1]])
    assert scores["new " + raw_ids[same[0]]] == pytest.approx(own, abs=1e-4)


def test_a_table_without_attributes_is_read_and_a_known_item_refused(trained, cache, tmp_path):
    model = trained("before")
    (tmp_path / "new.csv").write_text("id,title\nn1,A film that nobody knows\n")
    answerer = Answerer.open(model.package, cache, tmp_path / "new.csv")
    assert answerer.catalogue.titles[-1] == "A film that nobody knows"
    assert answerer.catalogue.popularity[-1] == 0
    known = answerer.catalogue.raw_ids[2]
    (tmp_path / "new.csv").write_text(f"id,title\nn1,A\n{known},B\n")
    with pytest.raises(UserError, match=f"new_items: .*new.csv:3: item '{known}' is in the catalogue already"):
        Answerer.open(model.package, cache, tmp_path / "new.csv")
    (tmp_path / "new.csv").write_text("id,name of it\nn1,A\n")
    with pytest.raises(UserError, match=r"new.csv:1: no column 'title'"):
        Answerer.open(model.package, cache, tmp_path / "new.csv")


def test_counted_scores_of_a_new_item_are_its_neighbours_mean():
    neighbours = Neighbours(np.array([[0, 2], [1, 0]]), np.array([[0.75, 0.25], [1.0, 0.0]], np.float32))
    known_BI = csr_array(np.array([[4, 0, 2], [0, 0, 0]], np.float32))
    assert neighbours.counted_scores(known_BI).toarray().tolist() == [[4, 0, 2, 3.5, 0], [0, 0, 0, 0, 0]]


def test_the_embedding_of_a_new_item_is_its_neighbours_mean_at_their_length_in_each_block():
    known_IC = np.array([[3, 0, 1], [0, 3, 1], [9, 9, 9]], np.float32)
    white_IW = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    found = nearest(white_IW, 1)
    assert found.items_JN.tolist() == [[0, 1, 2]]  # of equals the lowest first
    far = np.exp(-1 / TEMPERATURE)
    np.testing.assert_allclose(found.weights_JN, [[1 / (2 + far), 1 / (2 + far), far / (2 + far)]], rtol=1e-6)
    even = Neighbours(found.items_JN[:, :2], np.array([[0.5, 0.5]], np.float32))
    # The first block's mean is 2.12 long, and each of the two is 3 long; the second block's are alike.
    np.testing.assert_allclose(even.embeddings(known_IC, (2, 1)), [[3 / 2**0.5, 3 / 2**0.5, 1]], rtol=1e-6)
