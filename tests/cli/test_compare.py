"""Two configurations are compared by what they say, wherever they come from."""

from laser.cli.compare import differences, settings_of_file
from laser.config.compose import flatten
from laser.config.schema import Experiment


def test_a_file_differs_from_a_run_in_what_it_sets(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("mformer.num_experts: 4\ntraining: {seed: 3}\n")
    recorded = {key: str(value) for key, value in flatten(Experiment()).items()}
    settings = settings_of_file(str(path))
    assert settings is not None
    assert differences(recorded, settings) == {"mformer.num_experts": ("8", "4"), "training.seed": ("0", "3")}
    assert differences(recorded, recorded) == {}


def test_a_sweep_has_settings_that_an_experiment_lacks(repo):
    sweep = settings_of_file(str(repo / "configs/tune/quickstart.yaml"))
    plain = settings_of_file(str(repo / "configs/quickstart.yaml"))
    assert sweep is not None and plain is not None
    assert "space" in differences(plain, sweep) and differences(plain, sweep)["space"][0] is None
    assert settings_of_file("no-such-file") is None
