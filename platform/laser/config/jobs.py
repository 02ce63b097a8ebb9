"""Settings of the jobs beside training and tuning; torch-free, as `laser.config.schema`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from laser.config.families.recommenders import FAMILIES, Family, FamilySection, TrainedSection
from laser.config.schema import DataConfig, Experiment, TrackingConfig, TuneExperiment
from laser.config.section import NonNegativeFloat, PathText, Section, Seed

TABLES = Path(__file__).parents[1] / "reproduction" / "tables"
"""The files of the tables and figures that can be run: `table-<name>.yaml`, `figure-<name>.yaml`."""

PUBLISHED = TABLES.parents[1] / "records" / "published"
"""The files of the benchmarks, with what others have published on them: `<name>.yaml`."""


def _names(kind: str) -> tuple[int | str, ...]:
    """Names of the tables or figures, those of the paper as numbers and before the others."""
    names = [path.stem.removeprefix(f"{kind}-") for path in TABLES.glob(f"{kind}-*.yaml")]
    numbers, others = [int(name) for name in names if name.isdigit()], [name for name in names if not name.isdigit()]
    return (*sorted(numbers), *sorted(others))


if TYPE_CHECKING:
    TableName: TypeAlias = int | str
    FigureName: TypeAlias = int | str
    BenchmarkName: TypeAlias = str
else:  # what the files are called: `--help` and errors list it
    TableName, FigureName = Literal[_names("table")], Literal[_names("figure")]
    BenchmarkName = Literal[tuple(sorted(path.stem for path in PUBLISHED.glob("*.yaml")))]


class TrainJob(Experiment):
    """An experiment to train, or to look at first."""

    dry_run: bool = False
    """Say what the training will read, hold and take, from what is in the cache; start, fetch and write nothing."""


class TuneJob(TuneExperiment):
    """A search to run, or to look at first."""

    dry_run: bool = False
    """Count the trials and say what they will take, from what is in the cache; start, fetch and write nothing."""


class EvaluateJob(Section):
    """The recorded run to evaluate again."""

    run_id: str
    """MLflow run id, as train, tune and the UI show it."""
    split: Literal["val", "test"] = "test"
    """Held-out item to rank: each user's second last (val) or last (test)."""
    tracking: TrackingConfig = TrackingConfig()
    cache_dir: PathText = ".cache/laser"
    """Folder of prepared data and the converted LLM; what is missing there is made again."""


def _check_one_model(model: str | None, run_id: str | None, remedy: str) -> None:
    """Refuse settings that name no model, or two."""
    if (model is None) == (run_id is None):
        raise ValueError(f"model and run_id: give one of them{remedy}")


class RecommendJob(Section):
    """Which model recommends to whom, and where the lists go."""

    model: str | None = None
    """A registered model (models:/laser@champion, models:/laser/3), or a packaged one's folder. Give this or run_id."""
    run_id: str | None = None
    """MLflow run id of jobs/train.py or of a trial, whose selected weights recommend."""
    users: str = "all"
    """all users of the model's data, or a file of user ids (one a line, or a column user)."""
    histories: str | None = None
    """File of histories to recommend to, in place of the data's users: lines of JSON (user, items), or CSV, TSV or
    Parquet with a row for each interaction (user, item, timestamp). Parquet may have lists too (user, items)."""
    history: Literal["all", "val", "test"] = "all"
    """What is read of the data's users: all that is known, or what the evaluation of a split reads."""
    k: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Items of a list."""
    mask_history: bool = True
    """Leave out the items of the user's own history."""
    allowed: str | None = None
    """File of the only items to recommend (ids: one a line, or a column item)."""
    excluded: str | None = None
    """File of items never to recommend."""
    new_items: str | None = None
    """Table of items that the model was not trained with (id, title and the catalogue's attributes; CSV, TSV, Parquet).
    The LLM reads their texts, and they join the ranking."""
    output: PathText = "recommendations.parquet"
    """Parquet file to write: user, rank, item, title, score. An earlier file is replaced once the lists are whole."""
    data: PathText | None = None
    """Where the model's data lie now, if not in its data.path."""
    batch_users: PositiveInt = 1024
    """Users of a batch."""
    num_workers: NonNegativeInt | None = None
    """Ray Data workers. null: one for each cpus_per_worker of the cluster that RAY_ADDRESS names, and this process
    where it names none. 0: this process."""
    cpus_per_worker: PositiveInt = 1
    """CPUs of a worker."""
    use_gpu: bool = False
    """Recommend on a GPU, one for each worker."""
    tracking: TrackingConfig = TrackingConfig()
    cache_dir: PathText = ".cache/laser"
    """Folder of prepared data, the converted LLM and packaged models; what is missing there is made again."""

    @model_validator(mode="after")
    def _one_model(self) -> "RecommendJob":
        _check_one_model(self.model, self.run_id, ", as model=models:/laser@champion or run_id=<run>")
        if self.histories is not None and self.users != "all":
            raise ValueError("users: histories names whom to recommend to; leave one of the two out")
        return self


