"""The packed Llama against transformers' own: the same representations and gradients, without padding."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from laser.config.schema import LLMConfig
from laser.errors import UserError
from laser.models.bituning import BiTuning
from laser.models.llm import empty_llm, llm_config, load_llm
from laser.models.packed import fused
from laser.models.packed.attention import Packing, attend_by_kernel, attend_by_products
from laser.models.packed.decoder import PackedLlama

CPU = torch.device("cpu")
LENGTHS = (9, 1, 30, 17)


def both(directory: Path, num_layers: int | None = None):
    """The packed and the padded decoder of the same weights, float32."""
    for implementation in ("packed", "transformers"):
        settings = LLMConfig(implementation=implementation, compile=False, num_layers=num_layers)
        yield load_llm(directory, torch.float32, settings, CPU)


def read(llm, directory_width: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Representations of four histories, and the gradients of prefix and suffix."""
    generator = torch.Generator().manual_seed(1)
    mask_BT = torch.arange(30) < torch.tensor(LENGTHS)[:, None]
    ids_BT = torch.randint(1, 250, (4, 30), generator=generator) * mask_BT
    prefix_BLH = (scale * torch.randn(4, 5, directory_width, generator=generator)).requires_grad_()
    torch.manual_seed(2)
    bituning = BiTuning(directory_width, scale)
    representation_BH = bituning(llm, prefix_BLH, ids_BT, mask_BT)
    weight_BH = torch.randn(representation_BH.shape, generator=generator)
    (representation_BH * weight_BH).sum().backward()
    return representation_BH.detach(), prefix_BLH.grad, bituning.suffix.grad


def test_packed_equals_transformers_on_a_tiny_llama(tiny_llm):
    packed, padded = (read(llm, 32, 0.1) for llm in both(tiny_llm))
    for ours, theirs in zip(packed, padded, strict=True):
        # measured, of the largest value: 7e-7
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_packed_equals_transformers_on_smollm2(smollm2):
    packed, padded = (read(llm, 576, 0.136) for llm in both(smollm2, num_layers=4))
    for ours, theirs in zip(packed, padded, strict=True):
        # measured, of the largest value: 2e-6
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_a_llama_is_packed_unless_one_asks_otherwise(tiny_llm):
    packed, padded = both(tiny_llm)
    assert isinstance(load_llm(tiny_llm, torch.float32, LLMConfig(), CPU), PackedLlama)
    assert isinstance(packed, PackedLlama) and not isinstance(padded, PackedLlama)
    assert sum(p.numel() for p in packed.parameters()) == sum(p.numel() for p in padded.parameters())


def test_other_architectures_are_not_packed(tiny_llm):
    config = llm_config(tiny_llm, None)
    config.attention_bias = True
    with pytest.raises(UserError, match=r"llm\.implementation: packed is for Llamas without biases"):
        empty_llm(config, torch.float32, LLMConfig(implementation="packed"))
    assert not isinstance(empty_llm(config, torch.float32, LLMConfig()), PackedLlama)


def test_the_trimmed_last_block_equals_the_whole_one(tiny_llm):
    llm, _ = both(tiny_llm)
    packing = Packing.of(torch.tensor(LENGTHS))
    x_PH = torch.randn(sum(LENGTHS), 32, generator=torch.Generator().manual_seed(3))
    rotations = llm.rotations(x_PH, packing)
    whole_PH = llm.layers[0](x_PH, packing, *rotations, False)
    last_BH = llm.layers[0](x_PH, packing, *rotations, True)
    torch.testing.assert_close(last_BH, whole_PH[packing.last_B], rtol=0, atol=1e-5)


def heads(*counts: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(sum(ATTENDED), count, 8, generator=generator) for count in counts]


ATTENDED = (300, 5, 5, 5, 1, 130)
"""More than two chunks of queries, neighbours of equal length, and one token alone."""


