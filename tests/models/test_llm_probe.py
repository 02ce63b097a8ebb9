"""Every LLM is tried once: what does not read as a causal decoder over its own tokens is refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BloomConfig,
    ByT5Tokenizer,
    CLIPConfig,
    ElectraConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    ModernBertConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    T5Config,
)

from laser.config.schema import LLMConfig
from laser.errors import UserError
from laser.llm.loading import embedding_std, embedding_width, load_llm
from laser.models.llm_probe import max_positions, open_llm, probe_llm

ROWS = 304
SHAPE = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GPT2 = GPT2Config(vocab_size=ROWS, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0)
NARROW_OPT = OPTConfig(
    **{name: value for name, value in SHAPE.items() if name != "intermediate_size"},
    ffn_dim=64,
    word_embed_proj_dim=16,
    do_layer_norm_before=False,
)


@pytest.fixture
def save(tiny_llm: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write random weights of a configuration beside the tiny LLM's tokenizer."""

    def write(config: PretrainedConfig, factory=AutoModelForCausalLM) -> Path:
        directory = tmp_path / config.model_type
        with torch.random.fork_rng():
            torch.manual_seed(0)
            factory.from_config(config).save_pretrained(directory)
        AutoTokenizer.from_pretrained(tiny_llm).save_pretrained(directory)
        return directory

    return write


@pytest.fixture
def copy(tiny_llm: Path, tmp_path: Path) -> Path:
    """A copy of the tiny LLM to spoil."""
    return Path(shutil.copytree(tiny_llm, tmp_path / "copy"))


def reason(directory: Path) -> str:
    """Return why the LLM in a directory is refused, without the directory."""
    with pytest.raises(UserError) as refused:
        probe_llm(directory, LLMConfig(source=str(directory)))
    message = str(refused.value)
    assert message.startswith("llm.source: ") and "\n" not in message and "; " in message
    return message.replace(str(directory), "LLM")