class ColdConfig(Section):
    """Which items are left out."""

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the items."""
    seed: Seed = 0
    """Seed of their choice."""


class ColdJob(Experiment):
    """An experiment on data without a share of their items, which join the ranking afterwards."""

    cold: ColdConfig = ColdConfig()


class TextCacheJob(Experiment):
    """An experiment with a late prefix, whose text cache is measured."""

    run_id: str | None = None
    """MLflow run id of a training with a text cache; what it ranks with less is measured too. null: these settings."""
    num_users: Annotated[int, Field(ge=4)] = 256
    """Validation users whose histories are read as ordinary text too; half of them are known."""
    report: PathText = "runs/text-cache"
    """Folder of the report: report.html, report.md, report.json, and the figure."""


class PackageJob(Section):
    """Which model to copy, and where to."""

    output: PathText
    """Folder to make."""
    model: str | None = "models:/laser@champion"
    """A registered model; null to name a run."""
    run_id: str | None = None
    """With model null: MLflow run id of jobs/train.py or of a trial."""
    tracking: TrackingConfig = TrackingConfig()
    cache_dir: PathText = ".cache/laser"
    """Folder of prepared data and packaged models."""

    @model_validator(mode="after")
    def _one_model(self) -> "PackageJob":
        _check_one_model(self.model, self.run_id, "; with run_id=<run>, set model=null")
        return self


class RequestLimits(Section):
    """What one request may ask; what is beyond gets an error."""

    max_body_bytes: PositiveInt = 1 << 20
    """Bytes of a body."""
    max_histories: PositiveInt = 64
    """Histories of a request."""
    max_history_items: PositiveInt = 1000
    """Items of a history."""
    max_k: PositiveInt = 100
    """Items of a list."""
    max_named_items: PositiveInt = 10_000
    """Allowed, and excluded, items that a request names."""
    max_queued_requests: PositiveInt = 256
    """Requests that wait for a replica; further ones get the status 503."""


class ServeJob(Section):
    """Which model answers over HTTP, where, and by how many replicas."""

    model: str | None = "models:/laser@champion"
    """A registered model, or the folder of a packaged one; null to name a run."""
    run_id: str | None = None
    """With model null: MLflow run id of jobs/train.py or of a trial."""
    new_items: str | None = None
    """Table of items that the model was not trained with, as new_items of jobs/recommend.py."""
    host: str = "127.0.0.1"
    """Address to listen on. Only this machine reaches 127.0.0.1."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    token_file: str | None = "runs/serve/token"
    """File of the token that requests must send; made with a random one if it is missing. The environment variable
    LASER_SERVE_TOKEN goes before it. null asks for none, on this machine alone."""
    min_replicas: PositiveInt = 1
    """Replicas that are always there; each holds the model."""
    max_replicas: PositiveInt = 1
    """Most replicas. With more than min_replicas, their number follows the requests."""
    target_ongoing_requests: PositiveFloat = 16.0
    """Requests at once for which there is one replica."""
    cpus_per_replica: PositiveFloat = 1.0
    """CPUs of a replica."""
    use_gpu: bool = False
    """Answer on a GPU, one for each replica."""
    max_batch_size: PositiveInt = 32
    """Requests that a replica answers in one pass."""
    batch_wait_ms: NonNegativeFloat = 2.0
    """Milliseconds that a request waits for others to share its pass."""
    limits: RequestLimits = RequestLimits()
    tracking: TrackingConfig = TrackingConfig()
    cache_dir: PathText = ".cache/laser"
    """Folder of the converted LLM, the text cache and packaged models. On a cluster: storage that all nodes share."""

    @model_validator(mode="after")
    def _one_model_and_an_order(self) -> "ServeJob":
        _check_one_model(self.model, self.run_id, "; with run_id=<run>, set model=null")
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas: {self.max_replicas}, below min_replicas {self.min_replicas}; raise it")
        return self


