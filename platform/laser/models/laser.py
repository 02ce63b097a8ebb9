"""Laser: a frozen LLM, adapted by the M-Former's prefix and one suffix token (arXiv 2409.01605).

Shape suffixes: B batch, N history items, C recommender width, T text tokens, H LLM width, D width of the space of
comparison.

Parameters under `llm.` are frozen; all others are trained.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from laser.config.schema import Experiment, HeadConfig, MFormerConfig
from laser.models.bituning import BiTuning, mean_text_embeddings
from laser.models.head import Head, Side, Sides
from laser.models.llm import Decoder, eos_token_id
from laser.models.mformer import MFormer, Routing

Part = Literal["history", "prefix", "text"]
"""What a pass reads: the whole history; the M-Former's prefix alone; the text's input embeddings alone."""

SEED_STEP = 1_000_003
"""Between the seeds of the parts of a model."""


class LaserOutput(NamedTuple):
    """What one pass gives for each history."""

    representation_BH: Tensor
    """h_u of a user's history or, for a history of one item, h_i; float32. Of a part, the mean over its tokens."""
    vector_BD: Tensor
    """What is compared: a user's times an item's is the score. Without head, h at length 1: cosines."""
    history_bias: Tensor | None
    """Added to the scores of the items of the own history, (1,); None adds nothing."""
    routing: Routing | None
    """None where there is no M-Former."""


class Laser(nn.Module):
    """Histories in, representations out; users and items go through the same weights and template.

    Args:
        llm: frozen decoder without LM head.
        mformer: makes the prefix; None leaves it to `bituning`.
        bituning: holds the suffix, or a prefix that is the same for all, and runs the LLM.
        head: maps representations to where they are compared; None compares them by cosine, as the paper does.
        alignment_top_k: experts per user while the prefix alone is read.
    """

    def __init__(
        self,
        llm: Decoder,
        mformer: MFormer | None,
        bituning: BiTuning,
        head: Head | None = None,
        alignment_top_k: int | None = None,
    ) -> None:
        super().__init__()
        self.alignment_top_k = alignment_top_k
        self.llm = llm.requires_grad_(False)
        self.mformer = mformer
        self.bituning = bituning
        self.head = head
        self.num_experts, self.num_virtual_tokens = 0, 0 if bituning.prefix is None else len(bituning.prefix)
        if mformer is not None:
            self.num_experts, self.num_virtual_tokens, _ = mformer.query_tokens.shape
        self.llm_width = bituning.llm_width
        self.vector_width = self.llm_width if head is None else head.width
        self._recompute = False
        self.train()

    def forward(
        self,
        token_ids_BT: Tensor,
        token_mask_BT: Tensor,
        encoding_BNC: Tensor,
        encoding_mask_BN: Tensor,
        of: Side | Sides | None = None,
        part: Part = "history",
    ) -> LaserOutput:
        """Represent a batch of histories.

        Args:
            token_ids_BT: the text of each history, int64, right-padded.
            token_mask_BT: true at real tokens.
            encoding_BNC: the frozen recommender's hidden states, float32, right-padded; C is 0 without M-Former.
            encoding_mask_BN: true at real items.
            of: whether these are users or items, and the recommender's vectors of them; for the head alone.
            part: what to read; of the prefix or the text alone, the mean is compared by cosine.
        """
        if part == "text":
            return _by_cosine(mean_text_embeddings(self.llm, token_ids_BT, token_mask_BT), None)
        if part == "prefix":
            assert self.mformer is not None, "only the M-Former's prefix is read by itself"
            prefix_BLH, routing = self.mformer(encoding_BNC, encoding_mask_BN, self.alignment_top_k)
            return _by_cosine(prefix_BLH.mean(dim=1), routing)
        prefix_BLH = routing = None
        if self.mformer is not None:
            prefix_BLH, routing = self.mformer(encoding_BNC, encoding_mask_BN)
        representation_BH = self.bituning(self.llm, prefix_BLH, token_ids_BT, token_mask_BT)
        if self.head is None:
            return _by_cosine(representation_BH, routing)
        assert of is not None, "a head has two sides"
        sides = (of,) if isinstance(of, Side) else (of.users, of.items)
        parts_BH = representation_BH.split([len(side.state_BC) for side in sides])
        mapped = [self.head(part_BH, side) for part_BH, side in zip(parts_BH, sides, strict=True)]
        vector_BD = torch.cat([output.vector_BD for output in mapped])
        return LaserOutput(representation_BH, vector_BD, mapped[0].history_bias, routing)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Everything but the LLM, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if not name.startswith("llm.")}

    def statistics(self) -> dict[str, Tensor]:
        """What is neither trained nor the LLM's and yet part of the model, by name: small, whole on every worker."""
        return {name: buffer for name, buffer in self.named_buffers() if name.startswith("head.")}

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

    @torch.no_grad()
    def start_virtual_tokens(self, token_H: Tensor) -> None:
        """Make every virtual token the given one; the M-Former's prefix then is the same for all users at first."""
        for tokens in (self.bituning.suffix, self.bituning.prefix):
            if tokens is not None:
                tokens.copy_(token_H.expand_as(tokens))
        if self.mformer is not None:
            self.mformer.projection.weight.zero_()
            self.mformer.projection.bias.copy_(token_H)

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


def _by_cosine(representation_BH: Tensor, routing: Routing | None) -> LaserOutput:
    return LaserOutput(representation_BH, F.normalize(representation_BH, dim=-1), None, routing)


def build_laser(
    config: Experiment,
    llm: Decoder,
    recommender_width: int,
    embedding_std: float,
    first_token_H: Tensor | None = None,
) -> Laser:
    """Laser around a loaded LLM, initialised from `training.seed` alone: the same on every worker.

    Each part draws by itself, so that variants that lack one, or have it larger, start with the same others.

    Args:
        config: sections bituning, mformer, head and training.
        llm: the frozen decoder, whole or sharded by ZeRO-3.
        recommender_width: C; 0 without a recommender.
        embedding_std: standard deviation of the LLM's input embeddings, the scale of the virtual tokens.
        first_token_H: what every virtual token is before training; None draws them at random.
    """
    llm_width = llm.config.get_text_config().hidden_size
    with torch.random.fork_rng():
        mformer = None
        if config.bituning.prefix == "mformer":
            torch.manual_seed(config.training.seed)
            mformer = build_mformer(config.mformer, recommender_width, llm_width, embedding_std)
        torch.manual_seed(config.training.seed + SEED_STEP)
        bituning = BiTuning(
            llm_width,
            embedding_std,
            config.bituning.representation,
            config.mformer.num_virtual_tokens if config.bituning.prefix == "free" else 0,
            eos_token_id(llm.config) if config.bituning.representation == "eos" else None,
        )
        torch.manual_seed(config.training.seed + 2 * SEED_STEP)
        head = build_head(config.head, llm_width, recommender_width)
    laser = Laser(llm, mformer, bituning, head, config.training.alignment_top_k)
    if first_token_H is not None:
        laser.start_virtual_tokens(first_token_H)
    return laser


def build_head(config: HeadConfig, llm_width: int, recommender_width: int) -> Head | None:
    """The head of these settings; None where they are the paper's. Weights come from torch's global generator."""
    if config == HeadConfig():
        return None
    return Head(
        llm_width=llm_width,
        width=config.width,
        recommender_width=recommender_width if config.collaborative else 0,
        shared=config.shared,
        dropout=config.dropout,
        history_bias=config.history_bias,
        text_scale=config.text_scale,
    )


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
