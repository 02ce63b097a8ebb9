"""Suite fitted measures every contestant on every dataset, and our ranks are those of scipy's product."""

import pytest

from laser.benchmarks.fitted import PRODUCT, run
from laser.config.jobs import BenchmarkConfig, BenchmarkJob


def test_every_contestant_has_seconds_and_a_ratio():
    settings = {"fitted_users": (300, 200), "fitted_items": (120, 90), "rounds": 2, "warmup_rounds": 0}
    result = run(BenchmarkJob.model_validate({"suite": "fitted", "benchmark": settings}))
    first, second = result.figures["300 x 120"], result.figures["200 x 90"]
    assert {name.split(":")[0] for name in first["seconds"]} == {
        "scipy", "torch", "item_knn", "popularity", "hybrid", "ease",
    }  # fmt: skip
    assert {name.split(":")[0] for name in second["seconds"]} == {"scipy", "item_knn", "popularity"}
    for figures in (first, second):
        assert figures["same_ranks"] == 1.0 and figures["times_the_yardstick"][PRODUCT]["median"] == 1.0
        assert set(figures["times_the_yardstick"]) == set(figures["seconds"])
    assert len(result.rows) == len(first["seconds"]) + len(second["seconds"])


@pytest.mark.parametrize("items", [(), (5, 6)])
def test_datasets_need_users_and_items(items):
    with pytest.raises(ValueError, match=f"fitted_users has 1 datasets and fitted_items {len(items)}; give both"):
        BenchmarkConfig(fitted_users=(5,), fitted_items=items)
