"""GGUF files are converted whole: the model computes what the original does, or the file is refused by name.

Each file is written from a model of `transformers`, as llama.cpp's converter writes it, and converted back.
"""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from laser.conversion.gguf import convert_gguf
from laser.conversion.source import resolve_llm
from laser.errors import UserError
from laser.llm.packed.architectures import why_not_packed
from laser.models.llm_probe import max_positions
from tiny.gguf import write_gguf

SHAPE = {
    "vocab_size": 304,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": True,
}
TOKENS = torch.arange(300)[None]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
Write = Callable[..., Path]


@pytest.fixture
def write(tiny_llm: Path, tmp_path: Path) -> Write:
    """Write a model of random weights, exact in bf16, as `<architecture>.gguf` in the test's folder."""

    def write_file(config: PretrainedConfig, architecture: str, change=None, tokenizer_keys=None) -> Path:
        return write_gguf(
            tmp_path / f"{architecture}.gguf", random_model(config), tiny_llm, architecture, change, tokenizer_keys
        )

    return write_file


def random_model(config: PretrainedConfig):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for weight in model.parameters():
            weight.data = (weight.data + 0.1 * torch.randn_like(weight)).bfloat16().float()
    return model.eval()


def test_a_file_is_parsed_once(write, tmp_path, monkeypatch):
    parsed = []

    class Reader(gguf.GGUFReader):
        def __init__(self, path, *mode):
            parsed.append(path)
            super().__init__(path, *mode)

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    file = write(LlamaConfig(**SHAPE), "llama")
    convert_gguf(file, tmp_path / "converted")
    assert parsed == [str(file)] and gguf.GGUFReader is Reader


def assert_converted(file: Path, config: PretrainedConfig) -> PretrainedConfig:
    """Convert the file, check that it computes what a model of the configuration does, and return what it became."""
    directory = file.with_suffix("")
    convert_gguf(file, directory)
    converted = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        ours, theirs = (model(TOKENS).logits for model in (converted, random_model(config)))
    # measured: 4e-6 of the largest value
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))
    return converted.config


def rotating(rotation: dict[str, object], base: float = 500_000.0, **changed: object) -> LlamaConfig:
    return LlamaConfig(**SHAPE | changed, rope_parameters={"rope_theta": base, **rotation})


def frequency_factors(config: LlamaConfig) -> np.ndarray:
    """What llama.cpp's converter writes to `rope_freqs.weight`: by how much each frequency is divided."""
    scaling, width = config.rope_parameters, config.hidden_size // config.num_attention_heads
    factors = []
    for step in range(0, width, 2):
        length = 2 * np.pi * scaling["rope_theta"] ** (step / width)
        cycles = scaling["original_max_position_embeddings"] / length
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        smooth = (cycles - low) / (high - low)
        whole = scaling["factor"]
        factors.append(whole if cycles < low else 1.0 if cycles > high else 1.0 / ((1 - smooth) / whole + smooth))
    return np.array(factors, dtype=np.float32)


