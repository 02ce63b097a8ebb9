"""A tiny Laser, the batches that it reads, and one step of it.

Tests make their batches and call the model through these functions alone.

Shape suffixes: B batch, Q text tokens of all histories, T those of one, N history items, C recommender width, I items,
H LLM width.
"""

from pathlib import Path

import torch
from torch import Tensor

from laser.config.compose import with_overrides
from laser.config.schema import Experiment, MFormerConfig, TrainingConfig
from laser.engine.plain import PlainEngine
from laser.engine.step import StepResult, training_step
from laser.llm.loading import load_llm
from laser.models.batch import Batch
from laser.models.laser import Laser, LaserOutput, build_laser

CPU = torch.device("cpu")
WIDTH, LENGTH = 32, 4
"""Of the tiny LLM, and of the prefix."""
RECOMMENDER_WIDTH = 8
BASE = Experiment(
    mformer=MFormerConfig(num_experts=3, num_virtual_tokens=LENGTH, num_layers=2, hidden_size=32, num_heads=4),
    training=TrainingConfig(learning_rate=1e-2, batch_size=12),
)


def build(llm_directory: Path, **overrides: object) -> tuple[Laser, Experiment]:
    """Laser around the LLM in float32, without compilation, and its settings; `__` stands for the dot of a key."""
    changed = {"llm.compile": False} | {name.replace("__", "."): value for name, value in overrides.items()}
    config = with_overrides(BASE, changed)
    llm = load_llm(llm_directory, torch.float32, config.llm, CPU)
    return build_laser(config, llm, recommender_width=RECOMMENDER_WIDTH, embedding_std=0.1), config


def batch(size: int = 12, width: int = RECOMMENDER_WIDTH) -> Batch:
    """Random histories of 1 to 29 tokens and 1 to 5 items; the same ones each time."""
    generator = torch.Generator().manual_seed(3)
    lengths_B = torch.randint(1, 30, (size,), generator=generator)
    mask_BT = torch.arange(30) < lengths_B[:, None]
    return Batch(
        token_ids_Q=torch.randint(1, 250, (size, 30), generator=generator)[mask_BT],
        text_lengths_B=lengths_B,
        encoding_BNC=3 * torch.randn(size, 5, width, generator=generator),
        encoding_mask_BN=torch.arange(5) < torch.randint(1, 6, (size, 1), generator=generator),
        targets_B=torch.randint(0, 20, (size,), generator=generator),
        weights_B=torch.ones(size),
        state_BC=torch.zeros(size, width),
        num_users=size,
        num_tokens=int(lengths_B.sum()),
    )


def alone(whole: Batch, row: int) -> Batch:
    """One user's history of a batch, without padding."""
    text_T, items_N = text(whole, row), whole.encoding_mask_BN[row]
    return Batch(
        token_ids_Q=text_T,
        text_lengths_B=torch.tensor([len(text_T)]),
        encoding_BNC=whole.encoding_BNC[row : row + 1, items_N],
        encoding_mask_BN=items_N[None, items_N],
        targets_B=whole.targets_B[row : row + 1],
        weights_B=whole.weights_B[row : row + 1],
        state_BC=whole.state_BC[row : row + 1],
        num_users=1,
        num_tokens=len(text_T),
    )


def text(whole: Batch, row: int) -> Tensor:
    """The tokens of one history."""
    return whole.token_ids_Q.split(whole.text_lengths_B.tolist())[row]


def read(laser: Laser, whole: Batch) -> LaserOutput:
    """Represent the histories of a batch."""
    return laser(whole)


def catalogue(laser: Laser) -> Tensor:
    """Random embeddings of the 20 items, `items_IH`; the same ones each time."""
    return torch.randn(20, laser.llm_width, generator=torch.Generator().manual_seed(4))


def step(
    laser: Laser, config: Experiment, width: int = RECOMMENDER_WIDTH, llm_is_frozen: bool = True
) -> tuple[StepResult, set[str]]:
    """Take one step over a batch of 12, and name the weights that moved. A frozen LLM keeps its bits."""
    before = {name: weight.clone() for name, weight in laser.state_dict().items()}
    engine = PlainEngine(laser, config.training, CPU)
    result = training_step(engine, [batch(width=width)], catalogue(laser), config.training, 1.0)
    moved = {name for name, weight in laser.state_dict().items() if not torch.equal(weight, before[name])}
    assert torch.isfinite(torch.tensor(result.contrastive))
    if llm_is_frozen:
        assert not [name for name in moved if name.startswith("llm.")]
        assert all(parameter.grad is None for parameter in laser.llm.parameters())
    return result, moved
