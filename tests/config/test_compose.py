"""From files and `section.key=value` to a configuration: who wins, and what a mistake is told."""

import pytest

from laser.config.compose import flatten, load_config, with_overrides
from laser.config.identity import stage_key
from laser.config.jobs import BenchmarkJob, RecommendJob, ReferencesJob, ReproduceJob
from laser.config.schema import DataConfig, Experiment, TuneExperiment
from laser.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, text: str):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def test_later_sources_win(write):
    write("base.yaml", "mformer: {num_experts: 2, num_virtual_tokens: 3}\nname: base\n")
    top = write("top.yaml", "extends: [base.yaml]\nmformer: {num_virtual_tokens: 5}\n")
    config = load_config(Experiment, [f"config={top}", "name=first", "name=second"], None)
    assert (config.mformer.num_experts, config.mformer.num_virtual_tokens, config.name) == (2, 5, "second")


def test_a_setting_below_a_single_value_is_refused_and_not_lost():
    with pytest.raises(UserError, match=r"data\.split\.type: no such setting; data is a single value here"):
        load_config(RecommendJob, ["run_id=a", "data=mine", "data.split.type=temporal"], None)


JOBS = {  # with the file that each reads without config=
    "train, prepare, pretrain": (Experiment, "configs/quickstart.yaml"),
    "tune, demo": (TuneExperiment, "configs/tune/demo.yaml"),
    "reproduce": (ReproduceJob, "configs/experiment/reproduce.yaml"),
    "benchmark": (BenchmarkJob, None),
    "references": (ReferencesJob, None),
}


@pytest.mark.parametrize("job", JOBS)
def test_settings_of_the_sample_data_do_not_apply_to_other_data(job, repo, caplog):
    caplog.set_level("INFO")
    cls, file = JOBS[job]
    arguments = ["suite=train"] if job == "benchmark" else []
    default = file and repo / file
    for data in (["data=mine"], ["data=mine", "data.k_core=5"]):
        config = load_config(cls, [*arguments, *data], default)
        assert config.data == DataConfig(path="mine", k_core=5 if len(data) > 1 else 0)
    if file and ("quickstart" in file or "demo" in file):
        first, second = (record.getMessage() for record in caplog.records)
        settings = 'data.format="recbole", data.min_rating=4, data.k_core=30'
        assert first == f"{settings} of {default} do not apply, because data.path names other data"
        assert second.startswith('data.format="recbole", data.min_rating=4 of ')


def test_settings_of_the_sample_data_stay_with_it(repo, caplog):
    caplog.set_level("INFO")
    quickstart = repo / "configs" / "quickstart.yaml"
    sample = load_config(Experiment, [], quickstart).data
    assert (sample.format, sample.min_rating, sample.k_core) == ("recbole", 4.0, 30)
    assert load_config(Experiment, [f"data={sample.path}"], quickstart).data == sample
    changed = load_config(Experiment, ["data.k_core=10"], quickstart).data
    assert (changed.min_rating, changed.k_core) == (4.0, 10)
    chosen = load_config(Experiment, [f"config={quickstart}", "data.path=mine"], quickstart).data
    assert (chosen.path, chosen.format, chosen.k_core) == ("mine", "recbole", 30)
    assert not caplog.records


def test_another_type_replaces_its_section(write):
    file = write("sasrec.yaml", "recommender: {type: sasrec, hidden_size: 32}\n")
    kept = load_config(Experiment, [f"config={file}", "recommender.max_epochs=3"], None)
    assert (kept.recommender.type, kept.recommender.hidden_size) == ("sasrec", 32)
    replaced = load_config(Experiment, [f"config={file}", "recommender.type=bert4rec"], None)
    assert replaced.recommender == load_config(Experiment, ["recommender.type=bert4rec"], None).recommender


def test_a_setting_of_a_space_is_replaced_as_a_whole_and_null_takes_it_out(write):
    file = write("tune.yaml", "space:\n  mformer.num_experts: {choice: [2]}\n  mformer.hidden_size: {choice: [8]}\n")
    change = ["space.mformer.num_experts={randint: [1, 4]}", "space.mformer.hidden_size=null"]
    config = load_config(TuneExperiment, [f"config={file}", *change], None)
    assert config.space == {"mformer.num_experts": {"randint": [1, 4]}}


def test_dotted_keys_of_a_file_mean_what_they_mean_on_the_command_line(write):
    text = "training.seed: 5\ntraining: {batch_size: 3}\nrecommender.hidden_size: 32\nrecommender.type: stack\n"
    text = text.replace("recommender.hidden_size: 32", "recommender: {fitted.type: ease, fitted.l2: 5.0}")
    text += "space.mformer.num_experts: {choice: [3]}\nspace: {mformer.num_layers: {choice: [2]}}\n"
    config = load_config(TuneExperiment, [f"config={write('dotted.yaml', text)}"], None)
    assert (config.training.seed, config.training.batch_size) == (5, 3)
    assert config.recommender.model_dump(include={"type": True, "fitted": {"type", "l2"}}) == {
        "type": "stack",
        "fitted": {"type": "ease", "l2": 5.0},
    }
    assert config.space == {"mformer.num_experts": {"choice": [3]}, "mformer.num_layers": {"choice": [2]}}


def test_overrides_flattening_and_stage_keys_agree():
    config = load_config(Experiment, [], None)
    changed = with_overrides(config, {"mformer.num_experts": 3})
    assert flatten(changed) == {**flatten(config), "mformer.num_experts": 3}
    assert stage_key("x", config.data) == stage_key("x", changed.data)
    assert stage_key("x", config.mformer) != stage_key("x", changed.mformer)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("mformer.num_experts", "mformer.num_experts: not of the form key=value"),
        ("mformer.num_expert=3", "mformer.num_expert: no such setting; did you mean num_experts?"),
        ("mformer.num_experts=0", "mformer.num_experts: 0; should be greater than 0"),
        ("mformer.num_experts=many", 'mformer.num_experts: "many"; should be a valid integer'),
        ("mformer.num_experts=2.5", "mformer.num_experts: 2.5; "),
        ("mformer.num_experts=[1", "mformer.num_experts: '[1' cannot be read"),
        ("recommender.type=caser", 'recommender.type: "caser"; wanted one of'),
        ("config=nowhere.yaml", "config: nowhere.yaml: No such file or directory"),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(argument, message):
    with pytest.raises(UserError) as caught:
        load_config(Experiment, [argument], None)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2\n", "bad.yaml:2: "),
        ("name: a\nname: b\n", "bad.yaml:2: 'name' is given twice"),
        ("- name\n", "bad.yaml:1: holds list, wanted sections"),
        ("training.seed: 5\ntraining: {seed: 3}\n", "bad.yaml: 'training.seed' is given twice; keep one"),
        ("training: 5\ntraining.seed: 3\n", "bad.yaml: 'training' is given twice; keep one"),
        ("extends: base.yaml\n", "bad.yaml: extends: 'base.yaml'; wanted a list"),
        ("extends: [nowhere.yaml]\n", "bad.yaml: extends: "),
        ("extends: [bad.yaml]\n", "bad.yaml: extends: bad.yaml -> bad.yaml; break the cycle"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(write, text, message):
    with pytest.raises(UserError) as caught:
        load_config(Experiment, [f"config={write('bad.yaml', text)}"], None)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match=r"bad\.yaml: not UTF-8 text"):
        load_config(Experiment, [f"config={tmp_path / 'bad.yaml'}"], None)
