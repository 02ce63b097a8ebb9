"""What of the LLM itself is trained beside the virtual tokens, a section for each method; torch-free, as all settings.

The module `laser.models.finetuning.<type>` carries a method out. A new one is a module there, and a section here in the
union.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from laser.config.section import Section


class FinetuningSection(Section):
    """What the methods share that train weights of the LLM."""

    main: ClassVar[str | None] = "type"
    trains_llm: ClassVar[bool] = True
    """Whether weights within the LLM get a gradient. Then nothing that it gives for a text may be kept over a step."""
    needs_fp32: ClassVar[bool] = False
    """Whether the LLM's own weights are updated; in bf16, small updates of them would be rounded away."""


class NoFinetuning(Section):
    """The LLM stays frozen, and virtual tokens alone adapt it: Bi-Tuning, the paper's method."""

    main: ClassVar[str | None] = "type"
    neutral: ClassVar[bool] = True
    trains_llm: ClassVar[bool] = False
    needs_fp32: ClassVar[bool] = False
    type: Literal["none"] = "none"
    """What of the LLM is trained."""


class LoRAConfig(FinetuningSection):
    """LoRA (arXiv 2106.09685): a product of two thin matrices is added to some of the LLM's linear maps."""

    type: Literal["lora"] = "lora"
    """What of the LLM is trained."""
    rank: PositiveInt = 8
    """r, width of the thin matrices."""
    alpha: PositiveFloat = 16.0
    """α; the product is multiplied by α / r."""
    modules: tuple[str, ...] = ("q_proj", "v_proj")
    """Last parts of the names of the linear maps that get one. LoRA's paper: queries and values."""


class FullConfig(FinetuningSection):
    """Every weight of the LLM is trained."""

    needs_fp32: ClassVar[bool] = True
    type: Literal["full"] = "full"
    """What of the LLM is trained."""


FinetuningConfig = Annotated[NoFinetuning | LoRAConfig | FullConfig, Field(discriminator="type")]
