"""Tests on a tiny LLM and on SmolLM2 that frozen weights stay, trainable ones move, and padding changes nothing."""

import torch

from laser.engine.plain import PlainEngine
from laser.engine.step import training_step
from laser.models.laser import Laser
from tiny.laser import CPU, alone, batch, build, catalogue, read


def test_the_llm_keeps_its_bits_and_everything_else_moves(tiny_llm):
    laser, config = build(tiny_llm)
    frozen = {name: weight.clone() for name, weight in laser.llm.state_dict().items()}
    before = {name: weight.detach().clone() for name, weight in laser.trainable_parameters().items()}
    engine = PlainEngine(laser, config.training, CPU)
    routes = set()
    for _ in range(3):
        routes |= set(read(laser, batch()).routing.expert_B.tolist())
        training_step(engine, [batch()], catalogue(laser), config.training, 1.0)
    assert routes == {0, 1, 2}  # else an expert would rightly rest
    for name, weight in laser.llm.state_dict().items():
        assert torch.equal(weight, frozen[name]), name
    assert all(parameter.grad is None for parameter in laser.llm.parameters())
    for name, weight in laser.trainable_parameters().items():
        assert not torch.equal(weight, before[name]), f"{name} did not move"


def test_variants_of_a_seed_start_from_the_same_suffix_and_head(tiny_llm):
    def weights(**variant: object) -> dict[str, torch.nn.Parameter]:
        return build(tiny_llm, head__width=8, **variant)[0].trainable_parameters()

    whole = weights()
    for part in (weights(mformer__num_experts=1), weights(bituning__prefix="free"), weights(bituning__prefix="none")):
        for name in ("bituning.suffix", "head.maps.0.weight"):
            assert torch.equal(part[name], whole[name]), name
    assert not torch.equal(weights(training__seed=1)["bituning.suffix"], whole["bituning.suffix"])


def test_prefix_suffix_router_experts_and_projection_get_gradient(tiny_llm):
    laser, _ = build(tiny_llm)
    output = read(laser, batch())
    (output.representation_BH * torch.randn(12, 32, generator=torch.Generator().manual_seed(5))).sum().backward()
    for name in ("bituning.suffix", "mformer.router.score.weight", "mformer.projection.weight", "mformer.query_tokens"):
        gradient = laser.get_parameter(name).grad
        assert gradient is not None and gradient.abs().max() > 1e-6, name
    assert (laser.mformer.query_tokens.grad.abs().amax(dim=(1, 2)) > 0).all()  # of every expert
    for name, parameter in laser.trainable_parameters().items():
        if not name.endswith("key.bias"):  # shifts all scores of a query alike, which the softmax takes out again
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_history_in_a_padded_batch_is_represented_as_it_is_alone(tiny_llm):
    check_alone_and_padded(build(tiny_llm)[0], atol=5e-6)  # measured: 6e-7 at values of 3


def test_a_history_in_a_padded_batch_is_represented_as_it_is_alone_by_smollm2(smollm2):
    check_alone_and_padded(build(smollm2, llm__num_layers=4)[0], atol=2e-4)  # measured: 3.1e-5 at values of 28


def check_alone_and_padded(laser: Laser, atol: float) -> None:
    whole = batch()
    with torch.no_grad():
        together_BH = read(laser, whole).representation_BH
        for row in range(12):
            alone_BH = read(laser, alone(whole, row)).representation_BH
            torch.testing.assert_close(alone_BH[0], together_BH[row], rtol=0, atol=atol)


def test_recomputing_activations_keeps_fewer_and_changes_no_gradient(tiny_llm):
    gradients, kept = [], []
    for recompute in (False, True):
        laser, _ = build(tiny_llm)
        if recompute:
            laser.enable_gradient_checkpointing()
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            representation_BH = read(laser, batch()).representation_BH
        representation_BH.square().sum().backward()
        gradients.append({name: weight.grad for name, weight in laser.trainable_parameters().items()})
        kept.append(sum(sizes))
    torch.testing.assert_close(*gradients)
    assert kept[1] < kept[0]


def test_an_llm_of_fewer_layers_is_its_first_blocks_and_the_final_norm(tiny_llm):
    cut, _ = build(tiny_llm, llm__num_layers=1)
    whole, _ = build(tiny_llm, llm__implementation="transformers")
    with torch.no_grad():
        cut_BH, whole_BH = (read(laser, batch()).representation_BH for laser in (cut, whole))
        whole.llm.layers = whole.llm.layers[:1]
        expected_BH = read(whole, batch()).representation_BH
    torch.testing.assert_close(cut_BH, expected_BH, rtol=0, atol=5e-6)
    assert (cut_BH - whole_BH).abs().max() > 0.1
