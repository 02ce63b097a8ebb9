"""Benchmarks: published rows that are found by the data's counts, and a small real one with baselines and Laser."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from laser.config.compose import load_config
from laser.config.jobs import ReproduceJob
from laser.engine.peak import peak_memory
from laser.records.published import Published, published_files, read_published
from laser.reproduction.report.benchmark import Entry, benchmark_page, verdicts

ROW = {"name": "A", "source": "its paper", "numbers": {"Beauty": {"recall@10": 0.08, "ndcg@10": 0.05}}}
COUNTS = {"num_users": 22363, "num_items": 12101, "num_interactions": 198502}


def entry(name: str, recall: float, ndcg: float) -> Entry:
    values = [{f"{metric}@{k}": value for metric, value in (("recall", recall), ("ndcg", ndcg)) for k in (5, 10, 50)}]
    return Entry(name, {}, values, values, 1.0, 6, 0, 1000, 20, 300.0)


def test_rows_are_found_by_the_counts_of_the_data_whatever_its_folder_is_called():
    files = published_files()
    assert {path.stem for path in files} == {"amazon-2014", "scientific-2018"}
    for path in files:
        published = read_published(path.stem)
        for name, counts in published.datasets.items():
            assert published.dataset_of(SimpleNamespace(name="mine", **counts)) == name
            assert all(0.02 < value < 0.3 for _, numbers in published.of(name) for value in numbers.values())
            assert all(row.source for row, _ in published.of(name))
        assert published.dataset_of(SimpleNamespace(**{**COUNTS, "num_users": 1})) is None
    toys = {row.name: numbers for row, numbers in read_published("amazon-2014").of("Toys")}
    assert toys["RPG"] == {"recall@10": 0.0869, "ndcg@10": 0.0490} and len(toys) == 8


@pytest.mark.parametrize("wrong", [{"Sports": {"recall@10": 0.1}}, {"Beauty": {"hits@10": 0.1}}])
def test_a_row_of_an_unknown_dataset_or_metric_is_refused(wrong):
    with pytest.raises(ValueError, match=r"A: (Sports|Beauty)"):
        Published(title="t", datasets={"Beauty": COUNTS}, rows=({**ROW, "numbers": wrong},))


def test_a_verdict_needs_both_metrics_and_names_what_is_not_beaten():
    rows = Published(title="t", datasets={"Beauty": COUNTS}, rows=(ROW,)).of("Beauty")
    assert "above 1 of 1 published rows." in verdicts([entry("laser", 0.081, 0.051)], rows)[0]
    assert "above 0 of 1 published rows; not above A." in verdicts([entry("laser", 0.081, 0.049)], rows)[0]
    assert "above 0 of 1" in verdicts([entry("laser", 0.08, 0.051)], rows)[1]  # a tie is not above


def test_a_peak_of_memory_is_that_of_its_block():
    with peak_memory() as large:
        held = bytearray(200 << 20)
        held[::4096] = b"1" * len(held[::4096])
        del held
    with peak_memory() as small:
        pass
    with peak_memory() as outer:
        held = bytearray(200 << 20)
        held[::4096] = b"1" * len(held[::4096])
        del held
        with peak_memory() as inner:
            pass
    if large.mib is not None:
        assert large.mib - small.mib > 150 and outer.mib - inner.mib > 150


def test_the_page_names_sources_and_costs():
    published = read_published("amazon-2014")
    facts = {"command": "python jobs/reproduce.py", "commit": "abc", "hardware": "2 cores"}
    ours = [entry("hybrid", 0.087, 0.05), entry("laser", 0.1, 0.06)]
    page = "\n".join(block.markdown() for block in benchmark_page(published, "Beauty", "Beauty: 3", ours, facts))
    assert "laser, history masked: 0.1000 / 0.0600, above 10 of 10 published rows." in page
    assert "OneRec-Foundation" in page and "GRLM's result files" in page and "tokens read" in page


def test_the_benchmark_experiment_is_one_setting_for_every_dataset():
    config = Path("configs/experiment/benchmark.yaml")
    job = load_config(ReproduceJob, [f"config={config}", "benchmark=amazon-2014", "data=x"], None)
    assert job.recommender.type == "hybrid" and job.training.stage1_epochs == 0
