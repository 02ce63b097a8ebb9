"""Laser from Python, as in a notebook: what the jobs do, with objects and tables in place of files.

    from laser import api

    experiment = api.experiment("data=my_folder")
    dataset = api.load_data(experiment)
    run = api.train(experiment)
    run.evaluate("test")
    run.model.recommend([["B001", "B002"]])

Everything happens in this process, without Ray, unless `training.num_workers` says otherwise. Runs are recorded as
those of `jobs/train.py`, which calls `train` too.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from laser.cli.job import let_threads_sleep
from laser.config.compose import load_config, read_yaml, validate, with_overrides
from laser.config.families.selection import AllUsers
from laser.config.paths import check_places, with_absolute_paths
from laser.config.schema import Experiment, TrackingConfig
from laser.data.dataset import Dataset, open_dataset
from laser.tracking.interface import StoredRun

if TYPE_CHECKING:
    import pandas as pd

    from laser.serving.answerer import Answerer
    from laser.serving.package import Package
    from laser.training.inputs import Inputs
    from laser.training.run.outcome import Outcome

QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml"
SPLITS = {"untrained": "untrained", "best": "validation", "test": "test"}
"""Prefix of a recorded figure → how tables call it."""
BATCH_USERS = 1024
"""Histories that are answered at once."""


def experiment(*settings: str) -> Experiment:
    """Return an experiment, composed as the command line does it.

    Args:
        settings: `[config=<file.yaml>] [section.key=value ...]`, as for `python jobs/train.py`. Without `config=`,
            it is the quickstart. `training.num_workers` is 0, which is this process, unless it is given here.

    Raises:
        UserError: a setting, file or value is wrong; the message names it, its value and the remedy.
    """
    let_threads_sleep()
    return load_config(Experiment, ["training.num_workers=0", *settings], QUICKSTART)


def load_data(experiment: Experiment) -> Dataset:
    """Prepare the experiment's data, or find them prepared.

    Raises:
        UserError: the raw data are missing or malformed; the message names file and line.
    """
    from laser.sources.prepare import prepare_dataset

    return prepare_dataset(experiment.data, Path(experiment.cache_dir).expanduser())


def train(experiment: Experiment, directory: Path | None = None) -> "TrainedRun":
    """Train Laser once: make what is missing, select on validation, test once, and record everything as a run.

    Args:
        experiment: what to train.
        directory: the run's own. What it holds of the run goes on. None makes one of the experiment's name, or takes
            the latest with `resume`.

    Raises:
        UserError: settings, data, LLM, store or disk do not allow it.
        FloatingPointError: the loss became infinite or not a number.
    """
    from laser.cluster.ray_private import check_temporary_folder
    from laser.storage.locks import held
    from laser.tracking.fetched import fetched_checkpoint
    from laser.tracking.runs import open_records
    from laser.training.prepare import make_artifacts
    from laser.training.run.directory import remember_run, remembered_run, run_directory
    from laser.training.run.outcome import run_results
    from laser.training.run.transfer import starting_checkpoint
    from laser.training.train import preflight, run_tags, train_laser

    check_places(experiment)
    if experiment.training.num_workers:
        check_temporary_folder()
    tracking = open_records(experiment.tracking)
    start = experiment.training.start_from
    if start is not None and not Path(start).expanduser().exists():
        earlier = tracking.find(start, setting="training.start_from")
        checkpoint = fetched_checkpoint(earlier, Path(experiment.cache_dir).expanduser() / "transfers" / start)
        experiment = with_overrides(experiment, {"training.start_from": str(checkpoint)})
    elif start is not None:
        starting_checkpoint(start)
    config = with_absolute_paths(experiment)
    if config.resume and directory is None:
        run_directory(Path(config.output_dir), config.name, resume=True)  # told before anything is made
    artifacts = make_artifacts(config)
    run_dir = directory or run_directory(Path(config.output_dir), config.name, config.resume)
    name = run_dir.name if directory is None else config.name
    with held(run_dir, "trains this run"):
        preflight(run_dir, config, artifacts)
        with tracking.run(config, "train", name, run_tags(config, artifacts), remembered_run(run_dir)) as run:
            remember_run(run_dir, run.run_id)
            outcome = train_laser(config, artifacts, run_dir, run.report)
            run.record(run_results(run_dir))
    data = open_dataset(artifacts.dataset_directory).facts()
    return TrainedRun(run, config.cache_dir, run_dir, outcome, data, tracking.address())


def train_once(experiment: Experiment, directory: Path) -> StoredRun:
    """Return the latest finished run of these settings on these data that holds ranks of test users.

    Where the store has none, it is trained now, or goes on after an interruption.

    Args:
        experiment: what to train; its `tracking` names an MLflow store, in which runs are found.
        directory: the run gets a folder in it, named by the settings.

    Raises:
        UserError, FloatingPointError: as `train` raises them.
    """
    from laser.config.identity import settings_key
    from laser.tracking.cells import CellStore
    from laser.tracking.runs import open_tracking

    tracking = open_tracking(experiment.tracking)
    key = settings_key(experiment, load_data(experiment).fingerprint)
    found = next((run for run in CellStore(tracking).finished(key) if run.has("ranks")), None)
    if found is not None:
        return found
    trained = train(experiment, directory.absolute() / key)
    run = tracking.find(trained.stored.run_id)
    run.summarise({"points": 1.0, "search_seconds": trained.outcome.seconds})
    return run


def open_run(run_id: str, cache_dir: str = ".cache/laser", tracking_uri: str | None = None) -> "Run":
    """Return a recorded run: of `train`, of `jobs/train.py`, or a trial of a sweep.

    Args:
        run_id: as summaries and MLflow's page show it.
        cache_dir: folder of prepared data and the converted LLM; what is missing there is made again.
        tracking_uri: the store of runs, as `tracking.uri`.

    Raises:
        UserError: there is no such run.
    """
    from laser.tracking.runs import open_records

    return Run(open_records(TrackingConfig(uri=tracking_uri), must_exist=True).find(run_id), cache_dir)


def open_model(name: str, cache_dir: str = ".cache/laser", tracking_uri: str | None = None) -> "Model":
    """Return a model that recommends.

    Args:
        name: a registered model, such as `models:/laser@champion`, or the folder of a packaged one.
        cache_dir: folder of prepared data, the converted LLM and packaged models.
        tracking_uri: the store of registered models, as `tracking.uri`.

    Raises:
        UserError: there is no such model.
    """
    from laser.serving.opening import open_named

    cache = Path(cache_dir).expanduser().absolute()
    return Model(open_named(name, None, TrackingConfig(uri=tracking_uri), cache), cache)


@dataclass(frozen=True)
class Run:
    """A recorded run."""

    stored: StoredRun
    """Where it is recorded."""
    cache_dir: str
    """Folder of what runs share."""

    @property
    def metrics(self) -> "pd.DataFrame":
        """The recorded metrics: a row for the untrained model, the selected epoch on validation, and the test."""
        import pandas as pd

        rows = {title: self.stored.figures(f"{prefix}/") for prefix, title in SPLITS.items()}
        return pd.DataFrame.from_dict({title: row for title, row in rows.items() if row}, orient="index")

    @property
    def history(self) -> "pd.DataFrame":
        """The validation metrics after each epoch; epoch 0 is the untrained model."""
        import pandas as pd

        course = self.stored.course("val/")
        return pd.DataFrame({name: pd.Series(dict(points)) for name, points in course.items()}).rename_axis("epoch")

    def evaluate(self, split: Literal["val", "test"] = "test") -> "pd.DataFrame":
        """Rank the whole catalogue for each user of a split once more, from the run's files alone.

        Returns:
            One row, with a column for each metric.
        """
        import pandas as pd

        return pd.DataFrame([evaluated(self.stored, self.cache_dir, split).metrics], index=[split])

    @cached_property
    def model(self) -> "Model":
        """The model of the selected epoch, packaged in the cache when it is first asked for."""
        from laser.serving.opening import packaged_run

        cache = Path(self.cache_dir).expanduser().absolute()
        return Model(packaged_run(self.stored, cache), cache)


@dataclass(frozen=True)
class TrainedRun(Run):
    """A run that has just ended."""

    directory: Path
    """Its checkpoints, history and ranks."""
    outcome: "Outcome"
    data: dict[str, Any]
    """What summaries say of the data."""
    address: str | None
    """Opens on the runs in a browser, while MLflow's page is served."""