@pytest.mark.parametrize(
    ("config", "factory"),
    [
        (Gemma3TextConfig(**SHAPE, head_dim=8, use_bidirectional_attention=True), AutoModelForCausalLM),
        (LlamaConfig(**SHAPE, is_causal=False), AutoModelForCausalLM),
        (BertConfig(**SHAPE), AutoModel),
        (ModernBertConfig(**SHAPE, cls_token_id=0, sep_token_id=0), AutoModel),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_what_reads_in_both_directions_is_refused(config, factory, save):
    found = reason(save(config, factory))
    assert f"LLM: {config.model_type}: what follows a text changes what it gives for the text, by " in found


@pytest.mark.parametrize(
    ("config", "factory", "why"),
    [
        (
            T5Config(vocab_size=ROWS, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4),
            AutoModelForSeq2SeqLM,
            "t5 is an encoder with a decoder; name a decoder",
        ),
        (
            ElectraConfig(**SHAPE, embedding_size=16),
            AutoModel,
            "it gives outputs of width 32 for embeddings of width 16",
        ),
        (
            CLIPConfig(
                text_config=SHAPE, vision_config={**SHAPE, "image_size": 32, "patch_size": 16}, projection_dim=8
            ),
            AutoModel,
            "it cannot be loaded (NotImplementedError: ",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_what_is_no_decoder_of_text_is_refused(config, factory, why, save):
    assert why in reason(save(config, factory))


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (GPT2, 64),
        (MambaConfig(vocab_size=ROWS, hidden_size=32, num_hidden_layers=2, state_size=4), None),
        (BloomConfig(vocab_size=ROWS, hidden_size=32, n_layer=2, n_head=4), None),
        (NARROW_OPT, 2048),
        (MixtralConfig(**SHAPE, num_key_value_heads=2, num_local_experts=4, max_position_embeddings=128), 128),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_other_causal_decoders_pass(config, positions, save):
    directory = save(config)
    probe_llm(directory, LLMConfig(source=str(directory)))
    assert max_positions(config) == positions


def test_the_width_is_that_of_the_embeddings(save):
    directory = save(NARROW_OPT)
    llm = load_llm(directory, torch.float32, LLMConfig(), torch.device("cpu"))
    assert embedding_width(llm) == 16 and llm.config.hidden_size == 32
    assert embedding_std(directory) == pytest.approx(0.02, rel=0.1)


def test_positions_of_scaled_rotations():
    def positions(**rotation: object) -> int | None:
        config = LlamaConfig(**SHAPE, max_position_embeddings=4096, rope_parameters={"rope_theta": 1e4, **rotation})
        return max_positions(config)

    assert positions(rope_type="default") == 4096
    assert positions(rope_type="yarn", factor=4.0, original_max_position_embeddings=4096) == 16384
    assert positions(rope_type="dynamic", factor=4.0) == 4096  # beyond, it depends on the longest text of the batch
    factors = {"long_factor": [2.0] * 4, "short_factor": [1.0] * 4, "original_max_position_embeddings": 64}
    assert positions(rope_type="longrope", **factors) == 64
    assert positions(rope_type="longrope", **factors | {"short_factor": [2.0] * 4}) == 4096
    phi3 = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [2.0] * 4, "short_factor": [1.0] * 4}
    config = Phi3Config(**SHAPE, original_max_position_embeddings=32, rope_parameters=phi3)
    assert max_positions(config) == 32


def test_a_tokenizer_must_be_there_whole_and_fast(copy):
    (copy / "tokenizer.json").rename(copy / "kept")
    assert "LLM has no tokenizer (tokenizer.json or" in reason(copy)
    (copy / "tokenizer.json").write_text("{}")
    assert "the tokenizer in LLM cannot be read (" in reason(copy)
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    ByT5Tokenizer().save_pretrained(copy)
    assert "LLM has no tokenizer" in reason(copy)


def test_a_tokenizer_of_another_model_is_refused(save, copy):
    small = save(LlamaConfig(**SHAPE | {"vocab_size": 200}))
    assert "the tokenizer in LLM knows tokens up to number 303, and the model has 200 embeddings; save" in reason(small)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = None
    tokenizer["model"] |= {"vocab": {"<|endoftext|>": 0, "<unk>": 1}, "merges": [], "unk_token": "<unk>"}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "the tokenizer in LLM gives English texts equal tokens or none; save" in reason(copy)


def test_a_special_token_without_an_embedding_is_no_obstacle(copy):
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})  # as Gemma 3 without vision has it
    tokenizer.save_pretrained(copy)
    assert len(tokenizer) == load_llm(copy, torch.float32, LLMConfig(), torch.device("cpu")).config.vocab_size + 1
    probe_llm(copy, LLMConfig(source=str(copy)))


@pytest.mark.parametrize("implementation", ["packed", "transformers"])
def test_weights_must_be_those_of_the_configuration(implementation, copy):
    settings = LLMConfig(source=str(copy), implementation=implementation)
    whole = load_file(copy / "model.safetensors")

    def refused(weights: dict[str, torch.Tensor], why: str) -> None:
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=why):
            probe_llm(copy, settings)

    name = "model.layers.1.mlp.up_proj.weight"
    refused({key: weight for key, weight in whole.items() if key != name}, r"lack the weight .*mlp\.(gate|up)_proj")
    bias = "model.layers.1.self_attn.q_proj.bias"
    refused({**whole, bias: torch.ones(32)}, r"holds model\.layers\.1\.self_attn\.q_proj\.bias, and the model of")
    refused({**whole, name: whole[name] * torch.nan}, r"llama: its outputs are not finite; name a causal decoder")
    refused({**whole, name: whole[name][:48]}, r"llama: it cannot be loaded \(")


def test_quantised_weights_and_adapters_are_refused(copy):
    (copy / "adapter_config.json").write_text("{}")
    assert "LLM holds an adapter (adapter_config.json); merge it into the model" in reason(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    assert "config.json has a quantization_config, and quantised safetensors are not read" in reason(copy)


def test_what_passed_is_not_tried_again_until_its_content_changes(copy, tmp_path):
    settings, cache = LLMConfig(source=str(copy)), tmp_path / "cache"
    first = open_llm(settings, cache)
    (noted,) = (cache / "llm" / "probes").glob("probe-*[!k]")
    before = noted.stat()
    assert open_llm(settings, cache) == first and noted.stat() == before
    weights = load_file(copy / "model.safetensors")
    name = "model.norm.weight"
    save_file({**weights, name: weights[name] * torch.nan}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="its outputs are not finite"):
        open_llm(settings, cache)
