"""Artifacts are refused before anything is trained, where the LLM cannot read the prompts."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from laser.config.compose import with_overrides
from laser.errors import UserError
from laser.training.prepare import make_artifacts


def test_prompts_beyond_the_positions_are_refused_before_a_recommender_is_trained(experiment, tiny_llm, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    gpt2 = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=40)
    with torch.random.fork_rng():
        AutoModelForCausalLM.from_config(gpt2).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    config = with_overrides(experiment, {"llm.source": str(tmp_path / "llm"), "cache_dir": str(tmp_path / "cache")})
    with pytest.raises(
        UserError,
        match=r"prompt\.max_history_items: 3; the longest prompt takes \d+ tokens \(\d+ of text, 5 virtual\), and "
        r"the LLM has 40 positions; lower it, prompt\.max_item_tokens or mformer\.num_virtual_tokens",
    ):
        make_artifacts(config)
    assert not (tmp_path / "cache" / "recommenders").exists()
    short = with_overrides(config, {"prompt.max_history_items": 1, "bituning.prefix": "none"})
    assert make_artifacts(short).llm_content.startswith("folder:")


def test_prompts_of_just_as_many_tokens_as_positions_are_read(experiment, tiny_llm, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)

    def tried(positions: int) -> None:
        gpt2 = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=4, n_positions=positions)
        llm = tmp_path / str(positions)
        AutoModelForCausalLM.from_config(gpt2).save_pretrained(llm)
        tokenizer.save_pretrained(llm)
        make_artifacts(with_overrides(experiment, {"llm.source": str(llm), "bituning.prefix": "none"}))

    with pytest.raises(UserError, match=r"the longest prompt takes \d+ tokens") as refused:
        tried(16)
    longest = int(str(refused.value).split("takes ")[1].split()[0])
    tried(longest)
    with pytest.raises(UserError, match="the longest prompt takes"):
        tried(longest - 1)