class ReferencesJob(Section):
    """Which recommenders to make as baselines, which experiments of Laser to train beside them, and on which data."""

    data: DataConfig
    """What all of them read."""
    families: Annotated[tuple[Family, ...], Field(min_length=1)] | None = None
    """Families to make; null makes all that the data allow (ease: 30,000 items; recent_popularity: dates)."""
    points: PositiveInt | None = None
    """Equal budget: points of each family's grid that are tried, drawn once for all calls; a smaller grid is tried as a
    whole. null tries every point, between 1 and 12."""
    laser: tuple[PathText, ...] = ()
    """Experiments to train too, each once as it is, as a run of the file's name: files (config= of jobs/train.py), or
    folders of *.yaml, but for _*.yaml. This job's data, tracking, folders, use_gpu=true and the test replace theirs."""
    max_epochs: PositiveInt = 200
    """Largest number of epochs of the trained families. They stop earlier when validation no longer improves."""
    seed: Seed = 0
    """Seed of the trained families."""
    use_gpu: bool = False
    """Train, and read the items' texts, on a GPU."""
    tracking: TrackingConfig = TrackingConfig()
    cache_dir: PathText = ".cache/laser"
    """Prepared data, and the recommenders of every point of a search."""
    output_dir: PathText = "runs"
    """Results, in the folder references-<dataset>: a folder for each system, and leaderboard.html, .md and .json."""

    def experiment(self, family: str, settings: dict[str, Any]) -> Experiment:
        """Return the experiment that has this baseline for its recommender."""
        section = FAMILIES[family].model_validate({"type": family, **settings})
        return Experiment.model_validate(
            {
                "name": f"reference-{family}",
                "cache_dir": self.cache_dir,
                "output_dir": self.output_dir,
                "data": self.data,
                "recommender": self._with_training(section),
                "training": {"use_gpu": self.use_gpu},
                "tracking": self.tracking,
            }
        )

    def _with_training(self, section: FamilySection) -> FamilySection:
        """Return the section with this job's settings of training, in itself and in its parts."""
        changes: dict[str, Any] = {name: self._with_training(part) for name, part in section.parts.items()}
        if isinstance(section, TrainedSection):
            changes |= {"max_epochs": self.max_epochs, "seed": self.seed}
        return section.model_copy(update=changes)


class BenchmarkConfig(Section):
    """How often a benchmark measures, and how large its input is."""

    rounds: PositiveInt = 5
    """Rounds that count; every contestant runs once in each."""
    warmup_rounds: NonNegativeInt = 1
    """Rounds before those, which do not count."""
    train_histories: PositiveInt = 32
    """train, sharding: training examples that a round passes through."""
    late_histories: PositiveInt = 512
    """train: training examples that a round of the late prefix passes through, whose batches are larger."""
    encode_items: PositiveInt = 256
    """encode: items that a round passes through, rounded up to whole batches."""
    train_peer_max_tokens: PositiveInt = 12_000
    """train: most tokens of a padded batch of the peer; a token's activations take about 1 MB."""
    rank_users: PositiveInt = 10_000
    """rank: users. The peer holds the scores of all of them at once: 4 bytes times users times items."""
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
    fitted_users: tuple[PositiveInt, ...] = (35_598, 500_000)
    """fitted: users of each generated dataset. Those after the first take a fifth of the rounds, without warm-up."""
    fitted_items: tuple[PositiveInt, ...] = (18_357, 100_000)
    """fitted: items of each generated dataset. Amazon Sports (2014, 5-core): 35,598 users and 18,357 items."""
    recbole_python: str | None = None
    """peers: Python of an environment that has RecBole; null leaves it out."""
    rectools_python: str | None = None
    """peers: Python of an environment that has RecTools; null leaves it out."""
    peer_epochs: PositiveInt = 2
    """peers: epochs that each library trains in a round."""
    gpu_scale: Literal["full", "small"] = "full"
    """gpu: full measures at sizes for an H100; small runs the same code on a CPU, and its figures mean nothing."""
    gpu_seconds: PositiveFloat = 480.0
    """gpu: time for all parts. No part starts after it, and trainings that are under way end with their epoch."""
    gpu_results: PathText = "runs/gpu.json"
    """gpu: file of the figures, written anew as each part ends."""
    gpu_experiments: tuple[str, ...] = (
        "configs/experiment/paper.yaml",
        "configs/experiment/late-prefix.yaml",
        "configs/experiment/recommended.yaml",
    )
    """gpu: experiments to train to the end on the job's data and LLM, in this order, with each seed."""
    gpu_seeds: tuple[Seed, ...] = (0, 1, 2)
    """gpu: seeds of the trainings; all experiments take the first one before any takes the next."""
    gpu_batch_size: PositiveInt = 64
    """gpu: least histories per optimizer step of the trainings; the paper's 4 leave a GPU idle."""
    serve_clients: tuple[PositiveInt, ...] = (1, 8, 64)
    """serve: clients that ask at once, one measurement each."""
    serve_seconds: PositiveFloat = 8.0
    """serve: seconds of each measurement, after two that do not count."""
    serve_batch_size: PositiveInt = 32
    """serve: most requests of one pass of the model, as max_batch_size of jobs/serve.py."""
    interactions: PositiveInt = 10_000_000
    """prepare: interactions to generate. There are a tenth as many users, and at most 150,000 items."""

    @model_validator(mode="after")
    def _as_many_users_as_items(self) -> "BenchmarkConfig":
        users, items = len(self.fitted_users), len(self.fitted_items)
        if users != items or not users:
            raise ValueError(f"fitted_users has {users} datasets and fitted_items {items}; give both as many, above 0")
        return self


