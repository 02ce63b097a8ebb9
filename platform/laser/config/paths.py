"""Absolute paths for processes that start in another directory."""

from pathlib import Path

from laser.config.compose import flatten, with_overrides
from laser.config.fields import marked
from laser.config.marks import PLACE, THIS_SESSION
from laser.config.schema import Experiment


def with_absolute_paths(config: Experiment) -> Experiment:
    """Return the experiment with its local paths absolute.

    The session's own folders are made where they are missing. Any other place stays as it is unless it exists here: it
    may be a wheel or a hub id.
    """
    settings, own = flatten(config), marked(Experiment, THIS_SESSION)
    overrides: dict[str, str] = {}
    for key in marked(Experiment, PLACE):
        value = settings.get(key)  # a key of another family is missing
        if value is None:
            continue
        local = Path(str(value)).expanduser()
        if key in own or (not str(value).startswith("pypi:") and local.exists()):
            overrides[key] = str(local.absolute())
    return with_overrides(config, overrides)
