"""YAML text as plain values."""

import pytest

from laser.errors import UserError
from laser.storage.yaml_text import as_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        ("+1_0.5e2", 1050.0),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("1_000", 1000),
        ("0x1f", 31),
        ("e5", "e5"),
        ("1e", "1e"),
        ("'1e-4'", "1e-4"),
        ("2020-01-01", "2020-01-01"),
        ("-.5E+3", -500.0),
        ("0", 0),
        ("010", "010"),  # 8 to YAML 1.1
        ("08", "08"),
        ("0o10", "0o10"),
        ("1:30", "1:30"),  # 90 to YAML 1.1
        ("1:30.5", "1:30.5"),
        ("0b11", 3),
        ("no", False),
        ("~", None),
        ("???", "???"),
        ("{<<: {a: 1, b: 2}, a: 3}", {"a": 3, "b": 2}),
        ("[&x {a: 1}, *x]", [{"a": 1}, {"a": 1}]),
    ],
)
def test_values_are_those_of_yaml_but_for_exponents_and_dates(text, value):
    read = parse_yaml(f"key: {text}", "here")["key"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    ["1e5", "2E-3", "1_0e2", "010", "0x1f", "1:30", "no", "~", "", "2020-01-01", ".5", "a: b", "#", "\u2028", "9"],
)
def test_text_is_written_so_that_it_is_read_as_text(text):
    content = {"path": text, "list": [text], "rate": 1e-5, text or "empty": None}
    assert parse_yaml(as_yaml(content), "here") == content


def test_an_empty_document_holds_nothing():
    assert parse_yaml("", "here") == parse_yaml("# a comment\n", "here") == parse_yaml("~", "here") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "here:2: 'a' is given twice"),
        ("a:\n  b: ${c}\n", "here:2: '${c}'; interpolations are not read"),
        ("a: 1\n~: 2\n", "here:2: '~' is no key"),
        ("a: !!bool maybe\n", "here: a value does not fit its tag"),
        ("a: &a [*a]\n", "here: nested too deeply, or within itself"),
    ],
)
def test_what_no_configuration_holds_is_refused_with_its_line(text, message):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "here")
    assert str(caught.value).startswith(message)
