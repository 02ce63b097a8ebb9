"""CollectiveKV: its attention beside full attention, its losses by hand, and its cache beside one pass."""

import math

import pytest
import torch

from laser.config.families.recommenders import CollectiveSASRecConfig
from laser.families.collective_sasrec import CollectiveSASRec
from laser.models.sequences.cache import CacheFile, pack, row_bytes, unpack
from laser.models.sequences.collective import CollectiveAttention, Routed, Stored, balance_loss, peak_loss
from laser.recommenders.registry import build_recommender

WIDTH, HEADS, LENGTH, POOL, NUM_ITEMS = 8, 2, 5, 6, 12
HISTORIES = [[3, 7, 1, 9, 4], [0], [11, 0, 5]]


def attention(
    user_width: int = 2, share: str = "kv", joint: bool = False, pool_size: int = POOL
) -> CollectiveAttention:
    torch.manual_seed(0)
    made = CollectiveAttention(WIDTH, HEADS, user_width, pool_size, share, joint, dropout=0.0)
    made.initialise_pools()
    return made.eval()


def model(**settings: object) -> CollectiveSASRec:
    torch.manual_seed(1)
    sizes = {"hidden_size": WIDTH, "num_heads": HEADS, "max_history": 6, "dropout": 0.0, "pool_size": POOL}
    made = build_recommender(CollectiveSASRecConfig(**{**sizes, **settings}), NUM_ITEMS)
    assert isinstance(made, CollectiveSASRec)
    with torch.no_grad():  # far from initialisation
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def batch(histories: list[list[int]], filler: int = 0, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, histories)) + extra
    item_ids = torch.tensor([history + [filler] * (length - len(history)) for history in histories])
    return item_ids, torch.arange(length) < torch.tensor([[len(history)] for history in histories])


