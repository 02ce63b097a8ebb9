"""The figures of runs and sweeps, and the page of a sweep."""

import re
from dataclasses import replace
from xml.etree import ElementTree

from laser.config.schema import TrackingConfig
from laser.pages.document import as_html, as_markdown
from laser.pages.plots import as_file
from laser.pages.run_figures import run_figures
from laser.pages.sweep import TrialFacts, importance, sweep_figures, sweep_page
from laser.tracking.runs import open_tracking
from laser.tracking.sweeps import latest_sweep_run, read_trials
from tiny.store import record_small_sweep, trial_results


def trial(experts: int, tokens: int, score: float | None) -> TrialFacts:
    overrides = {"mformer.num_experts": experts, "mformer.num_virtual_tokens": tokens}
    val = {} if score is None else {"ndcg@10": score}
    return TrialFacts(f"K={experts} L={tokens}", "finished", overrides, val, seconds=10.0)


def frame(drawing: str) -> str:
    """Return the path of the frame around the best field."""
    found = re.search(r'<g id="best">\s*<path d="([^"]*)"', drawing)
    assert found is not None
    return found.group(1)


def test_a_run_has_the_figures_that_it_has_something_to_say_in(tmp_path):
    results = trial_results(4, 16, tmp_path)
    figures = run_figures(results.history, results.artifacts["ranks"])
    assert list(figures) == ["curves", "expert-load", "ranks"]
    for svg in figures.values():
        assert ElementTree.fromstring(as_file(svg)).tag == "{http://www.w3.org/2000/svg}svg"
    assert "best: 0.0376" in figures["curves"]
    assert run_figures(results.history[:1]) == {}


def test_the_best_of_a_heat_map_is_framed_wherever_it_stands():
    trials = [trial(4, 16, 0.1), trial(8, 16, 0.3), trial(8, 32, 0.2), trial(4, 32, None)]
    svg = sweep_figures(trials)["K-by-L"]
    assert svg.count('id="best"') == 1
    assert [value for value in ("0.1000", "0.3000", "0.2000") if value not in svg] == []
    moved = sweep_figures([*trials[:2], replace(trials[2], val={"ndcg@10": 0.4}), trials[3]])["K-by-L"]

    assert frame(svg) != frame(moved)


def test_of_equal_trials_the_first_is_framed_as_it_leads_the_table():
    equal = [trial(2, 4, 0.1), trial(4, 4, 0.1)]
    first = sweep_figures([trial(2, 4, 0.2), trial(4, 4, 0.1)])["K-by-L"]
    assert frame(sweep_figures(equal)["K-by-L"]) == frame(first)


def test_of_many_trials_the_best_alone_are_named_beside_their_cost():
    trials = [trial(experts, tokens, 0.01 * experts) for experts in (2, 4, 8) for tokens in (8, 16, 32)]
    assert sweep_figures(trials)["quality-by-cost"].count("K=") == 3
    assert sweep_figures(trials[:8])["quality-by-cost"].count("K=") == 8


def test_the_setting_that_decides_is_the_important_one():
    trials = [trial(experts, tokens, 0.01 * experts) for experts in (2, 4, 8) for tokens in (8, 16, 32)]
    shares = importance(trials)
    assert list(shares)[0] == "mformer.num_experts" and shares["mformer.num_experts"] > 0.9
    assert importance(trials[:3]) == {}, "three trials say nothing"
    assert importance([replace(one, val={"ndcg@10": 0.1}) for one in trials]) == {}


def test_the_page_of_a_recorded_sweep(tmp_path):
    tracking = open_tracking(TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}"))
    parent, _ = record_small_sweep(tracking, tmp_path)
    assert latest_sweep_run(tracking) == parent
    trials = read_trials(tracking, parent)
    assert {one.name: one.overrides["mformer.num_experts"] for one in trials}["K=8 L=32"] == 8
    blocks = sweep_page("quickstart", "A sweep.", trials)
    page, text = as_html("Sweep quickstart", blocks), as_markdown(blocks)
    assert "http" not in page and "<script" not in page
    assert page.count("<svg") == 4 and "mformer.num_experts=8 mformer.num_virtual_tokens=32" in text
    assert text.index("K=8 L=32") < text.index("K=4 L=16")
    tags = parent.tags()
    assert "NDCG@10 0.0432 on validation users" in tags["mlflow.note.content"]
    assert tags["mlflow.source.name"] and "K" not in tags


def test_the_page_of_a_sweep_that_has_nothing_yet():
    assert "1 running" in as_markdown(sweep_page("new", "A sweep.", [replace(trial(4, 8, None), state="running")]))
    assert "0 trials" in as_markdown(sweep_page("new", "A sweep.", []))
