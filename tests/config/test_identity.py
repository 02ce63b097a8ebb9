"""Names of runs and artifacts: pinned, so that what is stored under them is found again."""

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest

from laser.config.compose import flatten, load_config, with_overrides
from laser.config.fields import marked, sections, settings
from laser.config.identity import first_difference, recommender_key, settings_key, stage_key
from laser.config.marks import FINGERPRINTED, HOW_IT_RUNS, LABEL, MAY_DIFFER_ON_RESUME, NUM_EPOCHS
from laser.config.schema import Experiment, TuneExperiment
from laser.data.prepare import prepare_dataset
from laser.errors import UserError
from laser.training.run.checkpoint import dependent_settings
from laser.tuning.sweep import open_sweep

# Arguments, and the keys of the run, its recommender, its weights' settings and a sweep's settings. Where one of these
# keys changes, stored runs and checkpoints are not found again.
PINNED = [
    ("", "laser-aa8a6c5013", "bert4rec-639860f5a7", "weights-a361ebe1d7", "sweep-e10808d439"),
    (
        "recommender.type=stack recommender.trained.type=sasrec",
        "laser-0c1886f119",
        "stack-27891a839e",
        "weights-45892ddfdb",
        "sweep-be81b8c300",
    ),
    (
        "training.schedule=cosine training.stage0_epochs=2",
        "laser-25dc1a169b",
        "bert4rec-639860f5a7",
        "weights-1648cd8d65",
        "sweep-aac1c33768",
    ),
    (
        "data.path=/tmp data.format=pairs data.k_core=3 data.seed=5",
        "laser-aa8a6c5013",
        "bert4rec-639860f5a7",
        "weights-cd11f2c8cf",
        "sweep-ffe79db5b3",
    ),
    (
        "head.width=16 head.standardise=true warm_start.epochs=2",
        "laser-cb551f9406",
        "bert4rec-639860f5a7",
        "weights-95d54cc553",
        "sweep-fe36b28f98",
    ),
    (
        "llm.num_layers=2 llm.dtype=fp32 llm.trust_remote_code=true llm.source=/tmp",
        "laser-f86dc409a4",
        "bert4rec-639860f5a7",
        "weights-fcacf1fdad",
        "sweep-62a832de41",
    ),
    (
        "cache_dir=/tmp/x resume=false tracking.uri=sqlite:///a.db tracking.experiment=e",
        "laser-aa8a6c5013",
        "bert4rec-639860f5a7",
        "weights-a361ebe1d7",
        "sweep-e10808d439",
    ),
    (
        "training.learning_rate=1e-3 training.temperature=.1 training.train_fraction=5e-1 training.batch_size=8 "
        "training.stage1_epochs=1",
        "laser-5b50ae8170",
        "bert4rec-639860f5a7",
        "weights-2a6676eb43",
        "sweep-443fed3477",
    ),
]


@pytest.mark.parametrize(("arguments", "run", "recommender", "weights", "sweep"), PINNED)
def test_keys_stay_what_they_are(arguments, run, recommender, weights, sweep, tmp_path):
    config = load_config(TuneExperiment, [*arguments.split(), f"output_dir={tmp_path}"], None)
    assert settings_key(config, "f") == run
    assert recommender_key(config.recommender, "f") == recommender
    experiment = load_config(Experiment, arguments.split(), None)
    assert stage_key("weights", differing(dependent_settings(experiment, "f"), Experiment)) == weights
    stored = json.loads((open_sweep(config).path / "sweep.json").read_text())["config"]
    assert stage_key("sweep", differing(stored, TuneExperiment)) == sweep


def differing(stored: dict[str, Any], cls: type[Experiment]) -> dict[str, Any]:
    """What differs from the defaults: a setting that the schema gains later changes nothing of it."""
    defaults = flatten(cls())
    return {key: value for key, value in stored.items() if defaults.get(key) != value}


def test_a_setting_that_the_schema_gained_meanwhile_counts_as_its_default():
    now = flatten(Experiment())
    before = {key: value for key, value in now.items() if key not in ("training.every_prefix", "selection.type")}
    assert first_difference(before, now, Experiment) is None
    assert first_difference(before, {**now, "training.every_prefix": True}, Experiment) == "training.every_prefix"


def test_the_key_of_a_dataset_stays_what_it_is(tmp_path):
    shop = tmp_path / "shop"
    shop.mkdir()
    rows = [f"u{user},i{(user + step) % 5},{step}" for user in range(4) for step in range(4)]
    (shop / "interactions.csv").write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    (shop / "items.csv").write_text("\n".join(["item,title", *(f"i{item},item {item}" for item in range(5))]) + "\n")
    for arguments, name in ((["data.memory_mib=99"], "shop-833283f640"), (["data.seed=5"], "shop-2df681dee3")):
        config = load_config(Experiment, [f"data={shop}", *arguments], None)
        assert prepare_dataset(config.data, tmp_path / "cache").path.name == name


FAMILIES = [section.model_fields["type"].default for section in sections(Experiment, "recommender")]
ANY = (True, False, 0, 1, 2, 3, 4, 0.3, 0.9, 1.5, "x", ["x"], None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_setting_changes_the_keys_unless_a_mark_says_that_it_changes_no_result(family):
    plain = with_overrides(Experiment(), {"recommender.type": family, "bituning.prefix": "none"})
    headed = with_overrides(plain, {"head.width": 8, "warm_start.epochs": 1, "training.schedule": "cosine"})
    headed = with_overrides(headed, {"selection.type": "random", "selection.num_users": 3})
    keys = [key for key in flatten(headed) if family == "none" or key.startswith("recommender.")]
    unchecked = {key for key in keys if not _check(plain, key) and not _check(headed, key)}
    assert unchecked <= {"training.alignment_epochs", "head.collaborative"}  # these need a prefix and a recommender
    assert flatten(plain).keys() <= settings(Experiment).keys()


def _check(base: Experiment, key: str) -> bool:
    """Check the keys under another value of a setting; False where no other value fits the rest, or it has none."""
    if key not in flatten(base):
        return False
    changed = _with_another_value(base, key)
    if changed is None:
        return False
    same_run = key in marked(Experiment, HOW_IT_RUNS, LABEL) or key.startswith("data.")
    assert (settings_key(changed, "f") == settings_key(base, "f")) == same_run, key
    free = marked(Experiment, HOW_IT_RUNS, LABEL, FINGERPRINTED, MAY_DIFFER_ON_RESUME)
    constant = key in marked(Experiment, NUM_EPOCHS) and base.training.schedule == "constant"
    same_weights = key in free or constant
    assert (dependent_settings(changed, "f") == dependent_settings(base, "f")) == same_weights, key
    return True


def _with_another_value(base: Experiment, key: str) -> Experiment | None:
    """The experiment with the first other value that the setting takes."""
    before = flatten(base)[key]
    twice = [2 * before] if isinstance(before, int) else []
    literals = [value for field in settings(Experiment)[key] for value in _literals(field.annotation)]
    for value in (*ANY, *twice, *literals):
        try:
            changed = with_overrides(base, {key: value})
        except UserError:
            continue
        if flatten(changed).get(key) != before:
            return changed
    return None


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    for part in get_args(annotation):
        yield from _literals(part)
