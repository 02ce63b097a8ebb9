"""Suite fitted measures every contestant on every dataset, and our ranks are those of scipy's product."""

import pytest

from laser.benchmarks.fitted import PRODUCT, run
from laser.config.families.recommenders import EASEConfig
from laser.config.jobs import BenchmarkConfig, BenchmarkJob


def test_every_contestant_has_seconds_and_a_ratio_and_what_a_family_refuses_is_told(monkeypatch):
    monkeypatch.setattr(EASEConfig, "max_items", 100)
    settings = {"fitted_users": (300, 200), "fitted_items": (90, 110), "rounds": 1, "warmup_rounds": 0}
    result = run(BenchmarkJob.model_validate({"suite": "fitted", "benchmark": settings}))
    first, second = result.figures["300 x 90"], result.figures["200 x 110"]
    assert {name.split(":")[0] for name in first["seconds"]} == {
        "scipy", "torch", "numpy", "item_knn", "popularity", "hybrid", "ease", "parts of the stack", "stack",
    }  # fmt: skip
    assert "ease: fit, 90 items" in first["seconds"] and first["refused"] == {}
    assert second["refused"]["ease"].startswith("recommender.type: ease inverts a matrix of 110 x 110")
    assert not any(name.startswith("ease") for name in second["seconds"])
    for figures in (first, second):
        assert figures["same_ranks"] == 1.0 and figures["times_the_yardstick"][PRODUCT]["median"] == 1.0
        assert set(figures["times_the_yardstick"]) == set(figures["seconds"])
    assert len(result.rows) == len(first["seconds"]) + len(second["seconds"])


@pytest.mark.parametrize("items", [(), (5, 6)])
def test_datasets_need_users_and_items(items):
    with pytest.raises(ValueError, match=f"fitted_users has 1 datasets and fitted_items {len(items)}; give both"):
        BenchmarkConfig(fitted_users=(5,), fitted_items=items)
