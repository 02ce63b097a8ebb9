"""The blocks of sequence encoders, beside their equations written out for one position at a time."""

import torch
import torch.nn.functional as F

from laser.models.sequences.gated import GatedBlock
from laser.models.sequences.hstu import HSTUBlock

LENGTH, WIDTH, HEADS = 5, 8, 2


def moved(block: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():  # far from initialisation, so that every weight has a say
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return block.eval().requires_grad_(False)


def test_a_gated_block_is_its_equations():
    torch.manual_seed(0)
    block, x_NC = moved(GatedBlock(WIDTH, HEADS, dropout=0.5)), torch.randn(LENGTH, WIDTH)
    normed_NC = x_NC / (x_NC.square().mean(-1, keepdim=True) + torch.finfo().eps).sqrt() * block.attention_norm.weight
    q_NC, k_NC, v_NC = (normed_NC @ weight_CC.T for weight_CC in block.project.weight.chunk(3))
    read_NC = torch.zeros(LENGTH, WIDTH)
    for place in range(LENGTH):
        for head in (slice(0, 4), slice(4, 8)):
            weights = (k_NC[: place + 1, head] @ q_NC[place, head] / 4**0.5).softmax(0)
            read_NC[place, head] = weights @ v_NC[: place + 1, head]
    y_NC = x_NC + block.attention_gate(x_NC).sigmoid() * (read_NC @ block.output.weight.T)
    normed_NC = y_NC / (y_NC.square().mean(-1, keepdim=True) + torch.finfo().eps).sqrt() * block.feed_norm.weight
    gate_NF, value_NF = (normed_NC @ block.up.weight.T).chunk(2, -1)
    y_NC = y_NC + block.feed_gate(y_NC).sigmoid() * ((gate_NF * gate_NF.sigmoid() * value_NF) @ block.down.weight.T)
    torch.testing.assert_close(block(x_NC[None])[0], y_NC, rtol=0, atol=1e-5)


def test_an_hstu_block_is_its_equations():
    torch.manual_seed(0)
    block, x_NC = moved(HSTUBlock(WIDTH, HEADS, max_history=7, dropout=0.5)), torch.randn(LENGTH, WIDTH)
    u_NC, v_NC, q_NC, k_NC = F.silu(block.project(block.norm(x_NC))).chunk(4, -1)
    read_NC = torch.zeros(LENGTH, WIDTH)
    for place in range(LENGTH):
        for earlier in range(place + 1):
            for number, head in enumerate((slice(0, 4), slice(4, 8))):
                strength = F.silu(q_NC[place, head] @ k_NC[earlier, head] + block.bias_AN[number, place - earlier])
                read_NC[place, head] += strength * v_NC[earlier, head] / 7
    y_NC = x_NC + block.output(block.read_norm(read_NC) * u_NC)
    torch.testing.assert_close(block(x_NC[None])[0], y_NC, rtol=0, atol=1e-5)
