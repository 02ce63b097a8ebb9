"""Suite peers: what it refuses, and other libraries' scores are judged as our recommenders are."""

import os
import sys

import numpy as np
import pytest
import torch

from laser.benchmarks.peers import _judged, run
from laser.config.families.recommenders import SASRecConfig
from laser.config.jobs import BenchmarkJob
from laser.config.schema import DataConfig
from laser.data.batches import stack_right
from laser.errors import UserError
from laser.recommenders.ranks import recommender_ranks
from laser.recommenders.registry import build_recommender
from laser.sources.prepare import prepare_dataset
from tiny.tables import INTERACTIONS, ITEMS

PYTHONS = {f"{name}_python": os.environ.get(f"LASER_{name.upper()}_PYTHON") for name in ("recbole", "rectools")}
"""Pythons that have the libraries, which the project does not install."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "interactions.csv").write_text(INTERACTIONS + "u4,a,1,5\nu4,c,2,5\nu4,b,3,5\nu4,d,4,5\n")
    (folder / "items.csv").write_text(ITEMS)
    return folder


def job(place, family: str = "sasrec", **settings) -> BenchmarkJob:
    values = {
        "suite": "peers",
        "data": {"path": str(place)},
        "cache_dir": str(place / "cache"),
        "recommender": {"type": family},
        "benchmark": {"rounds": 1, "warmup_rounds": 0, "peer_epochs": 1, **settings},
    }
    return BenchmarkJob.model_validate(values)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("item_knn", {}, r"recommender\.type: suite=peers compares sasrec and bert4rec, not item_knn"),
        ("sasrec", {}, r"recbole_python, benchmark\.rectools_python: both null; name the Python"),
        ("sasrec", {"recbole_python": sys.executable}, r"recbole_python: .* cannot import recbole \(ModuleNotFound"),
        ("sasrec", {"rectools_python": "/no/python"}, r"rectools_python: /no/python: No such file"),
    ],
)
def test_a_suite_without_a_library_is_refused(family, settings, message, place):
    with pytest.raises(UserError, match=message):
        run(job(place, family, **settings))


def test_scores_of_a_library_are_judged_as_our_recommenders_are(place):
    dataset = prepare_dataset(DataConfig(path=str(place)), place / "cache")
    examples = dataset.examples("val")
    torch.manual_seed(0)
    model = build_recommender(SASRecConfig(hidden_size=8), dataset.num_items).eval()
    item_ids, mask = stack_right(*examples.histories(np.arange(len(examples))), 0)
    with torch.inference_mode():
        scores_BI = model.scores(torch.from_numpy(item_ids), torch.from_numpy(mask)).numpy()
    assert _judged(scores_BI, dataset) == recommender_ranks(model, examples).metrics()


@pytest.mark.slow
@pytest.mark.skipif(None in PYTHONS.values(), reason="LASER_RECBOLE_PYTHON and LASER_RECTOOLS_PYTHON name no Python")
@pytest.mark.parametrize("family", ["sasrec", "bert4rec"])
def test_libraries_train_on_our_sequences(family, place):
    figures = run(job(place, family, **PYTHONS)).figures
    assert set(figures["seconds_per_epoch"]) == {"laser", "recbole", "rectools"} == set(figures["val"])
    assert all(0 <= metrics["ndcg@10"] <= 1 for metrics in figures["val"].values())
