"""Tests the router by hand and the M-Former against a dense loop, and which of its weights a step of Laser moves."""

import math

import torch

from laser.models.mformer import MFormer, Router
from tiny.laser import batch, build, read, step


def mformer(num_experts: int = 3, bf16: bool = False, num_virtual_tokens: int = 4) -> MFormer:
    torch.manual_seed(0)
    return MFormer(
        recommender_width=6,
        llm_width=10,
        num_experts=num_experts,
        num_virtual_tokens=num_virtual_tokens,
        num_layers=2,
        hidden_size=8,
        num_heads=2,
        cross_attention_frequency=2,
        dropout=0.0,
        output_std=0.1,
        bf16=bf16,
    ).eval()


def encodings(batch: int = 7, length: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    encoding_BNC = 3 * torch.randn(batch, length, 6, generator=generator)
    lengths = torch.randint(1, length + 1, (batch,), generator=generator)
    return encoding_BNC, torch.arange(length) < lengths[:, None]


def test_router_equals_arithmetic_by_hand():
    router = Router(recommender_width=2, num_experts=2)
    router.score.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Items (ln 3, 0) and (0, ln 1): softmax (3/4, 1/4) and (1/2, 1/2); the third is padding.
    encoding_BNC = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0], [9.0, -9.0]]])
    routing = router(encoding_BNC, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(routing.gate_BNK[0, :2], torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    assert routing.gate_BNK[0, 2].tolist() == [0.0, 0.0]
    torch.testing.assert_close(routing.gate_BK, torch.tensor([[0.625, 0.375]]))
    assert routing.expert_B.tolist() == [0]


def test_the_routed_prefix_equals_a_dense_loop_over_experts():
    model = mformer()
    encoding_BNC, mask_BN = encodings(64)
    with torch.no_grad():
        output = model(encoding_BNC, mask_BN)
        every_expert = []
        for tokens_LD in model.query_tokens:
            hidden_BLD = model.transformer(
                query_embeds=tokens_LD.expand(64, -1, -1),
                encoder_hidden_states=encoding_BNC,
                encoder_attention_mask=mask_BN,
            ).last_hidden_state
            every_expert.append(model.projection(hidden_BLD))
    chosen = output.routing.gate_BK.argmax(dim=1)
    assert len(set(chosen.tolist())) == 3  # the comparison covers every expert
    dense_BLH = torch.stack(every_expert, dim=1)[torch.arange(64), chosen]
    torch.testing.assert_close(output.prefix_BLH, dense_BLH, rtol=0, atol=1e-6)  # measured: 1.2e-7


def test_the_gate_scales_the_gradient_and_not_the_value():
    """Check that d prefix / d gate is prefix / gate for the chosen expert and 0 for the others (straight through)."""
    model = mformer()
    encoding_BNC, mask_BN = encodings(1)
    output = model(encoding_BNC, mask_BN)
    output.routing.gate_BK.retain_grad()
    weight_BLH = torch.randn(output.prefix_BLH.shape, generator=torch.Generator().manual_seed(2))
    (output.prefix_BLH * weight_BLH).sum().backward()
    chosen, gate = output.routing.expert_B[0], output.routing.gate_BK[0].detach()
    expected_K = torch.zeros(3)
    expected_K[chosen] = (output.prefix_BLH.detach() * weight_BLH).sum() / gate[chosen]
    torch.testing.assert_close(output.routing.gate_BK.grad[0], expected_K)


def test_padding_changes_neither_route_nor_prefix():
    model = mformer()
    encoding_BNC, mask_BN = encodings()
    with torch.no_grad():
        together = model(encoding_BNC, mask_BN)
        for row, length in enumerate(mask_BN.sum(dim=1).tolist()):
            alone = model(encoding_BNC[row : row + 1, :length], mask_BN[row : row + 1, :length])
            torch.testing.assert_close(alone.routing.gate_BK[0], together.routing.gate_BK[row])
            # measured: 2.4e-7
            torch.testing.assert_close(alone.prefix_BLH[0], together.prefix_BLH[row], rtol=0, atol=2e-6)


def test_bf16_products_keep_the_route_and_come_near_the_prefix():
    encoding_BNC, mask_BN = encodings()
    exact = mformer()(encoding_BNC, mask_BN)
    rounded = mformer(bf16=True)(encoding_BNC, mask_BN)
    assert torch.equal(exact.routing.gate_BK, rounded.routing.gate_BK)
    assert rounded.prefix_BLH.dtype == torch.float32
    assert 0 < (exact.prefix_BLH - rounded.prefix_BLH).abs().max() < 0.005  # measured: .0014 at values of .26


def test_one_expert_is_no_choice():
    encoding_BNC, mask_BN = encodings()
    assert set(mformer(1)(encoding_BNC, mask_BN).routing.expert_B.tolist()) == {0}


def test_several_experts_mix_by_their_gates():
    """Compare with `Σ g_j E_j / Σ g_j` over the k best, each expert run by itself; the denominator has no gradient."""
    model = mformer()
    encoding_BNC, mask_BN = encodings(16)
    output = model(encoding_BNC, mask_BN, top_k=2)
    gate_BK = output.routing.gate_BK
    worst = gate_BK.argmin(dim=1, keepdim=True)
    gate_BK = gate_BK.scatter(1, worst, 0.0)
    expected_BLH = torch.zeros_like(output.prefix_BLH)
    for expert, tokens_LD in enumerate(model.query_tokens):
        hidden_BLD = model.transformer(
            query_embeds=tokens_LD.expand(16, -1, -1),
            encoder_hidden_states=encoding_BNC,
            encoder_attention_mask=mask_BN,
        ).last_hidden_state
        weight_B = gate_BK[:, expert] / gate_BK.sum(dim=1).detach()
        expected_BLH = expected_BLH + weight_B[:, None, None] * model.projection(hidden_BLD)
    torch.testing.assert_close(output.prefix_BLH, expected_BLH, rtol=0, atol=1e-6)
    parameters = [model.router.score.weight, model.query_tokens]
    weight_BLH = torch.randn(output.prefix_BLH.shape, generator=torch.Generator().manual_seed(2))
    ours, theirs = (
        torch.autograd.grad((prefix_BLH * weight_BLH).sum(), parameters, retain_graph=True)  # they share the router's
        for prefix_BLH in (output.prefix_BLH, expected_BLH)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_without_straight_through_the_prefix_teaches_the_router_nothing():
    model = mformer()
    model.straight_through = False
    output = model(*encodings())
    (gradient,) = torch.autograd.grad(output.prefix_BLH.sum(), model.router.score.weight, allow_unused=True)
    assert gradient is None


def test_gradients_are_the_same_to_the_bit_each_time():
    """Let several rows share an expert, so that two threads add their gradients up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = mformer(2, num_virtual_tokens=256)
        encoding_BNC, mask_BN = encodings(64)
        found = [
            torch.autograd.grad(model(encoding_BNC, mask_BN).prefix_BLH.square().sum(), model.query_tokens)[0]
            for _ in range(8)
        ]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, found[0]) for gradient in found)


def test_without_gate_the_router_learns_from_the_load_balance_alone(tiny_llm):
    laser, config = build(tiny_llm, mformer__gate="none", training__load_balance_weight=0.0)
    _, moved = step(laser, config)
    assert moved == set(laser.trainable_parameters()) - {"mformer.router.score.weight"}
    laser, config = build(tiny_llm, mformer__gate="none")
    assert "mformer.router.score.weight" in step(laser, config)[1]


def test_several_experts_per_user_all_get_gradient(tiny_llm):
    laser, _ = build(tiny_llm, mformer__top_k=2)
    read(laser, batch(1)).representation_BH.sum().backward()
    per_expert_K = laser.mformer.query_tokens.grad.abs().amax(dim=(1, 2))
    assert (per_expert_K > 0).sum() == 2
    laser, config = build(tiny_llm, mformer__top_k=2)
    assert step(laser, config)[1] == set(laser.trainable_parameters())
