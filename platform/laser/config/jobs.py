"""What the jobs are told that are neither an experiment nor a sweep of one: torch-free, as `laser.config.schema`."""

from typing import Any, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from laser.config.schema import Experiment, Format, TrackingConfig
from laser.config.section import Section, Seed


class EvaluateJob(Section):
    """Which recorded run to evaluate again."""

    run_id: str
    """MLflow run id, as train, tune and the UI show it."""
    split: Literal["val", "test"] = "test"
    """Held-out item to rank: the second last (val) or the last (test) of each user."""
    tracking: TrackingConfig = TrackingConfig()
    cache_dir: str = ".cache/laser"
    """Where prepared data and the converted LLM are looked for; what is missing is made again."""


Family = Literal["popularity", "item_knn", "ease", "hybrid", "sasrec", "bert4rec", "text_sasrec", "stack"]


class ReferencesJob(Section):
    """Which recommenders to make as references, and on which data."""

    data: str
    """Raw data: as data.path."""
    format: Format = "auto"
    """Layout of the data: as data.format."""
    families: tuple[Family, ...] = get_args(Family)
    """Families to make."""
    max_epochs: PositiveInt = 200
    """Upper bound of epochs for the trained families; they stop before it when validation no longer improves."""
    seed: Seed = 0
    """Seed of the trained families."""
    tracking: TrackingConfig = TrackingConfig()
    cache_dir: str = ".cache/laser"
    """Prepared data, and the recommenders of every point of a search."""
    output_dir: str = "runs"
    """Results, in the folder references-<dataset>."""

    def experiment(self, family: str, settings: dict[str, Any]) -> Experiment:
        """The experiment that has this reference for its recommender."""
        section: dict[str, Any] = {"type": family, **settings}
        trained = {"max_epochs": self.max_epochs, "seed": self.seed}
        if family in ("sasrec", "bert4rec", "text_sasrec"):
            section |= trained
        if family == "stack":
            section["trained"] = {**section["trained"], **trained}
        return Experiment.model_validate(
            {
                "name": f"reference-{family}",
                "cache_dir": self.cache_dir,
                "output_dir": self.output_dir,
                "data": {"path": self.data, "format": self.format},
                "recommender": section,
                "tracking": self.tracking,
            }
        )


class BenchmarkConfig(Section):
    """What a benchmark measures, and how often."""

    rounds: PositiveInt = 5
    """Rounds that count; in each, every contestant runs once, in turn."""
    warmup_rounds: NonNegativeInt = 1
    """Rounds before them that do not count."""
    train_histories: PositiveInt = 32
    """train, sharding: training examples that a round passes through."""
    encode_items: PositiveInt = 256
    """encode: items that a round passes through, rounded up to whole batches."""
    train_peer_max_tokens: PositiveInt = 12_000
    """train: the peer tries no batch size whose padded batch may exceed this; a token's activations take about 1 MB."""
    rank_users: PositiveInt = 10_000
    """rank: users. The peer's scores of all of them are held at once: 4 bytes times users times items."""
    rank_items: PositiveInt = 100_000
    """rank: items of the catalogue."""
    rank_width: PositiveInt = 576
    """rank: H, width of representations and item embeddings. SmolLM2-135M: 576."""
    rank_peer_batch: PositiveInt = 4_096
    """rank: users that the peer ranks at once. RecBole's eval_batch_size: 4096."""
    catalogue_items: PositiveInt = 1_000_000
    """catalogue: items; the embeddings take items times width times 4 or 2 bytes (training.item_dtype)."""
    catalogue_width: PositiveInt = 4_096
    """catalogue: H. Llama 7B: 4096."""
    catalogue_users: PositiveInt = 16
    """catalogue: histories of a step, and users to rank."""
    interactions: PositiveInt = 10_000_000
    """Generated interactions to prepare (suite prepare); users are a tenth of it, items at most 150,000."""


class BenchmarkJob(Experiment):
    """A measurement of speed: the sections of an experiment, and which of its parts to measure."""

    suite: Literal["train", "encode", "rank", "catalogue", "prepare", "sharding", "tune"]
    """train: optimizer steps; encode: the catalogue; rank: full-catalogue ranks; catalogue: loss and ranks where items
    are many; prepare: raw data to a dataset; sharding: memory and cost of the ZeRO stages; tune: what a sweep adds to
    its trials."""
    benchmark: BenchmarkConfig = BenchmarkConfig()


class ClusterJob(Section):
    """A cluster on this machine whose worker nodes come and go as trials ask for them."""

    directory: str = "runs/cluster"
    """Where its token, its environment and the note of what runs stand while it runs."""
    max_workers: PositiveInt = 2
    """Most worker nodes at once; the head alone runs while nothing is asked for."""
    cpus_per_worker: PositiveInt = 1
    """Cores that a worker node offers to trials. What the machine has is shared by all nodes."""
    idle_seconds: PositiveFloat = 60.0
    """Seconds after which a worker node without work leaves."""
    stop: bool = False
    """Stop the cluster that runs from directory, instead of starting one."""


class ReproduceJob(Experiment):
    """A table or figure of the paper: the sections of an experiment are its base, which each of its cells varies."""

    table: Literal[2, 3, 4, 5, 6, 7, "additions"] | None = None
    """Table of the paper: 2 main comparison, 3 trainable parameters, 4 ablation, 5 representation, 6 template, 7 K and
    L. `additions` is ours: what the released code adds, each by itself, and the warm start."""
    figure: Literal[3, 4] | None = None
    """Figure of the paper: 3 zero-shot and low-resource transfer, 4 recommenders under the M-Former."""
    seeds: tuple[NonNegativeInt, ...] = (0,)
    """Seeds of each cell (training.seed, of recommenders recommender.seed); spread and significance need three."""
    paper_dataset: Literal["Scientific", "Pet", "Arts"] = "Scientific"
    """Dataset of the paper whose numbers stand beside ours."""
    pretrain_data: str = "pypi:recbole==1.2.1#recbole/dataset_example/ml-100k"
    """Figure 3: raw data to pre-train on; data.path is the target."""
    max_concurrent_cells: PositiveInt = 1
    """Cells that run at once as trials; each takes training.num_workers workers. With none, one after the other."""
    force: bool = False
    """Run all cells again. What is stored of them is kept in MLflow, marked superseded, and found no more."""
    dry_run: bool = False
    """List the cells, what is there of each, and what the others cost; run nothing."""
    results: str | None = None
    """In place of a table: a folder of recorded results (JSON, with ranks as Parquet), such as docs/results; its
    README.md is written anew."""
    add: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """With results: first record the runs of `runs` in the folder, under this name."""
    runs: tuple[str, ...] = ()
    """With results and add: MLflow run ids, a run per seed, otherwise of the same settings."""
    references: tuple[str, ...] = ()
    """With results and add: names of recorded results that this one is compared with, user by user."""