@dataclass(frozen=True)
class Evaluated:
    """What a run reaches when it is evaluated again."""

    metrics: dict[str, float]
    data: dict[str, Any]
    """What summaries say of the data."""
    findings: list[str]
    """What makes the evaluation doubtful, a sentence each."""


def evaluated(run: StoredRun, cache_dir: str, split: Literal["val", "test"]) -> Evaluated:
    """Evaluate a recorded run from its files: the selected weights, item embeddings, recommender and config.

    Raises:
        UserError: its data or its LLM have changed since.
    """
    from laser.data.evaluated import evidence
    from laser.evaluation.findings import findings
    from laser.training.evaluate import evaluate_checkpoint

    with tempfile.TemporaryDirectory() as temporary:
        config, inputs, checkpoint = opened(run, cache_dir, Path(temporary))
        ranks = evaluate_checkpoint(config, inputs, checkpoint, split)
        examples = (inputs.test if split == "test" else inputs.val).examples
        found = findings(evidence(inputs.dataset, examples, ranks))
        return Evaluated(ranks.metrics(), inputs.dataset.facts(), found)


def opened(run: StoredRun, cache_dir: str, directory: Path) -> tuple[Experiment, "Inputs", Path]:
    """Fetch a recorded run into a directory; return its experiment, its opened artifacts, and its selected checkpoint.

    Raises:
        UserError: its data or its LLM have changed since.
    """
    from laser.training.evaluate import check_same_content
    from laser.training.prepare import prepare_inputs

    checkpoint = run.fetch("checkpoint", directory)
    config = validate(Experiment, read_yaml(run.fetch("config.yaml", directory)))
    recommender = run.fetch("recommender", directory) if config.uses_recommender else None
    config = with_absolute_paths(with_overrides(config, {"cache_dir": cache_dir}))
    config = config.model_copy(update={"selection": AllUsers()})  # whom it trained on plays no part
    inputs = prepare_inputs(config, recommender)
    check_same_content(config, inputs.artifacts, run.tags())
    return config, inputs, checkpoint


