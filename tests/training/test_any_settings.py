"""Any settings that are accepted train: random configurations are trained and evaluated on tiny data.

What is refused is refused by a `UserError`, before anything is trained.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch

from laser.cli.unused import unused_settings
from laser.config.compose import flatten, validate, with_overrides
from laser.config.schema import Experiment
from laser.config.section import Section
from laser.errors import UserError
from laser.llm.loading import choose_dtype
from laser.training.artifacts import Artifacts
from laser.training.prepare import make_artifacts
from laser.training.run.outcome import Outcome
from laser.training.train import preflight, train_laser
from tiny.settings import Pools, draw

NUM_USERS, NUM_ITEMS = 8, 8
QUICK, SLOW = 30, 1000
MOST_REFUSALS = 300
"""Drawn settings that are refused, at most, before some are accepted; 8 on average."""


@pytest.fixture(scope="module")
def pools(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Pools:
    """What the types of the settings do not say: places, names in the data and the LLM, and what takes long."""
    folder = tmp_path_factory.mktemp("any")
    write_data(folder / "data")
    names = {
        "name": ("any",),
        "cache_dir": (str(folder / "cache"),),
        "data": ({"path": str(folder / "data")},),
        "llm.source": (str(tiny_llm),),
        "text_source": (str(tiny_llm),),
        "prompt.attributes": (None, [], ["brand"], ["year", "brand"]),
        "finetuning.modules": (["q_proj"], ["v_proj", "down_proj"], ["gate_proj", "o_proj"]),
        "llm.num_layers": (None, 1, 2),
        "text_num_layers": (None, 1, 2),
    }
    elsewhere = {  # other tests start from other runs, and start workers
        "output_dir": ("runs",),
        "resume": (False,),
        "tracking": ({},),
        "training.start_from": (None,),
        "training.num_workers": (0,),
        "training.min_workers": (None,),
        "training.use_gpu": (False,),
    }
    costly = {
        "hidden_size": (8, 12, 24),  # a layer norm over two values, both dropped out, has no finite gradient
        "num_layers": (1, 2, 3),
        "max_epochs": (1, 2),
        "epochs": (0, 1),
        "alignment_epochs": (0, 1),
        "stage0_epochs": (0, 1),
        "stage1_epochs": (0, 1),
        "stage2_epochs": (0, 1),
        "inference_batch_tokens": (1, 60, 300),
    }
    return names | elsewhere | costly


@pytest.fixture(autouse=True)
def _uncompiled() -> Iterator[None]:
    """Let compiled functions run as they are written: compiling them takes longer than all else here."""
    with torch.compiler.set_stance("force_eager"):
        yield


def write_data(folder: Path) -> None:
    """Write histories of 4 to 7 of 8 items, with attributes that some items lack."""
    random, rows = Random(0), ["user,item,timestamp"]
    for user in range(NUM_USERS):
        for item in random.sample(range(NUM_ITEMS), 4 + user % 4):
            rows.append(f"u{user},i{item},{len(rows)}")
    folder.mkdir()
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    items = [f"i{item},Title {item},{'Acme' if item % 2 else ''},{1990 + item}" for item in range(NUM_ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item,title,brand,year", *items]) + "\n")


def accepted(seed: int, pools: Pools, run_dir: Path) -> tuple[Experiment, Artifacts]:
    """Draw settings until some are accepted, which is known before training."""
    random = Random(seed)
    for _ in range(MOST_REFUSALS):
        try:
            config = validate(Experiment, draw(Experiment, random, pools))
            artifacts = make_artifacts(config)
            preflight(run_dir, config, artifacts)
        except UserError as error:
            assert ": " in str(error), "it names the setting"
        else:
            return config, artifacts
    raise AssertionError(f"none of {MOST_REFUSALS} drawn settings is accepted")


def train_and_check(config: Experiment, artifacts: Artifacts, run_dir: Path) -> Outcome:
    """Train and evaluate; every number that is reported is one."""
    reported: list[float] = []
    outcome = train_laser(config, artifacts, run_dir, lambda metrics, epoch: reported.extend(metrics.values()))
    assert outcome.epochs == config.num_epochs
    assert all(map(math.isfinite, reported))
    assert (outcome.test is None) is not config.training.test
    return outcome


def without_unused(config: Experiment) -> Experiment:
    """Return the settings without those that are said to have no effect."""
    unused, defaults = unused_settings(config), flatten(Experiment())
    for name, section in config:
        if isinstance(section, Section):  # a family's own defaults
            defaults |= {f"{name}.{key}": value for key, value in flatten(type(section).model_construct()).items()}
    changed = {key: defaults[key] for key in unused if not key.startswith("recommender.")}
    if len(changed) < len(unused):
        changed["recommender.type"] = "none"
    config = with_overrides(config, changed)
    return without_unused(config) if unused_settings(config) else config  # what only those read has no effect now


@pytest.mark.parametrize(
    "seed", [*range(QUICK), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(QUICK, SLOW))]
)
def test_any_settings_that_are_accepted_train(seed, pools, tmp_path):
    config, artifacts = accepted(seed, pools, tmp_path / "run")
    outcome = train_and_check(config, artifacts, tmp_path / "run")
    if seed % 4 == 0:
        resumed = train_and_check(config, artifacts, tmp_path / "run")
        assert (resumed.val, resumed.test) == (outcome.val, outcome.test)
    elif seed % 4 == 2 and unused_settings(config):
        config = without_unused(config)
        assert not unused_settings(config)
        same = train_and_check(config, make_artifacts(config), tmp_path / "same")
        assert (same.val, same.test, same.selected) == (outcome.val, outcome.test, outcome.selected)
    elif seed % 4 == 1 and not (config.training.alignment_epochs or config.head.standardise):
        config = with_overrides(config, {
            "training.start_from": str(tmp_path / "run"), "warm_start.epochs": 0,
            "training.stage0_epochs": 0, "training.stage1_epochs": 0, "training.stage2_epochs": 0,
        })  # fmt: skip
        artifacts = make_artifacts(config)
        preflight(tmp_path / "again", config, artifacts)
        again = train_and_check(config, artifacts, tmp_path / "again")
        # A warm start reads the items in batches of its own, which bf16 rounds otherwise, so that near scores may swap.
        dtype = choose_dtype(config.llm.dtype, torch.device("cpu"))
        rounded = outcome.selected == "stage0-epoch0000" and dtype == torch.bfloat16
        if not (rounded or outcome.selected.startswith("stage2")):  # which keeps item embeddings of weights before
            assert (again.val, again.test) == (outcome.val, outcome.test)