def dealt(weight: torch.Tensor, own: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the rows of a whole projection into own ones and others, head by head."""
    heads = weight.unflatten(0, (HEADS, -1))
    return heads[:, : own // HEADS].flatten(0, 1), heads[:, own // HEADS :].flatten(0, 1)


def copy_linear(full: CollectiveAttention, other: CollectiveAttention, own: int) -> None:
    """Give another attention the own part, query and output of the full one."""
    with torch.no_grad():
        for name in ("k", "v"):
            for kind in ("weight", "bias"):
                getattr(other.own[name], kind).copy_(dealt(getattr(full.own[name], kind), own)[0])
    other.query.load_state_dict(full.query.state_dict())
    other.output.load_state_dict(full.output.state_dict())


def test_whole_own_parts_are_full_attention():
    full, states_BNC = attention(WIDTH, "none"), torch.randn(3, LENGTH, WIDTH)
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    with torch.no_grad():
        parts = (full.query, full.own["k"], full.own["v"])
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        theirs.out_proj.load_state_dict(full.output.state_dict())
    later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    wanted = theirs(states_BNC, states_BNC, states_BNC, attn_mask=later)[0]
    torch.testing.assert_close(full(states_BNC, []), wanted, rtol=0, atol=1e-6)


def test_a_row_for_each_input_is_full_attention():
    full, states_NC = attention(WIDTH, "none"), torch.randn(LENGTH, WIDTH)
    pooled = attention(2, "kv", pool_size=LENGTH)
    copy_linear(full, pooled, 2)
    with torch.no_grad():
        for name in ("k", "v"):
            weight, bias = (dealt(value, 2)[1] for value in (full.own[name].weight, full.own[name].bias))
            pooled.pools[name].copy_(states_NC @ weight.T + bias)
            # The pseudo-inverse picks input n for row n.
            pooled.routers[name].weight.copy_(torch.linalg.pinv(states_NC).T)
            pooled.routers[name].bias.zero_()
    torch.testing.assert_close(pooled(states_NC[None], []), full(states_NC[None], []), rtol=0, atol=1e-5)


def test_none_shared_is_the_pool_cut_off():
    cut, pooled, states_BNC = attention(2, "none"), attention(2, "kv"), torch.randn(2, LENGTH, WIDTH)
    with torch.no_grad():
        for pool in pooled.pools.values():
            pool.zero_()
    for name in ("k", "v"):
        cut.own[name].load_state_dict(pooled.own[name].state_dict())
    kept = torch.arange(WIDTH).unflatten(0, (HEADS, -1))[:, :1].flatten()
    with torch.no_grad():
        cut.query.weight.copy_(pooled.query.weight[kept])
        cut.query.bias.copy_(pooled.query.bias[kept])
        cut.output.weight.copy_(pooled.output.weight[:, kept])
        cut.output.bias.copy_(pooled.output.bias)
    torch.testing.assert_close(cut(states_BNC, []), pooled(states_BNC, []), rtol=0, atol=1e-6)


def test_the_order_of_a_pool_does_not_matter():
    one, states_BNC, order = attention(), torch.randn(2, LENGTH, WIDTH), torch.randperm(POOL)
    before = one(states_BNC, [])
    with torch.no_grad():
        one.pools["k"].copy_(one.pools["k"][order])
        one.routers["k"].weight.copy_(one.routers["k"].weight[order])
        one.routers["k"].bias.copy_(one.routers["k"].bias[order])
    assert torch.equal(one(states_BNC, []), before)


def said(logits_BNP):
    """Return what a router with these logits has said."""
    return Routed(logits_BNP, logits_BNP.amax(dim=-1))


def test_losses_by_hand():
    mask_BN = torch.tensor([[True, True, False]])
    none = [said(torch.zeros(1, 3, 4))]
    assert peak_loss(none, mask_BN).item() == pytest.approx(math.log(2))
    assert balance_loss(none, mask_BN).item() == pytest.approx(0.0, abs=1e-6)
    one_row = torch.full((1, 3, 4), -1e4)
    one_row[..., 2] = 1e4
    assert peak_loss([said(one_row)], mask_BN).item() == 0.0
    assert balance_loss([said(one_row)], mask_BN).item() == pytest.approx(math.log(4))
    turns = torch.full((1, 3, 2), -1e4)
    turns[0, 0, 0] = turns[0, 1, 1] = turns[0, 2, 1] = 1e4  # the last is padding
    assert balance_loss([said(turns)], mask_BN).item() == pytest.approx(0.0, abs=1e-6)


def test_gradients_reach_the_chosen_rows_and_logits_alone():
    one, states_BNC, routed = attention().train(), torch.randn(1, LENGTH, WIDTH), []
    one(states_BNC, routed).square().sum().backward()
    chosen = routed[0].logits_BNP.argmax(dim=-1).unique()
    others = [row for row in range(POOL) if row not in chosen]
    assert one.pools["k"].grad[chosen].abs().sum(dim=1).min() > 0 and not one.pools["k"].grad[others].any()
    assert not one.routers["k"].weight.grad[others].any()  # of the gate; the balance alone reaches the others
    balance_loss([one.store(states_BNC)[1][0]], torch.ones(1, LENGTH, dtype=torch.bool)).backward()
    assert one.routers["k"].weight.grad.abs().sum(dim=1).min() > 0


def test_training_scales_a_chosen_row_by_its_gate():
    one, states_BNC, routed = attention(), torch.randn(1, LENGTH, WIDTH), []
    gated = one.train()(states_BNC, routed)
    stored, _ = one.store(states_BNC)
    gates = [each.logits_BNP.amax(dim=-1, keepdim=True).sigmoid() for each in routed]
    torch.testing.assert_close(one.attend(states_BNC, *one.restore(stored, gates)), gated, rtol=0, atol=0)
    assert not torch.equal(one.eval()(states_BNC, []), gated)


@pytest.mark.parametrize("settings", [
    {}, {"router": "joint"}, {"share": "v"}, {"share": "k"}, {"share": "none"}, {"share": "low_rank", "user_width": 3},
])  # fmt: skip
def test_prefill_and_extend_equal_one_pass_and_bytes_are_counted(settings, tmp_path):
    made = model(**settings, cache_dtype="fp32")
    whole = [made.prefill(torch.tensor(history)) for history in HISTORIES]
    scores_BI = made.scores_of_ids(*batch(HISTORIES))
    # Worst over 20 seeds: 1e-6 on scores up to 5.
    torch.testing.assert_close(made.cached_scores(whole), scores_BI, rtol=0, atol=1e-5)
    grown = made.prefill(torch.tensor(HISTORIES[0][:1]))
    for item in HISTORIES[0][1:]:
        grown = made.extend(grown, item)
    torch.testing.assert_close(made.cached_scores([grown]), scores_BI[:1], rtol=0, atol=1e-5)
    rows = [len(history) - 1 for history in HISTORIES]
    assert [cache.nbytes for cache in whole] == [row * made.item_bytes + 4 for row in rows]
    file = CacheFile(tmp_path / "caches", whole)
    assert (tmp_path / "caches").stat().st_size == sum(rows) * made.item_bytes
    for read, cache in zip(file.cold(range(3)), whole, strict=True):
        assert torch.equal(read.rows_NX, cache.rows_NX) and read.last == cache.last


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_ranks_are_by_the_scores_that_caches_give(dtype):
    made = model(share="none", user_width=WIDTH, cache_dtype=dtype)
    scores_BI, ids_BI = made.scores(*batch(HISTORIES)), made.scores_of_ids(*batch(HISTORIES))
    served_BI = made.cached_scores([made.prefill(torch.tensor(history)) for history in HISTORIES])
    torch.testing.assert_close(scores_BI, served_BI, rtol=0, atol=1e-5)
    rounded = (scores_BI - ids_BI).abs().amax(dim=1)
    assert (rounded < 1e-5).tolist() == [dtype == "fp32", True, dtype == "fp32"]  # the second has no past


def test_bytes_of_an_item():
    sizes = {"hidden_size": 64, "num_heads": 2}
    counted = {"user_width": 2}, {"user_width": 64, "share": "none"}, {"user_width": 2, "cache_dtype": "int8"}
    assert [model(**sizes, **more).item_bytes for more in counted] == [24, 512, 2 * (2 * (2 + 2) + 4)]
    assert model(**sizes, router="joint").item_bytes == 20
    assert model(**sizes, share="low_rank", user_width=3).item_bytes == 24


@pytest.mark.parametrize(("dtype", "worst"), [("fp32", 0.0), ("bf16", 2**-8), ("int8", 1 / 127)])
def test_packing_keeps_rows_and_rounds_numbers(dtype, worst):
    one = attention()
    stored = Stored((torch.randn(2, 3, 2), torch.randn(2, 3, 2)), (torch.tensor([[0, 5, 3]] * 2),) * 2)
    rows_BNX = pack([stored, stored], dtype)
    assert rows_BNX.shape == (2, 3, row_bytes([one, one], dtype)) and rows_BNX.dtype == torch.uint8
    for layer in unpack(rows_BNX, [one, one], dtype):
        assert all(map(torch.equal, layer.rows, stored.rows))
        for ours, before in zip(layer.own, stored.own, strict=True):
            assert ((ours - before).abs() <= worst * before.abs().amax(dim=-1, keepdim=True)).all()


def test_the_loss_has_both_losses_of_the_routers():
    weights = ({"peak_weight": 0.0, "balance_weight": 0.0}, {"balance_weight": 0.0}, {"peak_weight": 0.0})
    plain, peak, balance = (model(**more).loss(*batch(HISTORIES), torch.Generator()).item() for more in weights)
    made, (item_ids, mask) = model(), batch(HISTORIES)
    terms = [
        torch.nn.functional.cross_entropy(made.scores_of_ids(*batch([history[:cut]])), torch.tensor([history[cut]]))
        for history in HISTORIES
        for cut in range(1, len(history))
    ]
    assert plain == pytest.approx(torch.stack(terms).mean().item(), abs=1e-5)
    routed = made.routed(made.items(item_ids[:, :-1]))[1]
    assert len(routed) == 4, "two layers, keys and values"
    assert peak - plain == pytest.approx(peak_loss(routed, mask[:, 1:]).item(), abs=1e-5)
    assert balance - plain == pytest.approx(balance_loss(routed, mask[:, 1:]).item(), abs=1e-5)


def test_padding_batch_mates_and_later_items_change_nothing():
    made, generator = model(), torch.Generator()
    alone, padded = batch(HISTORIES[::2]), batch(HISTORIES[::2], filler=8, extra=1)
    assert made.loss(*alone, generator).item() == pytest.approx(made.loss(*padded, generator).item(), abs=1e-5)
    rows = [made.attentions[0].store(made._placed(made.items(ids)))[0].rows[0] for ids, _ in (alone, padded)]
    assert torch.equal(rows[0][alone[1]], rows[1][padded[1]])
    later = torch.tensor([[3, 7, 1, 2, 2]])
    before, after = made.prefill(torch.tensor(HISTORIES[0])), made.prefill(later[0])
    assert torch.equal(before.rows_NX[:3], after.rows_NX[:3])


def test_a_width_that_does_not_fit_is_refused():
    for settings in ({"user_width": 3}, {"user_width": 64}, {"user_width": 66, "share": "none"}):
        with pytest.raises(ValueError, match="wanted a multiple of num_heads up to"):
            CollectiveSASRecConfig(**settings)


def test_the_use_of_pools_is_counted():
    made = model()
    with torch.no_grad():
        for attention in made.attentions:
            for router in attention.routers.values():
                router.weight.zero_()
                router.bias.copy_(torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0, 0.0]))
    use = made.use_of_pools(*batch(HISTORIES))
    assert use == {"gate": pytest.approx(1 / (1 + math.exp(-2))), "rows_used": pytest.approx(1 / POOL)}
    assert model(share="none").use_of_pools(*batch(HISTORIES)) == {}
