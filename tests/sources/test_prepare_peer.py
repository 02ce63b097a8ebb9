"""The benchmark's peer, a plain pandas script, makes the same dataset: a second way to the same sequences."""

import pytest

pytest.importorskip("pandas")


@pytest.mark.parametrize("layout", ["pairs", "amazon"])
def test_a_pandas_script_makes_the_same_sequences(layout: str, tmp_path_factory, tmp_path):
    from laser.benchmarks.contestants.preparation import ours, script
    from laser.benchmarks.generated import generate
    from laser.benchmarks.prepare import _check_equal

    source = generate(20_000, tmp_path_factory.getbasetemp()) / layout
    made = [work(layout, source, tmp_path / work.__name__, 5, 64) for work in (ours, script)]
    _check_equal(*made)
