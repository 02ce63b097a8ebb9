"""Finds the settings in which two configurations differ."""

from collections.abc import Mapping
from pathlib import Path

from laser.config.compose import flatten, read_yaml, validate
from laser.config.schema import Experiment, TuneExperiment


def settings_of_file(name: str) -> dict[str, str] | None:
    """Return the flattened settings of a YAML file as text, as a run records them; None where there is no such file.

    Raises:
        UserError: the file holds no experiment or sweep.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        return None
    mapping = read_yaml(path)
    schema = TuneExperiment if {"space", "search"} & mapping.keys() else Experiment
    return {key: str(value) for key, value in flatten(validate(schema, mapping)).items()}


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return key → the two values, of the keys that differ; None where one side has no such setting."""
    return {key: (a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)}
