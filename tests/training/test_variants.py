"""Each variant of the model and of the training takes a real step: the right weights move, and only these."""

from pathlib import Path

import pytest
import torch

from laser.config.compose import validate, with_overrides
from laser.config.errors import UserError
from laser.config.schema import Experiment, LLMConfig, MFormerConfig, TrainingConfig
from laser.models.laser import Laser, build_laser
from laser.models.llm import load_llm
from laser.training.engine import Batch, PlainEngine
from laser.training.step import StepResult, training_step

CPU = torch.device("cpu")
WIDTH, LENGTH = 32, 4
BASE = Experiment(
    mformer=MFormerConfig(num_experts=3, num_virtual_tokens=LENGTH, num_layers=2, hidden_size=32, num_heads=4),
    training=TrainingConfig(learning_rate=1e-2, batch_size=12),
)


def build(llm_directory: Path, implementation: str = "packed", **overrides: object) -> tuple[Laser, Experiment]:
    config = with_overrides(BASE, {name.replace("__", "."): value for name, value in overrides.items()})
    settings = LLMConfig.model_validate({"implementation": implementation, "compile": False})
    llm = load_llm(llm_directory, torch.float32, settings, CPU)
    return build_laser(config, llm, recommender_width=8, embedding_std=0.1), config


def batch(size: int = 12, width: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(3)
    lengths_B = torch.randint(1, 30, (size,), generator=generator)
    mask_BT = torch.arange(30) < lengths_B[:, None]
    return Batch(
        token_ids_BT=torch.randint(1, 250, (size, 30), generator=generator) * mask_BT,
        token_mask_BT=mask_BT,
        encoding_BNC=3 * torch.randn(size, 5, width, generator=generator),
        encoding_mask_BN=torch.arange(5) < torch.randint(1, 6, (size, 1), generator=generator),
        targets_B=torch.randint(0, 20, (size,), generator=generator),
        weights_B=torch.ones(size),
        num_tokens=int(mask_BT.sum()),
    )


def step(laser: Laser, config: Experiment, width: int = 8) -> tuple[StepResult, set[str]]:
    """One step over a batch of 12; the names of the weights that moved. The LLM keeps its bits."""
    before = {name: weight.clone() for name, weight in laser.state_dict().items()}
    items_IH = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(4))
    engine = PlainEngine(laser, config.training, CPU)
    result = training_step(engine, [batch(width=width)], items_IH, config.training, 1.0)
    moved = {name for name, weight in laser.state_dict().items() if not torch.equal(weight, before[name])}
    assert torch.isfinite(torch.tensor(result.contrastive))
    assert not [name for name in moved if name.startswith("llm.")]
    assert all(parameter.grad is None for parameter in laser.llm.parameters())
    return result, moved


@pytest.mark.parametrize("implementation", ["packed", "transformers"])
@pytest.mark.parametrize(
    ("prefix", "representation", "trained"),
    [
        ("free", "suffix", {"bituning.prefix": LENGTH * WIDTH, "bituning.suffix": WIDTH}),
        ("free", "mean", {"bituning.prefix": LENGTH * WIDTH}),
        ("free", "eos", {"bituning.prefix": LENGTH * WIDTH}),
        ("none", "suffix", {"bituning.suffix": WIDTH}),
    ],
)
def test_without_mformer_the_virtual_tokens_alone_are_trained(
    tiny_llm, implementation, prefix, representation, trained
):
    laser, config = build(
        tiny_llm,
        implementation,
        recommender__type="none",
        bituning__prefix=prefix,
        bituning__representation=representation,
    )
    assert {name: p.numel() for name, p in laser.trainable_parameters().items()} == trained
    result, moved = step(laser, config, width=0)
    assert moved == set(trained)
    assert result.load_balance == 0 and len(result.expert_counts_K) == 0


