"""Compares parts of the packed decoder with torch, and the real packed SmolLM2 with `transformers`' own decoder."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from laser.config.schema import LLMConfig
from laser.llm.loading import load_llm
from laser.llm.packed import fused
from laser.llm.packed.attention import CAUSAL, Packing, Scoring, attend_by_kernel, attend_by_products
from laser.llm.packed.decoder import PackedDecoder
from laser.llm.packed.torch_private import compile_for_row_shape, softmax_backward
from laser.models.bituning import BiTuning

CPU = torch.device("cpu")
LENGTHS = (9, 1, 30, 17)


def both(directory: Path, num_layers: int | None = None):
    """Return the packed and the padded decoder with the same weights, float32."""
    for implementation in ("packed", "transformers"):
        settings = LLMConfig(implementation=implementation, compile=False, num_layers=num_layers)
        yield load_llm(directory, torch.float32, settings, CPU)


def read(llm, directory_width: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return representations of four histories, and the gradients of prefix and suffix."""
    generator = torch.Generator().manual_seed(1)
    mask_BT = torch.arange(30) < torch.tensor(LENGTHS)[:, None]
    ids_Q = torch.randint(1, 250, (4, 30), generator=generator)[mask_BT]
    prefix_BLH = (scale * torch.randn(4, 5, directory_width, generator=generator)).requires_grad_()
    torch.manual_seed(2)
    bituning = BiTuning(directory_width, scale)
    representation_BH = bituning(llm, prefix_BLH, ids_Q, torch.tensor(LENGTHS))
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
    assert isinstance(load_llm(tiny_llm, torch.float32, LLMConfig(), CPU), PackedDecoder)
    assert isinstance(packed, PackedDecoder) and not isinstance(padded, PackedDecoder)
    assert sum(p.numel() for p in packed.parameters()) == sum(p.numel() for p in padded.parameters())


def heads(*counts: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(sum(ATTENDED), count, 8, generator=generator) for count in counts]


ATTENDED = (300, 5, 5, 5, 1, 130)
"""Lengths with more than two chunks of queries, neighbours of equal length, and a single token."""


