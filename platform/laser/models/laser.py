"""Laser: a frozen LLM, adapted by the M-Former's prefix and one suffix token (arXiv 2409.01605).

Shape suffixes: B batch, C recommender width, L virtual tokens, H LLM width, D width of what is compared.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from laser.config.schema import Experiment, HeadConfig, MFormerConfig
from laser.llm.loading import Decoder, embedding_width, eos_token_id
from laser.models.batch import Batch
from laser.models.bituning import BiTuning, mean_text_embeddings
from laser.models.finetuning import KEPT_BUFFERS, finetune
from laser.models.head import ITEMS, USERS, Head
from laser.models.mformer import MFormer, Routing
from laser.models.projection import Projection

SEED_STEP = 1_000_003
"""Distance between the seeds of a model's parts."""
PREFIX_MAPS = ("mformer.projection", "projection.output")
"""The last linear map of a user's prefix. With a weight of zero, its bias is the prefix of all users."""


class LaserOutput(NamedTuple):
    """Holds the outputs of one pass for each history."""

    representation_BH: Tensor
    """h_u of a user's history or, for a history of one item, h_i; float32."""
    vector_BD: Tensor
    """A score is the dot product of a user's and an item's. Without a head it is h, normalised: scores are cosines."""
    history_bias: Tensor | None
    """Bias on the scores of the items of a user's own history, (1,); None for no bias."""
    routing: Routing | None
    """How the M-Former routed each history; None without an M-Former."""


class Laser(nn.Module):
    """Represents histories; users and items go through the same weights and template.

    Args:
        llm: frozen decoder without LM head.
        mformer: makes the prefix; with None, `projection` or `bituning` provides it.
        bituning: holds the suffix, or a prefix that is the same for all, and runs the LLM.
        head: maps representations to the space of comparison; None compares them by cosine, as the paper does.
        alignment_top_k: experts per user during alignment.
        projection: makes the prefix where there is no M-Former; with None, `bituning` provides it.
    """

    def __init__(
        self,
        llm: Decoder,
        mformer: MFormer | None,
        bituning: BiTuning,
        head: Head | None = None,
        alignment_top_k: int | None = None,
        projection: Projection | None = None,
    ) -> None:
        super().__init__()
        self.alignment_top_k = alignment_top_k
        self.llm = llm.requires_grad_(False)
        self.mformer = mformer
        self.projection = projection
        self.bituning = bituning
        self.head = head
        self.num_experts, self.num_virtual_tokens = 0, 0 if bituning.prefix is None else len(bituning.prefix)
        if mformer is not None:
            self.num_experts, self.num_virtual_tokens, _ = mformer.query_tokens.shape
        elif projection is not None:
            self.num_virtual_tokens = projection.num_tokens
        self.llm_width = bituning.llm_width
        self._recompute = False
        self.train()

    def forward(self, batch: Batch, reading: "Reading | None" = None) -> LaserOutput:
        """Read a batch with `represent`, or with another method of this class that has the same signature.

        Engines call the model through this method only, because DeepSpeed puts its hooks here.
        """
        return self.represent(batch) if reading is None else reading(self, batch)

    def represent(self, batch: Batch) -> LaserOutput:
        """Represent each history: run `[prefix; text; suffix]` through the LLM once."""
        prefix_BLH = routing = None
        if self.mformer is not None:
            prefix_BLH, routing = self.mformer(batch.encoding_BNC, batch.encoding_mask_BN)
        elif self.projection is not None:
            prefix_BLH = self.projection(batch.encoding_BNC, batch.encoding_mask_BN)
        representation_BH = self.bituning(self.llm, prefix_BLH, batch.token_ids_Q, batch.text_lengths_B, batch.text)
        if self.head is None:
            return _by_cosine(representation_BH, routing)
        sizes = [batch.num_users, len(batch) - batch.num_users]
        parts = zip((USERS, ITEMS), representation_BH.split(sizes), batch.state_BC.split(sizes), strict=True)
        mapped = [self.head(part_BH, side, state_BC) for side, part_BH, state_BC in parts if len(part_BH)]
        vector_BD = torch.cat([output.vector_BD for output in mapped])
        return LaserOutput(representation_BH, vector_BD, mapped[0].history_bias, routing)

    def average_prefix(self, batch: Batch) -> LaserOutput:
        """Return the mean of the M-Former's prefix, which alignment trains; scores are cosines."""
        assert self.mformer is not None, "average_prefix needs an M-Former"
        prefix_BLH, routing = self.mformer(batch.encoding_BNC, batch.encoding_mask_BN, self.alignment_top_k)
        return _by_cosine(prefix_BLH.mean(dim=1), routing)

    def average_text(self, batch: Batch) -> LaserOutput:
        """Return the mean of the text's input embeddings, to which alignment draws the prefix."""
        return _by_cosine(mean_text_embeddings(self.llm, batch.token_ids_Q, batch.text_lengths_B), None)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that require a gradient, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def statistics(self) -> dict[str, Tensor]:
        """Return the buffers of the head and of a finetuning method by name; they are whole on every worker."""
        return {
            name: buffer
            for name, buffer in self.named_buffers()
            if name.startswith("head.") or (name.startswith("llm.") and name.rpartition(".")[2] in KEPT_BUFFERS)
        }

    @property
    def vector_width(self) -> int:
        """Width of what is compared."""
        return self.llm_width if self.head is None else self.head.width

    @property
    def counted_weight(self) -> float:
        """Weight of the recommender's counted scores in a score; 0 if they are no part of it."""
        return 0.0 if self.head is None else float(self.head.counted_weight)

    @property
    def num_added_tokens(self) -> int:
        """Number of tokens that the LLM reads for each history in addition to its text."""
        return self.num_virtual_tokens + self.bituning.num_end_tokens

    @property
    def llm_block_weights(self) -> int:
        """N, the number of the LLM's weights that every token is multiplied with: all but the embeddings."""
        embeddings = sum(weight.numel() for weight in self.llm.get_input_embeddings().parameters())
        return sum(weight.numel() for weight in self.llm.parameters()) - embeddings

    @staticmethod
    def virtual_token_names() -> tuple[str, ...]:
        """Return the names of the weights that are virtual tokens. They may have their own learning rate."""
        return ("mformer.query_tokens", "projection.filler", "bituning.prefix", "bituning.suffix")

    @torch.no_grad()
    def start_virtual_tokens(self, token_H: Tensor) -> None:
        """Set every virtual token to the given one. A user's prefix then starts as that of all users."""
        filler = None if self.projection is None else self.projection.filler
        for tokens in (self.bituning.suffix, self.bituning.prefix, filler):
            if tokens is not None:
                tokens.copy_(token_H.expand_as(tokens))
        weights = dict(self.named_parameters())
        for name in PREFIX_MAPS:
            if f"{name}.weight" in weights:
                weights[f"{name}.weight"].zero_()
                weights[f"{name}.bias"].copy_(token_H)

    def enable_gradient_checkpointing(self) -> None:
        """Keep only the input of each decoder block and recompute the rest in the backward pass."""
        self.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._recompute = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Laser":
        """Switch the mode of the trainable part; the frozen LLM always stays in evaluation mode."""
        super().train(mode)
        self.llm.eval()
        if self._recompute:
            # transformers recomputes a block only while the block itself is in training mode. Its submodules, dropout
            # among them, stay in evaluation mode.
            for module in self.llm.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = mode
        return self


