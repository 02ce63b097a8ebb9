"""What of the LLM itself is trained beside the virtual tokens, a section for each method; torch-free, as all settings.

The module `laser.models.finetuning.<type>` carries a method out. A new one is a module there, and a section here in the
union.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from laser.config.marks import read_if
from laser.config.section import Section


class FinetuningSection(Section):
    """What the methods share that train weights of the LLM."""

    main: ClassVar[str | None] = "type"
    trains_llm: ClassVar[bool] = True
    """Whether weights within the LLM get a gradient. Then nothing that it gives for a text may be kept over a step."""
    needs_fp32: ClassVar[bool] = False
    """Whether the LLM's own weights are updated; in bf16, small updates of them would be rounded away."""
    whole_moments: ClassVar[bool] = False
    """Whether Adam's moments are rewritten between steps, so that no worker may hold a shard of them (ZeRO 2, 3)."""


class NoFinetuning(Section):
    """The LLM stays frozen, and virtual tokens alone adapt it: Bi-Tuning, the paper's method."""

    main: ClassVar[str | None] = "type"
    neutral: ClassVar[bool] = True
    trains_llm: ClassVar[bool] = False
    needs_fp32: ClassVar[bool] = False
    whole_moments: ClassVar[bool] = False
    type: Literal["none"] = "none"
    """What of the LLM is trained."""


class ThinConfig(FinetuningSection):
    """What the methods share that add a product of two thin matrices to some of the LLM's linear maps."""

    rank: PositiveInt = 8
    """r, width of the thin matrices."""
    modules: tuple[str, ...] = ("q_proj", "v_proj")
    """Last parts of the names of the linear maps that get one. LoRA's paper: queries and values."""


class LoRAConfig(ThinConfig):
    """LoRA (arXiv 2106.09685): a product of two thin matrices is added to some of the LLM's linear maps."""

    type: Literal["lora"] = "lora"
    """What of the LLM is trained."""
    alpha: PositiveFloat = 16.0
    """α; the product is multiplied by α / r."""


class PesoConfig(ThinConfig):
    """PESO-like, reconstructed (arXiv 2512.02216): thin products whose subspaces follow the full gradient."""

    whole_moments: ClassVar[bool] = True
    type: Literal["peso"] = "peso"
    """What of the LLM is trained."""
    scale: PositiveFloat = 2.0
    """s; the product is multiplied by it."""
    restart_every: PositiveInt = 100
    """K, steps between restarts. The first comes after probe_batches steps."""
    probe_batches: PositiveInt = 1
    """Steps before a restart over which the full gradient is averaged, all of one epoch; at most restart_every."""
    variant: Literal["restart", "warm"] = "restart"
    """restart merges the product and opens the gradient's leading subspace; warm does so once, and afterwards
    re-balances the two matrices alone."""
    train: Literal["both", "left"] = "both"
    """The matrices that steps move: both, or the left one within a fixed subspace (GaLore-like)."""
    init: Literal["zero", "gradient_step"] = "zero"
    """A restart leaves the LLM's function as it is, or takes the best step of rank r along the gradient."""
    gradient_rate: Annotated[PositiveFloat, read_if("finetuning.init", "gradient_step")] = 1e-3
    """Learning rate of that step."""
    state: Literal["aligned", "reset", "carried"] = "aligned"
    """Adam's moments at a restart: turned into the new subspace (LDAdam), zero, or as they are (GaLore)."""
    rewarm_steps: NonNegativeInt = 0
    """Steps of linear warm-up after each restart, of the rates within the LLM."""

    @model_validator(mode="after")
    def _a_probe_fits_a_period(self) -> "PesoConfig":
        if self.probe_batches > self.restart_every:
            raise ValueError(f"probe_batches {self.probe_batches} is more than restart_every {self.restart_every}")
        return self


class FullConfig(FinetuningSection):
    """Every weight of the LLM is trained."""

    needs_fp32: ClassVar[bool] = True
    type: Literal["full"] = "full"
    """What of the LLM is trained."""


FinetuningConfig = Annotated[NoFinetuning | LoRAConfig | PesoConfig | FullConfig, Field(discriminator="type")]
