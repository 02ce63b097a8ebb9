"""From files and `section.key=value` to a configuration: who wins, and what a mistake is told."""

import pytest

from laser.config.compose import flatten, load_config, with_overrides
from laser.config.identity import stage_key
from laser.config.schema import Experiment, TuneExperiment
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
        ("recommender.type=gru4rec", 'recommender.type: "gru4rec"; wanted one of'),
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