Reading = Callable[[Laser, Batch], LaserOutput]
"""A method of `Laser` that reads a batch."""


def _by_cosine(representation_BH: Tensor, routing: Routing | None) -> LaserOutput:
    return LaserOutput(representation_BH, F.normalize(representation_BH, dim=-1), None, routing)


def build_laser(
    config: Experiment,
    llm: Decoder,
    recommender_width: int,
    embedding_std: float,
    first_token_H: Tensor | None = None,
) -> Laser:
    """Build Laser around a loaded LLM, initialised from `training.seed` alone, the same on every worker.

    Each part has its own seed. So variants that lack a part, or have a larger one, start with the same other parts.

    Args:
        config: the sections bituning, mformer, head, finetuning and training are read.
        llm: the frozen decoder, whole or sharded by ZeRO-3.
        recommender_width: C; 0 without a recommender.
        embedding_std: std of the LLM's input embeddings, at which virtual tokens start.
        first_token_H: value of every virtual token before training; None draws them at random.
    """
    llm_width = embedding_width(llm)
    with torch.random.fork_rng():
        mformer = projection = None
        if config.bituning.prefix == "mformer":
            torch.manual_seed(config.training.seed)
            mformer = build_mformer(config.mformer, recommender_width, llm_width, embedding_std)
        elif config.bituning.prefix == "projection":
            torch.manual_seed(config.training.seed)
            length, hidden_size = config.mformer.num_virtual_tokens, config.bituning.projection_width
            projection = Projection(recommender_width, llm_width, length, hidden_size, embedding_std)
        torch.manual_seed(config.training.seed + SEED_STEP)
        bituning = BiTuning(
            llm_width,
            embedding_std,
            config.bituning.representation,
            config.mformer.num_virtual_tokens if config.bituning.prefix == "free" else 0,
            eos_token_id(llm.config) if config.bituning.representation == "eos" else None,
            late=config.bituning.prefix_position == "after",
        )
        torch.manual_seed(config.training.seed + 2 * SEED_STEP)
        head = build_head(config.head, llm_width, recommender_width)
        laser = Laser(llm, mformer, bituning, head, config.training.alignment_top_k, projection)
        torch.manual_seed(config.training.seed + 3 * SEED_STEP)
        finetune(laser.llm, config.finetuning)
    if first_token_H is not None:
        laser.start_virtual_tokens(first_token_H)
    return laser


def build_head(config: HeadConfig, llm_width: int, recommender_width: int) -> Head | None:
    """Build the head of these settings, with weights from torch's global generator. The paper's settings give None."""
    if not config.is_there:
        return None
    return Head(
        llm_width=llm_width,
        width=config.width,
        recommender_width=recommender_width if config.collaborative else 0,
        text_width=config.text_width or 0,
        joins_later=config.collaborative and config.joins == "after",
        shared=config.shared,
        dropout=config.dropout,
        history_bias=config.history_bias,
        text_scale=config.text_scale,
    )


def build_mformer(config: MFormerConfig, recommender_width: int, llm_width: int, output_std: float) -> MFormer:
    """Build the M-Former of these settings, with weights from torch's global generator."""
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
