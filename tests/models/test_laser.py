"""What is frozen stays frozen, what is trainable trains, and padding is invisible: on a tiny LLM and on SmolLM2."""

from pathlib import Path

import pytest
import torch

from laser.config.compose import with_overrides
from laser.config.schema import Experiment, LLMConfig, MFormerConfig, TrainingConfig
from laser.engine.base import Batch
from laser.engine.plain import PlainEngine
from laser.models.laser import Laser, build_laser
from laser.models.llm import load_llm
from laser.training.step import training_step

CPU = torch.device("cpu")
CONFIG = Experiment(
    mformer=MFormerConfig(num_experts=3, num_virtual_tokens=4, num_layers=2, hidden_size=32, num_heads=4),
    training=TrainingConfig(learning_rate=1e-2, batch_size=12, micro_batch_size=12),
)


def build(llm_directory: Path, num_layers: int | None = None, config: Experiment = CONFIG) -> Laser:
    llm = load_llm(llm_directory, torch.float32, LLMConfig(compile=False, num_layers=num_layers), CPU)
    return build_laser(config, llm, recommender_width=8, embedding_std=0.1)


def batch(size: int = 12, items: int = 20) -> Batch:
    generator = torch.Generator().manual_seed(3)
    lengths_B = torch.randint(1, 30, (size,), generator=generator)
    num_items_B = torch.randint(1, 6, (size,), generator=generator)
    mask_BT = torch.arange(30) < lengths_B[:, None]
    return Batch(
        token_ids_BT=torch.randint(1, 250, (size, 30), generator=generator) * mask_BT,
        token_mask_BT=mask_BT,
        encoding_BNC=3 * torch.randn(size, 5, 8, generator=generator),
        encoding_mask_BN=torch.arange(5) < num_items_B[:, None],
        targets_B=torch.randint(0, items, (size,), generator=generator),
        weights_B=torch.ones(size),
        num_tokens=int(mask_BT.sum()),
    )


def catalogue(laser: Laser, items: int = 20) -> torch.Tensor:
    return torch.randn(items, laser.llm_width, generator=torch.Generator().manual_seed(4))


def test_the_llm_keeps_its_bits_and_everything_else_moves(tiny_llm):
    laser = build(tiny_llm)
    frozen = {name: weight.clone() for name, weight in laser.llm.state_dict().items()}
    before = {name: weight.detach().clone() for name, weight in laser.trainable_parameters().items()}
    engine = PlainEngine(laser, CONFIG.training, CPU)
    routes = set()
    for _ in range(3):
        routes |= set(laser(*inputs(batch())).routing.expert_B.tolist())
        training_step(engine, [batch()], catalogue(laser), CONFIG.training, 1.0)
    assert routes == {0, 1, 2}  # else an expert would rightly rest
    for name, weight in laser.llm.state_dict().items():
        assert torch.equal(weight, frozen[name]), name
    assert all(parameter.grad is None for parameter in laser.llm.parameters())
    for name, weight in laser.trainable_parameters().items():
        assert not torch.equal(weight, before[name]), f"{name} did not move"


def test_variants_of_a_seed_start_from_the_same_suffix_and_head(tiny_llm):
    config = with_overrides(CONFIG, {"head.width": 8})
    variants = ({}, {"mformer.num_experts": 1}, {"bituning.prefix": "free"}, {"bituning.prefix": "none"})
    built = [build(tiny_llm, config=with_overrides(config, variant)).trainable_parameters() for variant in variants]
    for weights in built[1:]:
        for name in ("bituning.suffix", "head.maps.0.weight"):
            assert torch.equal(weights[name], built[0][name]), name
    other = build(tiny_llm, config=with_overrides(config, {"training.seed": 1})).trainable_parameters()
    assert not torch.equal(other["bituning.suffix"], built[0]["bituning.suffix"])


def test_prefix_suffix_router_experts_and_projection_get_gradient(tiny_llm):
    laser = build(tiny_llm)
    output = laser(*inputs(batch()))
    (output.representation_BH * torch.randn(12, 32, generator=torch.Generator().manual_seed(5))).sum().backward()
    for name in ("bituning.suffix", "mformer.router.score.weight", "mformer.projection.weight", "mformer.query_tokens"):
        gradient = laser.get_parameter(name).grad
        assert gradient is not None and gradient.abs().max() > 1e-6, name
    assert (laser.mformer.query_tokens.grad.abs().amax(dim=(1, 2)) > 0).all()  # of every expert
    for name, parameter in laser.trainable_parameters().items():
        if not name.endswith("key.bias"):  # shifts all scores of a query alike, which the softmax takes out again
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_history_in_a_padded_batch_is_represented_as_it_is_alone(tiny_llm):
    compare_alone_and_padded(build(tiny_llm), atol=5e-6)  # measured: 6e-7 at values of 3


def test_a_history_in_a_padded_batch_is_represented_as_it_is_alone_by_smollm2(smollm2):
    compare_alone_and_padded(build(smollm2, num_layers=4), atol=2e-4)  # measured: 3.1e-5 at values of 28


def compare_alone_and_padded(laser: Laser, atol: float) -> None:
    whole = batch()
    with torch.no_grad():
        together_BH = laser(*inputs(whole)).representation_BH
        for row in range(12):
            tokens, items = int(whole.token_mask_BT[row].sum()), int(whole.encoding_mask_BN[row].sum())
            alone_BH = laser(
                whole.token_ids_BT[row : row + 1, :tokens],
                whole.token_mask_BT[row : row + 1, :tokens],
                whole.encoding_BNC[row : row + 1, :items],
                whole.encoding_mask_BN[row : row + 1, :items],
            ).representation_BH
            torch.testing.assert_close(alone_BH[0], together_BH[row], rtol=0, atol=atol)


def test_recomputing_activations_changes_no_gradient(tiny_llm):
    gradients = []
    for recompute in (False, True):
        laser = build(tiny_llm)
        if recompute:
            laser.enable_gradient_checkpointing()
        laser(*inputs(batch())).representation_BH.square().sum().backward()
        gradients.append(laser.bituning.suffix.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_depth_is_a_setting(tiny_llm, num_layers):
    assert len(build(tiny_llm, num_layers).llm.layers) == num_layers


def inputs(whole: Batch) -> tuple[torch.Tensor, ...]:
    return whole.token_ids_BT, whole.token_mask_BT, whole.encoding_BNC, whole.encoding_mask_BN
