"""Local paths of an experiment, for processes that start in another directory."""

from pathlib import Path

from laser.config.compose import with_overrides
from laser.config.schema import Experiment


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
