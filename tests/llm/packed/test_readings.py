"""Compares readings at many places of one text with a separate pass over each prefix of the text."""

import pytest
import torch

from laser.config.schema import LLMConfig
from laser.llm.loading import load_llm
from laser.llm.packed.readings import read_at
from laser.models.bituning import BiTuning

ENDS = ((10, 22, 30), (75,), (3, 4, 5, 140))


@pytest.mark.parametrize("num_prefix", [0, 3])
def test_a_reading_equals_the_beginning_read_alone(tiny_llm, num_prefix):
    llm = load_llm(tiny_llm, torch.float32, LLMConfig(compile=False), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(1, 250, (end[-1],), generator=generator) for end in ENDS]
    prefix_LH = 0.1 * torch.randn(num_prefix, 32, generator=generator)
    torch.manual_seed(1)
    bituning = BiTuning(32, 0.1)
    together = read_at(llm, prefix_LH, texts, [torch.tensor(end) for end in ENDS], bituning.suffix)
    alone = [
        bituning(llm, prefix_LH[None], text[:end], torch.tensor([end]))
        for text, places in zip(texts, ENDS, strict=True)
        for end in places
    ]
    # measured, of the largest value: 1e-6
    torch.testing.assert_close(together, torch.cat(alone).detach(), rtol=0, atol=1e-5 * float(together.abs().max()))
