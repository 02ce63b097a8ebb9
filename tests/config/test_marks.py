"""Marks at the fields of the schema, and the lists of settings that follow from them."""

from typing import Annotated

import pytest
from pydantic import PositiveInt

from laser.cli.help import help_text
from laser.config.families.recommenders import NoRecommenderConfig
from laser.config.fields import marked, settings, without
from laser.config.jobs import BenchmarkJob, ReproduceJob
from laser.config.marks import (
    ARTIFACT,
    FINGERPRINTED,
    HOW_IT_RUNS,
    LABEL,
    LLM_SOURCE,
    MAY_DIFFER_ON_RESUME,
    NUM_EPOCHS,
    PAPER_SEQUENCE,
    PERMISSION,
    PLACE,
    RECORDING,
    REPORTED_APART,
    SEED,
    THIS_SESSION,
    Mark,
)
from laser.config.schema import DataConfig, Experiment, LLMConfig, TuneExperiment
from laser.config.section import Section

RED, GREEN = Mark("red"), Mark("green")


class Inner(Section):
    plain: int = 0
    red: Annotated[int, RED] = 0


class Outer(Section):
    open: Inner = Inner()
    closed: Annotated[Inner, RED] = Inner()
    either: Annotated[Inner | NoRecommenderConfig, GREEN] = Inner()
    unmarked: int = 0


def test_a_mark_holds_for_all_inside_a_section_and_in_every_family():
    assert marked(Outer, RED) == ("open.red", "closed.plain", "closed.red", "either.red")
    assert sorted(marked(Outer, GREEN)) == ["either.plain", "either.red", "either.type"]
    assert {*marked(Outer, RED, GREEN)} == {*marked(Outer, RED), *marked(Outer, GREEN)}
    assert marked(Outer) == ()


def test_without_leaves_out_settings_and_whole_sections():
    assert without(Outer(), RED) == {"open": {"plain": 0}, "either": {"plain": 0}, "unmarked": 0}
    assert without(Outer()) == Outer().model_dump(mode="json")


RUNS = (
    "cache_dir output_dir resume data.memory_mib llm.implementation llm.cache_mib llm.compile "
    "tracking.uri tracking.experiment "
    "training.num_workers training.min_workers training.resize_seconds training.zero_stage training.cpus_per_worker "
    "training.use_gpu training.capture training.max_failures training.max_loss_growth training.micro_batch_size "
    "training.inference_batch_tokens training.gradient_checkpointing"
)
LISTS = {
    "how an experiment runs": (Experiment, (HOW_IT_RUNS,), RUNS),
    "how a search runs": (
        TuneExperiment,
        (HOW_IT_RUNS,),
        f"{RUNS} search.max_concurrent_trials search.max_retries search.driver_resource search.register_as "
        "search.baselines",
    ),
    "no setting of the weights": (
        Experiment,
        (HOW_IT_RUNS, LABEL, FINGERPRINTED, MAY_DIFFER_ON_RESUME),
        f"{RUNS} name data.path llm.source training.test",
    ),
    "free on resume": (
        TuneExperiment,
        (MAY_DIFFER_ON_RESUME,),
        "llm.source training.test search.num_samples",
    ),
    "epochs": (Experiment, (NUM_EPOCHS,), "training.stage0_epochs training.stage1_epochs training.stage2_epochs"),
    "seeds": (Experiment, (SEED,), "training.seed recommender.seed recommender.trained.seed selection.surrogate.seed"),
    "repetitions of a result": (
        Experiment,
        (SEED, LABEL, THIS_SESSION, FINGERPRINTED),
        "training.seed recommender.seed recommender.trained.seed selection.surrogate.seed name cache_dir output_dir "
        "resume data.path",
    ),
    "no record": (
        Experiment,
        (THIS_SESSION, RECORDING),
        "cache_dir output_dir resume tracking.uri tracking.experiment",
    ),
    "the paper's sequence": (
        Experiment,
        (PAPER_SEQUENCE,),
        "training.stage1_epochs training.stage2_epochs training.batch_size",
    ),
    "no row of a report": (
        Experiment,
        (HOW_IT_RUNS, LABEL, REPORTED_APART),
        f"{RUNS} name data.path data.format llm.source",
    ),
    "places": (
        Experiment,
        (PLACE,),
        "cache_dir output_dir data.path llm.source head.text_source training.start_from recommender.text_source "
        "recommender.fitted.text_source recommender.trained.text_source",
    ),
    "LLMs": (
        Experiment,
        (LLM_SOURCE,),
        "llm.source head.text_source recommender.text_source recommender.fitted.text_source "
        "recommender.trained.text_source",
    ),
    "no setting of a dataset": (DataConfig, (HOW_IT_RUNS, FINGERPRINTED), "path memory_mib"),
    "no setting of the LLM's outputs": (
        LLMConfig,
        (HOW_IT_RUNS, PERMISSION),
        "implementation cache_mib compile trust_remote_code",
    ),
}


@pytest.mark.parametrize("case", LISTS)
def test_the_settings_that_carry_a_mark(case):
    schema, marks, keys = LISTS[case]
    assert sorted(marked(schema, *marks)) == sorted(keys.split())


def test_the_settings_that_artifacts_depend_on():
    sections = ("data.", "prompt.", "recommender.", "bituning.", "selection.")
    inside = [key for key in settings(Experiment) if key.startswith(sections)]
    single = (
        "llm.source llm.trust_remote_code head.text_width head.text_source head.collaborative head.standardise "
        "warm_start.epochs training.every_prefix "
        "training.prefixes_per_user training.train_fraction training.train_users training.validation_users "
        "training.seed"
    )
    assert sorted(marked(Experiment, ARTIFACT)) == sorted([*inside, *single.split()])


def test_members_of_a_family_agree_on_the_marks_of_a_key_that_they_share():
    for schema in (TuneExperiment, BenchmarkJob, ReproduceJob):
        for key, fields in settings(schema).items():
            marks = [{mark for mark in field.metadata if isinstance(mark, Mark)} for field in fields]
            assert all(found == marks[0] for found in marks), key


def test_help_says_nothing_of_marks():
    kept, marked_field = (help_text("job", schema, None) for schema in (_Bare, _Bearing))
    assert marked_field == kept


class _Bare(Section):
    """A section."""

    number: PositiveInt = 1
    """A number."""


class _Bearing(Section):
    """A section."""

    number: Annotated[PositiveInt, RED] = 1
    """A number."""