def reference_attention(query, key, value, cu_q, cu_k, max_q, max_k, *, window_size, enable_gqa) -> Tensor:
    """What torch's variable-length kernel for GPUs computes, one sequence after the other."""
    assert enable_gqa and query.shape[1] % key.shape[1] == 0
    outputs = []
    for number in range(len(cu_q) - 1):
        q = query[cu_q[number] : cu_q[number + 1]].transpose(0, 1)
        k, v = (x[cu_k[number] : cu_k[number + 1]].transpose(0, 1) for x in (key, value))
        assert q.shape[1] <= max_q and k.shape[1] <= max_k
        causal = window_size == (-1, 0)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
        outputs.append(out.transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("last", [False, True])
def test_attention_by_products_equals_the_kernels(last, monkeypatch):
    """On a GPU torch's kernel attends; here its definition stands for it, so that the call is checked too."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference_attention)
    packing = Packing.of(torch.tensor(ATTENDED))
    results = []
    for attend in (attend_by_kernel, attend_by_products):
        query, key, value = (x.requires_grad_() for x in heads(6, 2, 2))
        out = attend(query[packing.last_B] if last else query, key, value, packing, last)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        results.append((out, query.grad, key.grad, value.grad))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)  # measured: 1.2e-5 at values of 13


def test_recomputation_changes_nothing(tiny_llm):
    llm, _ = both(tiny_llm)
    plain = read(llm, 32, 0.1)
    llm.gradient_checkpointing_enable()
    for ours, theirs in zip(read(llm, 32, 0.1), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def kernel_arguments() -> dict[str, tuple]:
    generator = torch.Generator().manual_seed(4)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    x_PH, weight_H = random(7, 12), random(12)
    scale_P1 = fused.rms_norm(x_PH, weight_H, 1e-5)[1]
    return {
        "rms_norm": (x_PH, weight_H, 1e-5),
        "rms_norm_backward": (random(7, 12), x_PH, weight_H, scale_P1, random(7, 12)),
        "rotate": (random(7, 5, 8), random(7, 4), random(7, 4), 4),
        "swiglu": (random(7, 12),),
        "swiglu_backward": (random(7, 6), random(7, 12)),
    }


@pytest.mark.parametrize("name", fused.EAGER._fields)
def test_compiled_equals_eager(name):
    arguments = [a.float() if isinstance(a, Tensor) else a for a in kernel_arguments()[name]]
    compiled, eager = getattr(fused.compiled(), name)(*arguments), getattr(fused.EAGER, name)(*arguments)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)


def test_backward_passes_by_hand_equal_autograd():
    arguments = {name: [a.float() if isinstance(a, Tensor) else a for a in given]
                 for name, given in kernel_arguments().items()}  # fmt: skip
    gradient_PH, x_PH, weight_H, scale_P1, residual_PH = arguments["rms_norm_backward"]
    x_PH.requires_grad_()
    (fused.rms_norm(x_PH, weight_H, 1e-5)[0] * gradient_PH).sum().backward()
    ours = fused.rms_norm_backward(gradient_PH, x_PH.detach(), weight_H, scale_P1, residual_PH)
    torch.testing.assert_close(ours, x_PH.grad + residual_PH, rtol=1e-5, atol=1e-5)
    gradient_PM, gate_up_PM = arguments["swiglu_backward"]
    gate_up_PM.requires_grad_()
    (fused.swiglu(gate_up_PM) * gradient_PM).sum().backward()
    torch.testing.assert_close(
        fused.swiglu_backward(gradient_PM, gate_up_PM.detach()), gate_up_PM.grad, rtol=1e-5, atol=1e-5
    )
    x_PNE, cos_PE, sin_PE, rotated = arguments["rotate"]
    x_PNE.requires_grad_()
    gradient_PNE = torch.randn(x_PNE.shape, generator=torch.Generator().manual_seed(5))
    (fused.rotate(x_PNE, cos_PE, sin_PE, rotated) * gradient_PNE).sum().backward()
    torch.testing.assert_close(fused.rotate(gradient_PNE, cos_PE, -sin_PE, rotated), x_PNE.grad)