def reference_attention(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa) -> Tensor:
    """Compute what torch's variable-length kernel for GPUs computes, one sequence after the other."""
    assert enable_gqa and query.shape[1] % key.shape[1] == 0
    outputs = []
    for number in range(len(cu_q) - 1):
        q = query[cu_q[number] : cu_q[number + 1]].transpose(0, 1)
        k, v = (x[cu_k[number] : cu_k[number + 1]].transpose(0, 1) for x in (key, value))
        assert q.shape[1] <= max_q and k.shape[1] <= max_k
        before, after = (max_k if size == -1 else size for size in window_size)
        position_Q = torch.arange(k.shape[1])[-q.shape[1] :, None]  # the last query stands at the last key
        position_K = torch.arange(k.shape[1])
        mask_QK = (position_K >= position_Q - before) & (position_K <= position_Q + after)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask_QK, scale=scale, enable_gqa=True)
        outputs.append(out.transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("scoring", [CAUSAL, *(Scoring(window, 0.2) for window in (1, 2, 60, 128, 129, 200, 1000))])
def test_attention_by_products_equals_the_kernels(scoring, last, monkeypatch):
    """Compare with the call of torch's GPU kernel, in whose place `reference_attention` runs here."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference_attention)
    packing = Packing.of(torch.tensor(ATTENDED))
    results = []
    for attend in (attend_by_kernel, attend_by_products):
        query, key, value = (x.requires_grad_() for x in heads(6, 2, 2))
        out = attend(query[packing.last_B] if last else query, key, value, packing, last, scoring)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        results.append((out, query.grad, key.grad, value.grad))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)  # measured: 1.2e-5 at values of 13


def test_torchs_private_softmax_backward_equals_autograd():
    generator = torch.Generator().manual_seed(7)
    scores = torch.randn(3, 5, 7, generator=generator, requires_grad=True)
    gradient = torch.randn(3, 5, 7, generator=generator)
    probability = scores.softmax(dim=-1)
    probability.backward(gradient)
    torch.testing.assert_close(softmax_backward(gradient, probability.detach()), scores.grad, rtol=0, atol=1e-6)


def kernel_arguments() -> dict[str, tuple]:
    """Return arguments of each elementwise function, float32."""
    generator = torch.Generator().manual_seed(4)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).float()

    x_PH, weight_H = random(7, 12), random(12)
    heads, weight_RE, cos_PE, sin_PE = random(7, 5, 8), random(4, 8), random(7, 4), random(7, 4)
    scale_P1 = fused.rms_norm(x_PH, weight_H, 1e-5)[1]
    scale_PR1 = fused.norm_rotate(heads, weight_RE, 1e-5, cos_PE, sin_PE)[1]
    return {
        "rms_norm": (x_PH, weight_H, 1e-5),
        "rms_norm_backward": (random(7, 12), x_PH, weight_H, scale_P1, random(7, 12)),
        "add_rms_norm": (x_PH, weight_H, 1e-5, random(7, 12)),
        "add_rms_norm_backward": (random(7, 12), x_PH, weight_H, scale_P1),
        "rotate": (heads, cos_PE, sin_PE, 4),
        "norm_rotate": (heads, weight_RE, 1e-5, cos_PE, sin_PE),
        "norm_rotate_backward": (random(7, 5, 8), heads, weight_RE, scale_PR1, cos_PE, sin_PE),
        "look_up": (
            random(9, 2, 3, 8),
            torch.tensor([[4, 0, 8], [1, 7, 7]]),
            (torch.tensor([[0, 2, 5], [1, 1, 4]]), random(6, 4), random(6, 4)),
        ),
        "swiglu": (random(7, 12),),
        "swiglu_backward": (random(7, 6), random(7, 12)),
        "geglu": (random(7, 12),),
        "geglu_backward": (random(7, 6), random(7, 12)),
    }


@pytest.mark.parametrize("name", fused.EAGER._fields)
def test_compiled_equals_eager(name):
    arguments = kernel_arguments()[name]
    compiled, eager = getattr(fused.compiled(), name)(*arguments), getattr(fused.EAGER, name)(*arguments)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)


def test_look_ups_know_the_shape_of_a_row_and_are_compiled_once_for_any_number_of_rows():
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, example_inputs: list[Tensor]):
        graphs.append(graph)
        return graph.forward

    compiled, (_, *places) = torch.compile(fused.look_up, dynamic=True, backend=backend), kernel_arguments()["look_up"]
    for num_rows in (9, 12, 20):
        rows_R2GE = torch.randn(num_rows, 2, 3, 8)
        compile_for_row_shape(rows_R2GE)
        torch.testing.assert_close(compiled(rows_R2GE, *places), fused.look_up(rows_R2GE, *places), rtol=0, atol=0)
    [graph] = graphs
    shapes = [node.meta["example_value"].shape for node in graph.graph.nodes if node.op == "placeholder" and node.users]
    assert [False, True, True, True] in [[isinstance(size, int) for size in shape] for shape in shapes]


@pytest.mark.parametrize("name", ["rms_norm", "add_rms_norm", "rotate", "norm_rotate", "swiglu", "geglu"])
def test_backward_passes_by_hand_equal_autograd(name):
    x, *others = kernel_arguments()[name]
    x.requires_grad_()
    out = getattr(fused, name)(x, *others)
    out, scale = out if isinstance(out, tuple) else (out, None)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    out.backward(gradient)
    wanted, x = x.grad, x.detach()
    match name:
        case "rms_norm":
            ours = fused.rms_norm_backward(gradient, x, others[0], scale, gradient)
            wanted = wanted + gradient  # it adds what reached the input past the norm
        case "add_rms_norm":
            ours = fused.add_rms_norm_backward(gradient, x, others[0], scale)
        case "rotate":
            cos_PE, sin_PE, num_rotated = others
            ours = fused.rotate(gradient, cos_PE, -sin_PE, num_rotated)
        case "norm_rotate":
            weight_RE, _, cos_PE, sin_PE = others
            ours = fused.norm_rotate_backward(gradient, x, weight_RE, scale, cos_PE, sin_PE)
        case "swiglu" | "geglu":
            ours = getattr(fused, f"{name}_backward")(gradient, x)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