@dataclass(frozen=True)
class Model:
    """A trained model that makes lists. Its LLM is loaded when it is first asked."""

    package: "Package"
    """The model as a folder that stands by itself."""
    cache: Path

    @cached_property
    def answerer(self) -> "Answerer":
        """What makes the lists, with further options (`laser.serving.answerer`)."""
        from laser.serving.answerer import Answerer

        return Answerer.open(self.package, self.cache)

    def recommend(
        self,
        histories: Mapping[str, Sequence[str]] | Sequence[Sequence[str]],
        k: int = 10,
        mask_history: bool = True,
        allowed: Sequence[str] | None = None,
        excluded: Sequence[str] = (),
    ) -> "pd.DataFrame":
        """Recommend to histories.

        Args:
            histories: raw ids of items, the oldest first, by user; without names, users are called 0, 1, ….
            k: items of a list.
            mask_history: leave out the items of the history.
            allowed: the only items to recommend; None for the whole catalogue.
            excluded: items never to recommend.

        Returns:
            A row for each item of each list: `user`, `rank`, `item`, `title`, `score`, as `jobs/recommend.py` writes
            them. A score is missing where nothing is known of the history and the most popular items stand.
        """
        import pyarrow as pa

        from laser.serving.lists import Batches, batches_of, list_rows
        from laser.serving.queries import Options

        if not isinstance(histories, Mapping):
            histories = {str(number): history for number, history in enumerate(histories)}
        answer = Batches(self.answerer, Options.of(k, mask_history, allowed, excluded))
        batches = batches_of({user: tuple(items) for user, items in histories.items()}, BATCH_USERS)
        return pa.concat_tables([list_rows(answer(batch)) for batch in batches]).to_pandas()

    def recommend_to(self, users: Sequence[str] | None = None, **options: Any) -> "pd.DataFrame":
        """Recommend to users of the model's data, from all that is known of them.

        Args:
            users: raw ids; None for all.
            options: as those of `recommend`.

        Raises:
            UserError: a user is not among the data, or these have changed since the training.
        """
        from laser.serving.lists import dataset_histories
        from laser.serving.opening import run_dataset

        dataset = run_dataset(self.package.config, self.cache, self.package.identity.fingerprint)
        return self.recommend(dataset_histories(dataset, "all", users), **options)
