"""Tests which weights move with each prefix and representation, and compares with a plain pass of one history."""

import pytest
import torch

from laser.models.bituning import BiTuning
from tiny.laser import LENGTH, WIDTH, batch, build, read, step, text


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
        llm__implementation=implementation,
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
    """Table 3 of the paper has 0.135 M at L = 32, H = 4096."""
    plain = BiTuning(4096, 0.1, num_prefix_tokens=32)
    assert sum(p.numel() for p in plain.parameters()) == 33 * 4096 == 135_168
    assert abs(float(plain.prefix.detach().std()) - 0.1) < 0.001


@pytest.mark.parametrize("representation", ["mean", "eos"])
def test_representations_equal_a_plain_pass_of_one_history(tiny_llm, representation):
    """Compare with a pass of each unpadded history by itself, computed with `transformers` alone."""
    overrides = {"recommender__type": "none", "bituning__prefix": "free", "bituning__representation": representation}
    laser, _ = build(tiny_llm, **overrides)
    reference, _ = build(tiny_llm, llm__implementation="transformers", **overrides)
    whole = batch(width=0)
    together_BH, padded_BH = (read(model, whole).representation_BH for model in (laser, reference))
    for row in range(12):
        ids_T = text(whole, row)
        if representation == "eos":
            ids_T = torch.cat([ids_T, torch.tensor([reference.llm.config.eos_token_id])])
        text_TH = reference.llm.get_input_embeddings()(ids_T)
        sequence = torch.cat([reference.bituning.prefix, text_TH])
        hidden_TH = reference.llm(inputs_embeds=sequence[None]).last_hidden_state[0, LENGTH:]
        expected_H = hidden_TH.mean(dim=0) if representation == "mean" else hidden_TH[-1]
        for representation_BH in (together_BH, padded_BH):
            torch.testing.assert_close(representation_BH[row], expected_H, rtol=0, atol=1e-5)  # measured: 1e-6
