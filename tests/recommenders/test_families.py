"""BERT4Rec, SASRec and SASRec over text: the reach of their attention, and what their losses count."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from laser.config.families.recommenders import Bert4RecConfig, SASRecConfig, TextSASRecConfig
from laser.families.bert4rec import BERT4Rec
from laser.families.sasrec import SASRec
from laser.families.text_sasrec import TextSASRec
from laser.recommenders.base import TrainedRecommender
from laser.recommenders.registry import build_recommender

NUM_ITEMS = 30
HISTORIES = [[3, 7, 1, 29, 4, 4], [0], [11, 0, 5]]


def recommender(family: str) -> TrainedRecommender:
    small = {"hidden_size": 16, "max_history": 6}
    torch.manual_seed(3)
    configs = [Bert4RecConfig(**small), SASRecConfig(**small), TextSASRecConfig(**small, text_width=8)]
    model = build_recommender(next(config for config in configs if config.type == family), NUM_ITEMS)
    if isinstance(model, TextSASRec):
        model.read_text(np.random.default_rng(0).normal(size=(NUM_ITEMS, 12)).astype(np.float32))
    with torch.no_grad():  # far from initialisation, so that every weight has a say
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def padded(histories: list[list[int]], extra: int = 0, filler: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, histories)) + extra
    item_ids = torch.tensor([history + [filler] * (length - len(history)) for history in histories])
    return item_ids, torch.arange(length) < torch.tensor([[len(history)] for history in histories])


@pytest.fixture(params=["bert4rec", "sasrec", "text_sasrec"])
def model(request: pytest.FixtureRequest) -> TrainedRecommender:
    return recommender(request.param)


def test_padding_changes_no_loss(model):
    generator = torch.Generator()
    losses = [
        model.loss(*padded(HISTORIES[::2], extra=extra, filler=extra), generator.manual_seed(0)).item()
        for extra in (0, 1)
    ]
    if isinstance(model, SASRec):
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    else:  # the draws differ with the width; with everything hidden there is nothing to draw
        model.mask_probability, model.last_item_probability = 1.0, 0.0
        losses = [model.loss(*padded(HISTORIES[::2], extra=extra), generator).item() for extra in (0, 1)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_sasrec_sees_the_past_alone_and_bert4rec_both_sides():
    item_ids, mask = padded([[1, 2, 3, 4]])
    changed = item_ids.clone()
    changed[0, 3] = 9
    sasrec, bert4rec = recommender("sasrec"), recommender("bert4rec")
    difference = (sasrec.encode(item_ids, mask) - sasrec.encode(changed, mask)).abs().amax(dim=-1)[0]
    assert difference[:3].max() == 0 and difference[3] > 0.1
    difference = (bert4rec.encode(item_ids, mask) - bert4rec.encode(changed, mask)).abs().amax(dim=-1)[0]
    assert difference.min() > 1e-3


@pytest.mark.parametrize("family", ["sasrec", "text_sasrec"])
def test_sasrec_loss_is_the_mean_over_every_next_item(family):
    model = recommender(family)
    terms = [
        F.cross_entropy(model.scores(*padded([history[:cut]])), torch.tensor([history[cut]]))
        for history in HISTORIES
        for cut in range(1, len(history))
    ]
    loss = model.loss(*padded(HISTORIES), torch.Generator())
    # Worst over 20 seeds: 9.6e-7.
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=0, atol=1e-5)


def test_bert4rec_loss_on_last_items_is_what_inference_asks():
    model = recommender("bert4rec")
    model.last_item_probability = 1.0
    histories = [history for history in HISTORIES if len(history) > 1]
    terms = [F.cross_entropy(model.scores(*padded([h[:-1]])), torch.tensor([h[-1]])) for h in histories]
    loss = model.loss(*padded(histories), torch.Generator())
    # Worst over 20 seeds: 4.8e-7.
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=0, atol=1e-5)


def test_bert4rec_hides_the_asked_share_and_never_nothing():
    model = recommender("bert4rec")
    model.mask_probability, model.last_item_probability = 0.3, 0.0
    lengths = torch.tensor([1, 2, 40]).repeat(400)
    mask_BN = torch.arange(40) < lengths[:, None]
    hidden_BN = model._hidden(mask_BN, torch.Generator().manual_seed(0))
    assert not (hidden_BN & ~mask_BN).any()
    assert (hidden_BN.sum(dim=1) >= 1).all()
    assert hidden_BN[lengths == 40].float().mean() == pytest.approx(0.3, abs=0.01)
    model.last_item_probability = 1.0
    hidden_BN = model._hidden(mask_BN, torch.Generator().manual_seed(0))
    assert hidden_BN.sum(dim=1).eq(1).all() and hidden_BN[torch.arange(1200), lengths - 1].all()


def test_every_item_is_learnt_and_every_weight_has_a_gradient(model):
    model.train()
    item_ids = torch.arange(NUM_ITEMS).reshape(-1, 5)
    model.loss(item_ids, torch.ones_like(item_ids, dtype=torch.bool), torch.Generator().manual_seed(0)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    items_IC = model.encoder.embeddings.word_embeddings if isinstance(model, BERT4Rec) else model.decoder.wte
    assert items_IC.weight.grad.abs().sum(dim=1).min() > 0


def test_longer_histories_than_the_longest_are_refused(model):
    item_ids, mask = padded([[1] * 7])
    for call in (model.encode, model.scores):
        with pytest.raises(AssertionError, match="max_history"):
            call(item_ids, mask)
