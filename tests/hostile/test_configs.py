"""Malformed configurations: one clear line, in bounded time; nothing of the environment comes in, no code runs."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laser.config.compose import load_config
from laser.config.schema import Experiment, TuneExperiment
from laser.errors import LONGEST, UserError

ALIASES = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * 9)}]\n" for i in range(30))
FILES = {
    "a number": ("12\n", ":1: holds str, wanted sections"),
    "text": ("just text\n", ":1: holds str, wanted sections"),
    "NUL": ("name: a\0b\n", "special characters are not allowed"),
    "control character": ("name: a\x07b\n", "special characters are not allowed"),
    "control character, escaped": ('name: "a\\x1b[2J"\n', "name: "),
    "NUL, escaped": ('data: {path: "a\\0b"}\n', "data.path: 'a\\x00b' holds a character that is no text"),
    "half a character": ('name: "\\ud800"\n', "name: '\\ud800' holds a character that is no text"),
    "environment": (
        "name: ${oc.env:SOMEBODYS_SECRET}\n",
        ":1: '${oc.env:SOMEBODYS_SECRET}'; interpolations are not read",
    ),
    "environment, computed": ("a: oc.env\nname: ${${a}:SOMEBODYS_SECRET}\n", ":2: '${${a}:"),
    "environment in extends": ("extends: ['${oc.env:SOMEBODYS_SECRET}']\n", ":1: '${oc.env:"),
    "interpolation of itself": ("name: ${name}\n", "interpolations are not read"),
    "half an interpolation": ("name: ${\n", "interpolations are not read"),
    "aliases of aliases": (ALIASES, "more than 10000 values, aliases written out"),
    "alias of itself": ("a: &a [*a]\n", "nested too deeply, or within itself"),
    "many values": (f"prompt: {{attributes: [{'a,' * 11_000}]}}\n", "more than 10000 values"),
    "deep lists": ("a: " + "[" * 2000 + "]" * 2000, "recursion"),
    "deep mappings": ("a: " + "{a: " * 2000 + "1" + "}" * 2000, "recursion"),
    "deep blocks": ("".join(" " * i + "a:\n" for i in range(1200)), "recursion"),
    "code": ("name: !!python/object/apply:os.system ['touch ran']\n", ":1: could not determine a constructor"),
    "an object": ("name: !!python/object:os.x {}\n", ":1: could not determine a constructor"),
    "a path object": ("name: !!python/object/apply:pathlib.PosixPath [a]\n", ":1: could not determine a constructor"),
    "a tag of its own": ("name: !secret x\n", ":1: could not determine a constructor"),
    "an empty integer": ("training: {seed: !!int ''}\n", "a value does not fit its tag"),
    "a time that is none": ("name: !!timestamp soon\n", "a value does not fit its tag"),
    "bytes": ("name: !!binary aGk=\n", "name: b'hi'; wanted text"),
    "a set": ("name: !!set {a, b}\n", "; wanted text, a number, true, false or null"),
    "beyond 64 bits": (
        "training: {seed: 99999999999999999999}\n",
        "training.seed: 99999999999999999999 is beyond 64 bits",
    ),
    "10^400": (f"mformer: {{num_experts: 1{'0' * 400}}}\n", "mformer.num_experts: 1000"),
    "10^5000": (f"mformer: {{num_experts: 1{'0' * 5000}}}\n", "Exceeds the limit (4300 digits)"),
    "a seed beyond 32 bits": ("training: {seed: 4294967296}\n", "training.seed: 4294967296; should be less than"),
    "NaN": ("training: {learning_rate: .nan}\n", "training.learning_rate: NaN; should be a finite number"),
    "infinity": ("training: {learning_rate: .inf}\n", "training.learning_rate: Infinity; should be a finite number"),
    "1e400": ("training: {learning_rate: 1e400}\n", "training.learning_rate: Infinity"),
    "a long value": (f"name: {'x' * 100_000}\n", 'name: "xxx'),
    "a long file": ("#" * (1 << 20) + "\nname: a\n", "longer than 1048576 characters"),
    "a section that is a number": ("mformer: 3\n", "mformer: 3; should be an object"),
    "a type that is a list": ("recommender: {type: [1]}\n", "recommender.type: [1]; wanted one of"),
    "a text that is a number": (
        "data: {title_column: 2020}\n",
        "title_column: 2020; should be a valid string, in quotes",
    ),
    "a list that is a text": (
        "prompt.attributes: brand\n",
        'attributes: "brand"; should be a valid array, such as [a, b]',
    ),
    "null as key": ("~: 2\n", ":1: '~' is no key"),
    "a list as key": ("[1, 2]: 3\n", ":1: found unhashable key"),
    "two documents": ("name: a\n---\nname: b\n", ":2: but found another document"),
    "a name that is a path": ("name: ../../x\n", 'name: "../../x"; string should match'),
    "an absolute name": ("name: /etc/passwd\n", 'name: "/etc/passwd"; string should match'),
    "extends with NUL": ('extends: ["a\\0b"]\n', "a NUL in the name"),
    "extends a folder": ("extends: ['.']\n", "Is a directory"),
    "extends a long name": (f"extends: ['{'x' * 5000}']\n", "File name too long"),
    "extends somebody's home": ("extends: ['~nobody-of-this-name/x']\n", "No such file or directory"),
}


def refused(arguments: list[str], schema: type = Experiment) -> str:
    with pytest.raises(UserError) as caught:
        load_config(schema, arguments, None)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= LONGEST
    return message


@pytest.mark.parametrize("case", FILES)
def test_a_malformed_file_is_told_in_one_line(case, tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEBODYS_SECRET", "5ec2e7" * 3)
    monkeypatch.chdir(tmp_path)
    text, message = FILES[case]
    (tmp_path / "bad.yaml").write_text(text)
    for schema in (Experiment, TuneExperiment):
        said = refused(["config=bad.yaml"], schema)
        assert message in said
        assert "5ec2e7" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("name=${oc.env:SOMEBODYS_SECRET}", "name:1: '${oc.env:SOMEBODYS_SECRET}'; interpolations are not read"),
        ("name=${oc.decode:${oc.env:SOMEBODYS_SECRET}}", "interpolations are not read"),
        ("training.seed=1\nother: b", "is more than one value"),
        ("training.seed=!!python/name:os.system", "cannot be read"),
        ("training.seed=caf\udce9", "cannot be read"),  # bytes of the command line that are not UTF-8
        ("name=a\nother: b", r'name: "a\nother: b"; string should match'),
        ("name=!!python/name:os.system", 'name: "!!python/name:os.system"; string should match'),
        ("data.path=caf\udce9", "holds a character that is no text"),
        (f"training.seed={'9' * 5000}", "cannot be read"),
        (f"mformer.num_experts={'[' * 2000}", "cannot be read"),
        ("config=/dev/zero", "longer than 1048576 characters"),
        ("config=.", "Is a directory"),
        ("config=loop.yaml", "Too many levels of symbolic links"),
        ("config=binary.yaml", "not UTF-8 text"),
    ],
)
def test_a_malformed_argument_is_told_in_one_line(argument, message, tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEBODYS_SECRET", "5ec2e7" * 3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x04\x95")  # how a pickle starts
    assert message in refused([argument])


PIECES = st.sampled_from(
    [
        "name",
        "mformer",
        "extends",
        ": ",
        ":",
        "\n",
        "  ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "<<",
        "!!set ",
        "~",
        "'",
        '"',
        "|",
    ]
    + [
        "${",
        "}",
        "${oc.env:HOME}",
        "1e9999",
        "0x",
        ".inf",
        "2020-01-01",
        "9" * 20,
        "\t",
        "---",
        "...",
        "%",
        "#",
        "?",
        "\\",
    ]
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=14).map(lambda parts: "".join(parts).encode())))
def test_any_bytes_are_a_configuration_or_a_mistake(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    arguments = [[f"config={file}"], [f"name={content.decode('utf-8', 'surrogateescape')}"]]
    for given_arguments, schema in itertools.product(arguments, (Experiment, TuneExperiment)):
        try:
            load_config(schema, given_arguments, None)
        except UserError as error:
            assert str(error).isprintable()
