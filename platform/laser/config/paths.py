"""The places that an experiment names: checked before any work, and absolute for processes that start elsewhere."""

from pathlib import Path

from laser.config.compose import flatten, with_overrides
from laser.config.fields import marked
from laser.config.jobs import ReferencesJob
from laser.config.marks import PLACE, THIS_SESSION
from laser.config.schema import Experiment
from laser.storage.places import check_place


def check_places(config: Experiment | ReferencesJob) -> None:
    """Refuse folders that cannot be made or written, before any long work. The check leaves nothing behind.

    Raises:
        UserError: names the setting, the folder and the remedy.
    """
    check_place(config.cache_dir, "cache_dir", may_be_read_only=True)
    check_place(config.output_dir, "output_dir")


def with_absolute_paths(config: Experiment) -> Experiment:
    """Return the experiment with its local paths absolute.

    A place that is not the session's own stays as it is unless it exists here: it may be a wheel or a hub id.
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