Suite = Literal[
    "train", "encode", "rank", "catalogue", "fitted", "peers", "prepare", "sharding", "tune", "gpu", "serve"
]
"""Each is a module of `laser.benchmarks` with a function `run`."""


class BenchmarkJob(Experiment):
    """A measurement of speed: the sections of an experiment, and the part of it to measure."""

    suite: Suite
    """train: optimizer steps; encode: encoding the catalogue; rank: full-catalogue ranks; catalogue: loss and ranks
    over many items; fitted: ranks and encodings of the recommenders made by counting; peers: epochs of SASRec and
    BERT4Rec beside other libraries; prepare: raw data to a dataset; sharding: memory and cost of the ZeRO levels; tune:
    the time that a sweep adds to its trials; gpu: all that a machine with a GPU shows within minutes, from the speed of
    its products to trained models; serve: latency and throughput over HTTP, or of collective_sasrec from its caches."""
    benchmark: BenchmarkConfig = BenchmarkConfig()


class BundleConfig(Section):
    """What a bundle holds beside code, data and LLM, and for which machine."""

    output: PathText = "runs/bundle"
    """Folder to write: the parts, manifest.json and unbundle.py. It must not be there yet."""
    part_mib: PositiveInt = 60
    """Largest size of a part, in MiB."""
    python: str = Field(default="3.12", pattern=r"^3\.[0-9]+$")
    """Python version of the other machine, for its wheels."""
    platforms: tuple[str, ...] = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
    """Platform tags of its wheels."""
    wheels: tuple[str, ...] = ("pydantic",)
    """Packages that the other machine lacks; pip fetches them, and what they need, from the package index. For
    experiments with a fitted recommender (item_knn, ease, hybrid, stack), add scipy where it is missing."""
    command: str = (
        "python jobs/benchmark.py config=configs/benchmark/gpu.yaml data.path={data} llm.source={llm} "
        "tracking.uri=folder:runs/records"
    )
    """What unbundle.py runs: {data} and {llm} stand for the folders of data and LLM in the bundle."""


class BundleJob(BenchmarkJob):
    """A bundle: all that a machine without a network needs to run a suite."""

    suite: Suite = "gpu"
    bundle: BundleConfig = BundleConfig()


class ClusterJob(Section):
    """A cluster on this machine whose worker nodes come and go as trials ask for them."""

    directory: PathText = "runs/cluster"
    """Folder of its token, its environment and the note of its processes, while it runs."""
    max_workers: PositiveInt = 2
    """Most worker nodes at once; while nothing asks for one, the head runs alone."""
    cpus_per_worker: PositiveInt = 1
    """Cores that a worker node offers to trials; all nodes share those of the machine."""
    idle_seconds: PositiveFloat = 60.0
    """Seconds without work after which a worker node leaves."""
    stop: bool = False
    """Stop the cluster that runs from `directory`, instead of starting one."""


