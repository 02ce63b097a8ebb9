"""What processes that only start a training know of the stages that runs share: enough to name and check them.

Opening them (`laser.training.inputs`) imports the models and takes seconds; a sweep starts such a process a trial.
"""

from dataclasses import dataclass
from pathlib import Path

from laser.config.compose import with_overrides
from laser.config.schema import Experiment

HOW_IT_RUNS = (
    "cache_dir",
    "output_dir",
    "resume",
    "data.memory_mib",
    "llm.implementation",
    "llm.compile",
    "tracking.uri",
    "tracking.experiment",
    "training.num_workers",
    "training.zero_stage",
    "training.cpus_per_worker",
    "training.use_gpu",
    "training.max_failures",
    "training.micro_batch_size",
    "training.inference_batch_tokens",
    "training.gradient_checkpointing",
)
"""Settings of where and how an experiment runs, which change no result: they may differ when it goes on."""


@dataclass(frozen=True)
class SharedStages:
    """Stages that are made."""

    dataset: str
    """The dataset's name."""
    fingerprint: str
    """The dataset's content hash."""
    recommender: Path | None
    """Directory of the trained ID-based recommender; None where nothing reads one."""


def make_stages(config: Experiment) -> SharedStages:
    """Make the shared stages that are missing.

    Raises:
        UserError: bad data, settings or LLM source, or a dataset that leaves nothing to train or validate on.
    """
    from laser.training.inputs import prepare_inputs

    return prepare_inputs(config).stages


def with_absolute_paths(config: Experiment) -> Experiment:
    """The same experiment with its local paths absolute, for processes that start in another directory."""
    overrides: dict[str, str] = {
        "cache_dir": str(Path(config.cache_dir).expanduser().absolute()),
        "output_dir": str(Path(config.output_dir).expanduser().absolute()),
    }
    named = {"data.path": config.data.path, "llm.source": config.llm.source}
    if config.training.start_from is not None:
        named["training.start_from"] = config.training.start_from
    for key, value in named.items():
        local = Path(value).expanduser()
        if not value.startswith("pypi:") and local.exists():
            overrides[key] = str(local.absolute())
    return with_overrides(config, overrides)
