"""Values of the command line: text arrives as written, numbers as YAML reads them."""

import pytest

from laser.config.compose import load_config
from laser.config.jobs import ReproduceJob
from laser.config.schema import Experiment, TuneExperiment
from laser.errors import UserError

TEXTS = [
    "User #1's history", "Summarise: the user", "[x]", "{x}", "100 % sure", "%a", "@b", "`c`", "010", "1e5", "1_000",
    "no", "on", "2020-01-01", "", " padded ", "- a", "? b", "*c", "&d", "!e", "|", "> f", "a\nb", "'a' and 'b'", "'",
    "\u672c",
]  # fmt: skip


@pytest.mark.parametrize("text", [*TEXTS, "null", "~"])
def test_text_arrives_as_written(text):
    assert load_config(Experiment, [f"prompt.instruction={text}"], None).prompt.instruction == text
    if text not in ("{x}", ""):  # a mapping stands for the whole section, and no path is empty
        assert load_config(Experiment, [f"data={text}"], None).data.path == text


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_may_be_null_arrives_as_written(text):
    assert load_config(Experiment, [f"prompt.item_instruction={text}"], None).prompt.item_instruction == text


@pytest.mark.parametrize(
    ("argument", "value"),
    [("null", None), ("~", None), ("'null'", "null"), ('"null"', "null"), ('""', ""), ('"a\\nb"', "a\nb")],
)
def test_quotes_and_null_are_read_as_yaml_reads_them(argument, value):
    assert load_config(Experiment, [f"prompt.item_instruction={argument}"], None).prompt.item_instruction == value


def test_words_in_lists_and_choices_are_text_where_the_setting_takes_text():
    config = load_config(Experiment, ["prompt.attributes=[no, 010, 1e5, 'a #b', c#d]"], None)
    assert config.prompt.attributes == ("no", "010", "1e5", "a #b", "c#d")
    assert load_config(Experiment, ["prompt.attributes=null"], None).prompt.attributes is None
    assert load_config(Experiment, ["prompt={instruction: no}"], None).prompt.instruction == "no"
    assert load_config(ReproduceJob, ["runs=[12345678901234567890, 123e4567]"], None).runs == (
        "12345678901234567890",
        "123e4567",
    )
    space = ["space.prompt.item_instruction={choice: [null, no, 010]}", "space.head.standardise={choice: [no, yes]}"]
    assert (
        load_config(TuneExperiment, ["space={}", *space], None).space.items()
        >= {
            "prompt.item_instruction": {"choice": [None, "no", "010"]},
            "head.standardise": {"choice": [False, True]},
        }.items()
    )
    whole = load_config(TuneExperiment, ["space={prompt.instruction: {choice: [no, 1]}}"], None).space
    assert whole["prompt.instruction"] == {"choice": ["no", "1"]}


@pytest.mark.parametrize("text", ["010", "0o10", "08", "1:30", "'7'"])
def test_numbers_that_can_be_misread_are_refused(text):
    with pytest.raises(UserError, match="training.seed: .*; should be a valid integer, in decimal digits without"):
        load_config(Experiment, [f"training.seed={text}"], None)


@pytest.mark.parametrize(("text", "number"), [("10", 10), ("+5", 5), ("1_000", 1000), ("0x1f", 31), ("0", 0)])
def test_other_numbers_are_those_of_yaml(text, number):
    assert load_config(Experiment, [f"training.seed={text}"], None).training.seed == number


def test_a_number_and_a_word_for_one_setting():
    assert load_config(Experiment, ["training.zero_stage=2"], None).training.zero_stage == 2
    assert load_config(Experiment, ["training.zero_stage=auto"], None).training.zero_stage == "auto"


def test_a_list_with_a_comment_in_it_is_refused():
    with pytest.raises(UserError, match="prompt.attributes: .* cannot be read .*; quote it"):
        load_config(Experiment, ["prompt.attributes=[brand, #1]"], None)
