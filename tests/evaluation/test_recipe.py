"""The recipe of a metric of lists is an example that works."""

from pathlib import Path

import numpy as np
import pytest

from laser.evaluation import lists


def test_the_metric_of_the_recipe_tells_even_from_uneven_lists(repo: Path):
    text = (repo / "docs" / "recipes" / "metric.md").read_text().partition("   def gini")[2].partition("```")[0]
    names = dict(vars(lists))
    exec("def gini" + text.replace("\n   ", "\n"), names)  # its second part is the dictionary with the new entry
    assert set(names["LIST_METRICS"]) == {*lists.LIST_METRICS, "gini@10"}
    even = np.arange(20, dtype=np.int32).reshape(2, 10)
    one_item = np.zeros((5, 10), dtype=np.int32)
    gini = names["LIST_METRICS"]["gini@10"]
    assert gini(even, lists.ListContext(20, even[:, 0])) == pytest.approx(0)
    assert gini(one_item, lists.ListContext(1000, one_item[:, 0])) == pytest.approx(0.999)