@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (4.0, 256)])
def test_factors_of_frequencies_are_llama3s_scaling(write, factor, original):
    config = rotating({**LLAMA3, "factor": factor, "original_max_position_embeddings": original})
    factors = frequency_factors(config)
    assert 1.0 < np.sort(factors)[len(factors) // 2] or factor == 4.0

    def scaled(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_freq_base(500_000.0)
        writer.add_tensor("rope_freqs.weight", factors)

    found = assert_converted(write(config, "llama", scaled), config)
    assert found.rope_parameters == config.rope_parameters and why_not_packed(found) is None


def test_other_factors_of_frequencies_are_kept_as_they_are(write):
    factors = [1.0, 3.0, 2.0, 1.0, 5.0, 1.0, 1.0, 7.0]
    rotation = {"rope_type": "longrope", "long_factor": factors, "short_factor": factors, "attention_factor": 1.0}
    config = rotating({**rotation, "original_max_position_embeddings": 512}, base=10_000.0)
    tensor = np.array(factors, dtype=np.float32)
    assert_converted(write(config, "llama", lambda file: file.add_tensor("rope_freqs.weight", tensor)), config)


@pytest.mark.parametrize("legacy", [False, True])
def test_linear_scaling(write, legacy):
    def scaled(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_freq_base(500_000.0)
        if legacy:
            writer.add_float32("llama.rope.scale_linear", 8.0)
        else:
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(8.0)

    config = rotating({"rope_type": "linear", "factor": 8.0})
    assert assert_converted(write(config, "llama", scaled), config).rope_parameters == config.rope_parameters


def test_yarn_scaling(write):
    def scaled(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_freq_base(500_000.0)
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(128)

    config = rotating({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128})
    assert_converted(write(config, "llama", scaled), config)


def test_no_scaling_is_no_scaling(write):
    def plain(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_rope_dimension_count(16)
        writer.add_tensor("rope_freqs.weight", np.ones(8, dtype=np.float32))

    config = rotating({"rope_type": "default"}, base=10_000.0)
    assert assert_converted(write(config, "llama", plain), config).rope_parameters["rope_type"] == "default"


def test_wide_heads_untied_output_and_another_epsilon(write):
    def wide(writer: gguf.GGUFWriter) -> None:
        writer.add_key_length(32)
        writer.add_value_length(32)
        writer.add_rope_dimension_count(32)

    config = rotating({"rope_type": "default"}, 10_000.0, head_dim=32, rms_norm_eps=0.5, tie_word_embeddings=False)
    found = assert_converted(write(config, "llama", wide), config)
    assert not found.tie_word_embeddings and (found.head_dim, found.rms_norm_eps) == (32, 0.5)


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        (Qwen2Config(**SHAPE, rope_parameters={"rope_theta": 1e6, "rope_type": "default"}), "qwen2"),
        (Qwen3Config(**SHAPE, head_dim=32, rope_parameters={"rope_theta": 1e6, "rope_type": "default"}), "qwen3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_qwen(config, architecture, write):
    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_freq_base(1e6)
        if architecture == "qwen3":  # transformers reads 128 whatever the file says
            writer.add_key_length(32)
            writer.add_value_length(32)

    assert_converted(write(config, architecture, keys), config)


def test_phi3_keeps_its_factors_for_short_and_long_texts_and_its_window(write):
    long, short = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [1.0, 1.0, 1.0, 1.5, 1.0, 1.0, 1.0, 1.0]
    rotation = {"rope_type": "longrope", "rope_theta": 10_000.0, "long_factor": long, "short_factor": short}
    rotation |= {"attention_factor": 1.25, "original_max_position_embeddings": 64}
    config = Phi3Config(
        **SHAPE, pad_token_id=0, sliding_window=100, original_max_position_embeddings=64, rope_parameters=rotation
    )

    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_dimension_count(16)
        writer.add_rope_scaling_orig_ctx_len(64)
        writer.add_rope_scaling_attn_factors(1.25)
        writer.add_sliding_window(100)
        for name, factors in (("long", long), ("short", short)):
            writer.add_tensor(f"rope_factors_{name}.weight", np.array(factors, dtype=np.float32))

    found = assert_converted(write(config, "phi3", keys), config)
    assert max_positions(found) == 64


@pytest.mark.parametrize("architecture", ["gemma2", "starcoder2"])
def test_keys_that_transformers_passes_over(architecture, write):
    capped = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}
    config = {
        "gemma2": Gemma2Config(**SHAPE, head_dim=16, sliding_window=9, **capped),
        "starcoder2": Starcoder2Config(
            **SHAPE, norm_epsilon=1e-3, rope_parameters={"rope_type": "default", "rope_theta": 99_999.0}
        ),
    }[architecture]

    def keys(writer: gguf.GGUFWriter) -> None:
        if architecture == "starcoder2":
            writer.add_rope_freq_base(99_999.0)
            writer.add_layer_norm_eps(1e-3)
        else:
            writer.add_key_length(16)
            writer.add_value_length(16)
            writer.add_sliding_window(9)
            writer.add_attn_logit_softcapping(3.0)
            writer.add_final_logit_softcapping(2.0)

    assert_converted(write(config, architecture, keys), config)


def test_gemma3_scales_its_global_blocks_alone(write):
    rotation = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    types = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        **SHAPE, head_dim=16, query_pre_attn_scalar=16, sliding_window=9, layer_types=types, rope_parameters=rotation
    )

    def keys(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_freq_base(1e6)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)
        writer.add_key_length(16)
        writer.add_value_length(16)
        writer.add_sliding_window(9)
        writer.add_array("gemma3.attention.sliding_window_pattern", [True, False])

    # Its scale of the scores, 256 by default, has no key; llama.cpp takes the width of a head.
    assert_converted(write(config, "gemma3", keys), config)


def add(suffix: str, value: object) -> Callable[[gguf.GGUFWriter], None]:
    kinds = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string", list: "add_array"}
    return lambda writer: getattr(writer, kinds[type(value)])(f"llama.{suffix}", value)


@pytest.mark.parametrize(
    ("suffix", "value"),
    [
        ("attention.causal", False),
        ("attention.sliding_window", 64),
        ("attention.scale", 0.5),
        ("attention.clamp_kqv", 8.0),
        ("attention.max_alibi_bias", 8.0),
        ("attn_logit_softcapping", 50.0),
        ("embedding_scale", 12.0),
        ("residual_scale", 0.2),
        ("expert_count", 8),
        ("rope.dimension_count", 8),
        ("rope.dimension_sections", [2, 3, 3, 0]),
        ("rope.scaling.type", "su"),
        ("attention.value_length", 8),
        ("attention.head_count_kv", [1, 2]),
        ("something.new", 3),
    ],
)
def test_a_key_that_would_be_lost_is_refused_by_name(suffix, value, write, tmp_path):
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0].pop(f"llama.{suffix}", None)
        if suffix == "rope.dimension_count":
            writer.add_key_length(16)
        add(suffix, value)(writer)

    file = write(rotating({"rope_type": "default"}), "llama", change)
    with pytest.raises(
        UserError, match=rf"llama\.gguf: llama\.{suffix} = .* changes what the model computes, .*; name"
    ):
        convert_gguf(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("suffix", "value"),
    [
        ("attention.causal", True),
        ("attention.sliding_window", 512),
        ("attn_logit_softcapping", 0.0),
        ("expert_count", 0),
        ("tensor_data_layout", "Meta AI original pth"),
        ("pooling_type", 3),
    ],
)
def test_a_key_without_effect_is_no_obstacle(suffix, value, write):
    config = rotating({"rope_type": "default"}, base=10_000.0)
    assert_converted(write(config, "llama", add(suffix, value)), config)


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.1.attn_sub_norm.weight", "blk.0.ffn_gate_exps.weight"])
def test_a_tensor_that_would_be_lost_is_refused_by_name(name, write, tmp_path):
    tensor = np.ones(32, dtype=np.float32)
    file = write(rotating({"rope_type": "default"}), "llama", lambda writer: writer.add_tensor(name, tensor))
    with pytest.raises(UserError, match=rf"the tensor {name} changes what the model computes, and is not converted; "):
        convert_gguf(file, tmp_path / "out")


def test_a_lacking_tensor_is_refused_by_name(write, tmp_path):
    file = write(rotating({"rope_type": "default"}), "llama")
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"blk.1.ffn_up.weight", b"blk.9.ffn_up.weight"))
    with pytest.raises(UserError, match=r"lacks the weight model\.layers\.1\.mlp\.up_proj\.weight of llama; check"):
        convert_gguf(file, tmp_path / "out")


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"pre": "a-new-one"}, r"tokenizer\.ggml\.pre = a-new-one"),
        ({"model": "llama", "add_space_prefix": False}, r"tokenizer\.ggml\.add_space_prefix = False"),
        ({"model": "plamo2"}, r"could not be read as GGUF \(Cannot build a tokenizer .*plamo2"),
    ],
)
def test_a_tokenizer_that_would_split_otherwise_is_refused(keys, named, write, tmp_path):
    file = write(rotating({"rope_type": "default"}), "llama", tokenizer_keys=keys)
    with pytest.raises(UserError, match=named):
        convert_gguf(file, tmp_path / "out")


def test_a_file_is_converted_once_for_each_content_and_its_tokenizer_comes_with_it(write, tiny_llm, tmp_path):
    config, cache = rotating({"rope_type": "default"}, base=10_000.0), tmp_path / "cache"
    file = write(config, "llama")
    first = resolve_llm(str(file), cache)
    assert resolve_llm(str(file), cache) == first and first.name.endswith("-v2")
    ours, theirs = (AutoTokenizer.from_pretrained(place) for place in (first, tiny_llm))
    text = ">> 1. Title (brand: a, category: b)"
    assert ours(text, add_special_tokens=False)["input_ids"] == theirs(text, add_special_tokens=False)["input_ids"]
    write(config, "llama", add("rope.freq_base", 77.0))
    assert resolve_llm(str(file), cache) != first


def test_what_is_no_gguf_is_refused_in_one_line(tmp_path):
    (tmp_path / "llm.gguf").write_bytes(b"GGUF but no more")
    with pytest.raises(UserError, match=r"llm\.gguf could not be read as GGUF \(.*\); check the file"):
        resolve_llm(str(tmp_path / "llm.gguf"), tmp_path / "cache")
