"""Laser: a frozen LLM, adapted by the M-Former's prefix and one suffix token (arXiv 2409.01605).

Shape suffixes: B batch, N history items, C recommender width, T text tokens, H LLM width.

Parameters under `llm.` are frozen; all others are trained.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from laser.config.schema import Experiment, MFormerConfig
from laser.models.bituning import BiTuning
from laser.models.llm import Decoder, eos_token_id
from laser.models.mformer import MFormer, Routing


class LaserOutput(NamedTuple):
    """What one pass gives for each history."""

    representation_BH: Tensor
    """h_u of a user's history or, for a history of one item, h_i; float32."""
    routing: Routing | None
    """None where there is no M-Former."""


class Laser(nn.Module):
    """Histories in, representations out; users and items go through the same weights and template.

    Args:
        llm: frozen decoder without LM head.
        mformer: makes the prefix; None leaves it to `bituning`.
        bituning: holds the suffix, or a prefix that is the same for all, and runs the LLM.
    """

    def __init__(self, llm: Decoder, mformer: MFormer | None, bituning: BiTuning) -> None:
        super().__init__()
        self.llm = llm.requires_grad_(False)
        self.mformer = mformer
        self.bituning = bituning
        self.num_experts, self.num_virtual_tokens = 0, 0 if bituning.prefix is None else len(bituning.prefix)
        if mformer is not None:
            self.num_experts, self.num_virtual_tokens, _ = mformer.query_tokens.shape
        self.llm_width = bituning.llm_width
        self._recompute = False
        self.train()

    def forward(
        self, token_ids_BT: Tensor, token_mask_BT: Tensor, encoding_BNC: Tensor, encoding_mask_BN: Tensor
    ) -> LaserOutput:
        """Represent a batch of histories.

        Args:
            token_ids_BT: the text of each history, int64, right-padded.
            token_mask_BT: true at real tokens.
            encoding_BNC: the frozen recommender's hidden states, float32, right-padded; C is 0 without M-Former.
            encoding_mask_BN: true at real items.
        """
        if self.mformer is None:
            return LaserOutput(self.bituning(self.llm, None, token_ids_BT, token_mask_BT), None)
        prefix = self.mformer(encoding_BNC, encoding_mask_BN)
        representation_BH = self.bituning(self.llm, prefix.prefix_BLH, token_ids_BT, token_mask_BT)
        return LaserOutput(representation_BH, prefix.routing)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Everything but the LLM, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if not name.startswith("llm.")}

    @property
    def num_added_tokens(self) -> int:
        """Tokens that the LLM reads of each history beside its text."""
        return self.num_virtual_tokens + self.bituning.num_end_tokens

    @property
    def llm_block_weights(self) -> int:
        """N, the LLM's weights that every token is multiplied with: all but the embeddings."""
        embeddings = sum(weight.numel() for weight in self.llm.get_input_embeddings().parameters())
        return sum(weight.numel() for weight in self.llm.parameters()) - embeddings

    @staticmethod
    def virtual_token_names() -> tuple[str, ...]:
        """The trainable weights that are virtual tokens themselves; they may have a learning rate of their own."""
        return ("mformer.query_tokens", "bituning.prefix", "bituning.suffix")

    def enable_gradient_checkpointing(self) -> None:
        """Keep only the input of each decoder block and recompute the rest in the backward pass."""
        self.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._recompute = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Laser":
        """Switch the trainable part; the frozen LLM always stays in evaluation mode."""
        super().train(mode)
        self.llm.eval()
        if self._recompute:
            # transformers recomputes a block only while its own flag says training; its submodules, dropout among
            # them, stay.
            for module in self.llm.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = mode
        return self


def build_laser(config: Experiment, llm: Decoder, recommender_width: int, embedding_std: float) -> Laser:
    """Laser around a loaded LLM, initialised from `training.seed` alone: the same on every worker.

    Args:
        config: sections bituning, mformer and training.
        llm: the frozen decoder, whole or sharded by ZeRO-3.
        recommender_width: C; not looked at without M-Former.
        embedding_std: standard deviation of the LLM's input embeddings, the scale of the virtual tokens.
    """
    llm_width = llm.config.get_text_config().hidden_size
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        mformer = None
        if config.bituning.prefix == "mformer":
            mformer = build_mformer(config.mformer, recommender_width, llm_width, embedding_std)
        bituning = BiTuning(
            llm_width,
            embedding_std,
            config.bituning.representation,
            config.mformer.num_virtual_tokens if config.bituning.prefix == "free" else 0,
            eos_token_id(llm.config) if config.bituning.representation == "eos" else None,
        )
    return Laser(llm, mformer, bituning)


def build_mformer(config: MFormerConfig, recommender_width: int, llm_width: int, output_std: float) -> MFormer:
    """The M-Former of these settings; its weights come from torch's global generator."""
    return MFormer(
        recommender_width=recommender_width,
        llm_width=llm_width,
        num_experts=config.num_experts,
        num_virtual_tokens=config.num_virtual_tokens,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        cross_attention_frequency=config.cross_attention_frequency,
        dropout=config.dropout,
        output_std=output_std,
        bf16=config.dtype == "bf16",
        top_k=config.top_k,
        straight_through=config.gate == "straight_through",
    )