@pytest.mark.parametrize("representation", ["mean", "eos"])
def test_other_representations_have_no_suffix_and_train_the_mformer(tiny_llm, representation):
    laser, config = build(tiny_llm, bituning__representation=representation)
    result, moved = step(laser, config)
    assert moved == set(laser.trainable_parameters())
    assert moved and all(name.startswith("mformer.") for name in moved)
    assert result.expert_counts_K.sum() == 12


def test_plain_bi_tuning_has_the_papers_number_of_parameters():
    """Table 3: 0.135 M at L = 32, H = 4096."""
    from laser.models.bituning import BiTuning

    plain = BiTuning(4096, 0.1, num_prefix_tokens=32)
    assert sum(p.numel() for p in plain.parameters()) == 33 * 4096 == 135_168
    assert abs(float(plain.prefix.detach().std()) - 0.1) < 0.001


@pytest.mark.parametrize("representation", ["mean", "eos"])
def test_representations_equal_a_plain_pass_of_one_history(tiny_llm, representation):
    """By `transformers` alone, unpadded: what stands where, and what is read."""
    overrides = {"recommender__type": "none", "bituning__prefix": "free", "bituning__representation": representation}
    laser, _ = build(tiny_llm, **overrides)
    reference, _ = build(tiny_llm, "transformers", **overrides)
    whole = batch(width=0)
    inputs = (whole.token_ids_BT, whole.token_mask_BT, whole.encoding_BNC, whole.encoding_mask_BN)
    together_BH, padded_BH = (model(*inputs).representation_BH for model in (laser, reference))
    for row in range(12):
        ids_T = whole.token_ids_BT[row][whole.token_mask_BT[row]]
        if representation == "eos":
            ids_T = torch.cat([ids_T, torch.tensor([reference.llm.config.eos_token_id])])
        text_TH = reference.llm.get_input_embeddings()(ids_T)
        sequence = torch.cat([reference.bituning.prefix, text_TH])
        hidden_TH = reference.llm(inputs_embeds=sequence[None]).last_hidden_state[0, LENGTH:]
        expected_H = hidden_TH.mean(dim=0) if representation == "mean" else hidden_TH[-1]
        for representation_BH in (together_BH, padded_BH):
            torch.testing.assert_close(representation_BH[row], expected_H, rtol=0, atol=1e-5)  # measured: 1e-6


def test_without_gate_the_router_learns_from_the_load_balance_alone(tiny_llm):
    laser, config = build(tiny_llm, mformer__gate="none", training__load_balance_weight=0.0)
    _, moved = step(laser, config)
    assert moved == set(laser.trainable_parameters()) - {"mformer.router.score.weight"}
    laser, config = build(tiny_llm, mformer__gate="none")
    assert "mformer.router.score.weight" in step(laser, config)[1]


def test_several_experts_per_user_all_get_gradient(tiny_llm):
    laser, config = build(tiny_llm, mformer__top_k=2)
    whole = batch(1)
    laser(whole.token_ids_BT, whole.token_mask_BT, whole.encoding_BNC, whole.encoding_mask_BN)[0].sum().backward()
    per_expert_K = laser.mformer.query_tokens.grad.abs().amax(dim=(1, 2))
    assert (per_expert_K > 0).sum() == 2
    laser, config = build(tiny_llm, mformer__top_k=2)
    assert step(laser, config)[1] == set(laser.trainable_parameters())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"recommender": {"type": "none"}}, 'recommender.type: "none"; the M-Former and head.collaborative read'),
        (
            {"bituning": {"prefix": "none", "representation": "eos"}},
            'bituning.representation: "eos"; without prefix and suffix nothing is left to train',
        ),
        ({"recommender": {"type": "none", "seed": 1}}, "recommender.seed: not a setting of the chosen"),
        ({"mformer": {"num_experts": 2, "top_k": 3}}, "mformer: .*top_k 3 is more than num_experts 2; lower it"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_in_one_line(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        validate(Experiment, settings)
