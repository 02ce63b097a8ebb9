"""Local places become absolute, whatever family names them; wheels and hub ids stay."""

from laser.config.compose import with_overrides
from laser.config.paths import with_absolute_paths
from laser.config.schema import Experiment


def test_places_that_are_here_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llm").mkdir()
    config = with_overrides(
        Experiment(), {"llm.source": "llm", "recommender.type": "text_sasrec", "recommender.text_source": "llm"}
    )
    absolute = with_absolute_paths(config)
    assert (absolute.llm.source, absolute.recommender.text_source) == (str(tmp_path / "llm"),) * 2
    assert absolute.output_dir == str(tmp_path / "runs")
    elsewhere = with_overrides(config, {"llm.source": "some/model", "recommender.text_source": "pypi:llm==1"})
    kept = with_absolute_paths(elsewhere)
    assert (kept.llm.source, kept.recommender.text_source) == ("some/model", "pypi:llm==1")