class ReproduceJob(Experiment):
    """A table or figure of the paper. The sections of an experiment are its base, which each cell varies."""

    table: TableName | None = None
    """Table of the paper: 2 main comparison, 3 trainable parameters, 4 ablation, 5 representation, 6 template, 7 K and
    L. Our own tables: `additions`, each addition of the released code by itself, and the warm start; `tuning`, ways to
    tune the LLM, and `peso`, subspaces that move, at rates of `tuning-rates` and `peso-rates`. A table is a file
    `table-<name>.yaml` in laser/reproduction/tables."""
    figure: FigureName | None = None
    """Figure of the paper: 3 zero-shot and low-resource transfer, 4 recommenders under the M-Former. A figure is a file
    `figure-<name>.yaml` in laser/reproduction/tables."""
    benchmark: BenchmarkName | None = None
    """Public data to measure baselines and Laser on, beside published rows: a file in laser/records/published."""
    families: tuple[Family, ...] = ("popularity", "item_knn", "ease", "hybrid", "sasrec", "text_sasrec")
    """benchmark: the baselines, each at the settings that its search chooses on validation."""
    seeds: tuple[NonNegativeInt, ...] = (0,)
    """Seeds of each cell: training.seed, or a recommender's own recommender.seed. Significance needs three."""
    rows: tuple[str, ...] = ()
    """Run these rows of the table alone, and what they start from; the report has all that is stored. Empty: all."""
    paper_dataset: Literal["Scientific", "Pet", "Arts"] = "Scientific"
    """Dataset of the paper whose numbers the report shows beside ours."""
    pretrain_data: str = "pypi:recbole==1.2.1#recbole/dataset_example/ml-100k"
    """Figure 3: raw data to pre-train on; data.path is the target."""
    max_concurrent_cells: PositiveInt = 1
    """Cells that run at once as trials; each takes training.num_workers workers. With none, they run one by one."""
    force: bool = False
    """Run all cells again. Their stored runs stay in MLflow, marked superseded, and are found no more."""
    dry_run: bool = False
    """List the cells, what is stored of each and what the missing ones cost; run nothing."""
    results: str | None = None
    """Folder of recorded results (JSON, with ranks as Parquet), such as docs/results, in place of a table. Its
    README.md is written anew."""
    add: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """With results: first record the runs of `runs` in the folder, under this name."""
    runs: tuple[str, ...] = ()
    """With results and add: MLflow run ids, one for each seed; all other settings are the same."""
    references: tuple[str, ...] = ()
    """With results and add: names of recorded results to compare this one with, user by user."""


class ReportJob(Section):
    """The sweep to write a page about."""

    experiment: str = "laser"
    """MLflow experiment of the sweep."""
    run_id: str | None = None
    """Run of the sweep itself, as the summary of jobs/tune.py names it; null takes the latest."""
    tracking: TrackingConfig = TrackingConfig()
    output: PathText | None = None
    """File of the page; null names it after the sweep, in the working directory. The same in Markdown lies beside."""

    def store(self) -> TrackingConfig:
        """Return where the runs are."""
        return self.tracking.model_copy(update={"experiment": self.experiment})


class CompareJob(Section):
    """The recorded runs to compare, user by user."""

    runs: tuple[str, ...] = ()
    """Run ids of jobs/train.py, pretrain.py, references.py or of trials. Give these or experiment."""
    experiment: str | None = None
    """MLflow experiment whose runs with ranks of test users are compared; of equal settings the latest."""
    dataset: str | None = None
    """With experiment: name of the dataset to compare on, where there are several."""
    metrics: tuple[str, ...] = ("ndcg@10", "recall@10", "mrr")
    """Metrics of ranks, at any cutoff: ndcg@5, recall@20, hit@1, mrr@10, mrr. The first one orders, and is tested."""
    history: Literal["shown", "masked"] = "shown"
    """Whether a user's own items are among the candidates. Lists always have them there."""
    rounds: PositiveInt = 10_000
    """Resamples of the bootstrap and random signs of the test."""
    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    """Level below which a corrected p value marks a difference."""
    seed: Seed = 0
    """Seed of both."""
    output: PathText = "comparison.html"
    """File of the page. The same in Markdown lies beside it, and all figures as JSON."""
    tracking: TrackingConfig = TrackingConfig()
    cache_dir: PathText = ".cache/laser"
    """Folder of prepared data; what is missing there is made again."""

    @model_validator(mode="after")
    def _runs_or_experiment(self) -> "CompareJob":
        if bool(self.runs) == (self.experiment is not None):
            raise ValueError("runs and experiment: give one of them")
        if not self.metrics:
            raise ValueError("metrics: give at least one, as ndcg@10")
        return self

    def store(self) -> TrackingConfig:
        """Return where the runs are."""
        return self.tracking.model_copy(update={"experiment": self.experiment or self.tracking.experiment})


class UiJob(Section):
    """Which runs to show in a browser."""

    tracking: TrackingConfig = TrackingConfig()
    port: Annotated[int, Field(ge=1, le=65_535)] = 5000
    """Port of the page on this machine."""


class ConfigJob(Section):
    """The two configurations to compare."""

    a: str
    """A YAML file, or the id of a recorded run."""
    b: str
    """Another one."""
    tracking: TrackingConfig = TrackingConfig()
