"""The families that are trained: the reach of their attention, and what their losses count."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from laser.config.families.recommenders import FAMILIES, TrainedSection
from laser.families.bert4rec import BERT4Rec
from laser.families.gsasrec import GSASRec
from laser.families.text.unisrec import UniSRec
from laser.recommenders.base import CausalRecommender, TrainedRecommender
from laser.recommenders.registry import build_recommender
from laser.recommenders.text import ReadsText

NUM_ITEMS = 30
HISTORIES = [[3, 7, 1, 29, 4, 4], [0], [11, 0, 5]]
TRAINED = [family for family, section in FAMILIES.items() if issubclass(section, TrainedSection)]
CAUSAL = [family for family in TRAINED if family != "bert4rec"]


SIZES = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_history": 6, "dropout": 0.0}


def recommender(family: str) -> TrainedRecommender:
    small = {"hidden_size": 16, "max_history": 6, "text_width": 8, "num_negatives": 5}
    section = FAMILIES[family]
    torch.manual_seed(3)
    model = build_recommender(section(**{k: v for k, v in small.items() if k in section.model_fields}), NUM_ITEMS)
    assert isinstance(model, TrainedRecommender)
    if isinstance(model, ReadsText):
        model.read_text(np.random.default_rng(0).normal(size=(NUM_ITEMS, 12)).astype(np.float32))
    with torch.no_grad():  # far from initialisation, so that every weight has a say
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def padded(histories: list[list[int]], extra: int = 0, filler: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, histories)) + extra
    item_ids = torch.tensor([history + [filler] * (length - len(history)) for history in histories])
    return item_ids, torch.arange(length) < torch.tensor([[len(history)] for history in histories])


@pytest.fixture(params=TRAINED)
def model(request: pytest.FixtureRequest) -> TrainedRecommender:
    return recommender(request.param)


def test_padding_changes_no_loss(model):
    generator = torch.Generator()
    losses = [
        model.loss(*padded(HISTORIES[::2], extra=extra, filler=extra), generator.manual_seed(0)).item()
        for extra in (0, 1)
    ]
    if isinstance(model, CausalRecommender):
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    else:  # the draws differ with the width; with everything hidden there is nothing to draw
        model.mask_probability, model.last_item_probability = 1.0, 0.0
        losses = [model.loss(*padded(HISTORIES[::2], extra=extra), generator).item() for extra in (0, 1)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("family", TRAINED)
def test_bert4rec_sees_both_sides_and_the_others_the_past_alone(family):
    item_ids, mask = padded([[1, 2, 3, 4]])
    changed = item_ids.clone()
    changed[0, 3] = 9
    model = recommender(family)
    difference = (model.encode(item_ids, mask) - model.encode(changed, mask)).abs().amax(dim=-1)[0]
    assert difference[3] > 0.1
    assert difference[:3].max() == 0 if family in CAUSAL else difference.min() > 1e-3


@pytest.mark.parametrize("family", [family for family in CAUSAL if family not in ("gsasrec", "collective_sasrec")])
def test_the_loss_is_the_mean_over_every_next_item(family):
    model = recommender(family)
    terms = [
        F.cross_entropy(model.scores(*padded([history[:cut]])), torch.tensor([history[cut]]))
        for history in HISTORIES
        for cut in range(1, len(history))
    ]
    loss = model.loss(*padded(HISTORIES), torch.Generator())
    # Worst over 20 seeds: SASRec 9.6e-7.
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("calibration", "power"), [(0.0, 1.0), (0.75, 0.25 + 0.75 * 5 / 29), (1.0, 5 / 29)])
def test_gsasrec_loss_is_the_binary_cross_entropy_with_a_power_at_the_positive(calibration, power):
    torch.manual_seed(0)
    model = GSASRec(NUM_ITEMS, 5, calibration, **SIZES).eval()
    item_ids, mask = padded(HISTORIES)
    negatives_MS = model._negatives(item_ids[:, 1:][mask[:, 1:]], torch.Generator().manual_seed(1))
    terms, number = [], 0
    for history in HISTORIES:
        for cut in range(1, len(history)):
            scores_I = model.scores(*padded([history[:cut]]))[0]
            positive, negatives_S = scores_I[history[cut]].sigmoid(), scores_I[negatives_MS[number]].sigmoid()
            terms.append(-(power * positive.log() + (1 - negatives_S).log().sum()) / 6)
            number += 1
    loss = model.loss(item_ids, mask, torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=0, atol=1e-5)


def test_gsasrec_draws_every_other_item_with_the_same_probability():
    model = GSASRec(4, 3000, 0.75, **SIZES)
    drawn_MS = model._negatives(torch.tensor([0, 2, 3]), torch.Generator().manual_seed(0))
    counts = torch.stack([row.bincount(minlength=4) for row in drawn_MS]) / 3000
    wanted = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]) / 3
    torch.testing.assert_close(counts, wanted, rtol=0, atol=0.03)


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
    items_IC = model.encoder.embeddings.word_embeddings if isinstance(model, BERT4Rec) else model.embedding
    assert isinstance(model, UniSRec) is (items_IC is None), "it alone has no ids"
    assert items_IC is None or items_IC.weight.grad.abs().sum(dim=1).min() > 0


def test_unisrec_scores_items_of_one_text_alike_and_mixes_its_experts_by_the_gate():
    model, features_IH = recommender("unisrec"), np.random.default_rng(0).normal(size=(NUM_ITEMS, 12))
    features_IH[7] = features_IH[3]
    model.read_text(features_IH.astype(np.float32))
    scores_BI = model.scores(*padded([[1, 3, 5], [1, 7, 5]]))
    torch.testing.assert_close(scores_BI[0], scores_BI[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(scores_BI[:, 3], scores_BI[:, 7], rtol=0, atol=1e-5)
    experts, text_IW = model.project, model.text_IW
    gate_IG = (text_IW @ experts.gate.weight.T).softmax(dim=-1)
    expected_IC = sum(
        gate_IG[:, [number]] * ((text_IW - experts.shift_GW[number]) @ experts.map_GWC[number]) for number in range(8)
    )
    torch.testing.assert_close(model._items(), expected_IC, rtol=0, atol=1e-5)
    assert gate_IG.std(dim=0).min() > 1e-3, "the gate tells texts apart"


def test_item_embeddings_are_given_while_the_weights_are_trained(model):
    assert model.requires_grad_(True).item_embeddings().shape == (NUM_ITEMS, model.hidden_size)


def test_longer_histories_than_the_longest_are_refused(model):
    item_ids, mask = padded([[1] * 7])
    for call in (model.encode, model.scores):
        with pytest.raises(AssertionError, match="max_history"):
            call(item_ids, mask)
