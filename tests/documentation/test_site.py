"""The site of docs/: what can be checked without its generator. `make docs` builds it, and a warning is an error."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

import laser.config.schema
from laser.cli.help import SectionHelp, described
from laser.config import jobs
from laser.config.compose import load_config
from laser.config.schema import Experiment, TuneExperiment
from laser.tuning.space import parse_space

REPO = Path(__file__).resolve().parents[2]
DOCS = REPO / "docs"
RENDERING = runpy.run_path(str(DOCS / "_site" / "rendering.py"))
CONF = runpy.run_path(str(DOCS / "conf.py"))
PAGES = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))


def test_every_page_has_a_place_in_the_contents():
    children = {
        (Path(page).parent / child).as_posix() for page, below in CONF["site_children"].items() for child in below
    }
    index = {line for line in (DOCS / "index.md").read_text().splitlines() if line in PAGES}
    assert children | index | {"index"} == set(PAGES)


def test_the_reference_has_every_setting_of_a_search():
    page = RENDERING["settings_of"]("laser.config.schema.TuneExperiment")
    keys = [entry.key for entry in described(TuneExperiment) if not isinstance(entry, SectionHelp)]
    assert len(keys) > 100
    assert not [key for key in keys if f"- `{key}` (" not in page]


def test_examples_of_docstrings_are_announced_as_code_and_sections_are_left_alone():
    docstring = ["Opens it.", "", "    x = 1", "    y = 2", "", "Args:", "    x: one.", "", "    more."]
    code = RENDERING["with_code"](docstring)
    assert code == ["Opens it.", "", "::", "", *docstring[2:]]


def test_links_lead_to_pages_of_the_site():
    link, guides = RENDERING["with_links"], DOCS / "guides"
    assert link("[a](../../README.md#jobs)", guides, guides, DOCS) == "[a](../index.md#jobs)"
    assert link("[a](../decisions/)", guides, guides, DOCS) == "[a](../decisions/README.md)"
    assert link("[a](docs/method.md)", REPO, DOCS, DOCS) == "[a](method.md)"
    assert link("[a](https://x.y/z.md) [b](#c)", guides, guides, DOCS) == "[a](https://x.y/z.md) [b](#c)"


@pytest.mark.parametrize("page", ["your-data.md", "search-space.md"])
def test_the_example_files_of_guides_load(page: str, tmp_path: Path):
    text = (DOCS / "guides" / page).read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    file = tmp_path / "example.yaml"
    file.write_text(example.replace("configs/", f"{REPO}/configs/"))
    tunes = "space:" in example
    config = load_config(TuneExperiment if tunes else Experiment, [f"config={file}"], None)
    if isinstance(config, TuneExperiment):
        assert set(parse_space(config.space, Experiment)) == set(config.space)


PAGES_OF_USE = [REPO / "README.md", DOCS / "method.md", *DOCS.glob("guides/*.md"), *DOCS.glob("reference/*.md")]
TEXT_OF_USE = "\n".join(page.read_text(encoding="utf-8") for page in PAGES_OF_USE).replace("\\\n", " ")
COMMANDS = sorted(set(re.findall(r"^ +(?:\S*/)?python (jobs/(?!config)\w+\.py.*)$", TEXT_OF_USE, flags=re.MULTILINE)))
"""What the pages say to type, each command with its settings."""


@pytest.mark.parametrize("command", COMMANDS)
def test_the_settings_of_each_command_of_the_pages_are_read(command: str):
    job, *words = shlex.split(re.sub(r"<[^>]*>", "x", command), comments=True)
    named = [Path(word.removeprefix("config=")) for word in words if word.startswith("config=")]
    if any(not (REPO / file).exists() for file in named):
        pytest.skip("the file is the reader's own")
    found = re.search(r'run_job\(main, (\w+)(?:, Path\("(.+?)"\))?', (REPO / job).read_text(encoding="utf-8"))
    assert found is not None
    schema = getattr(jobs, found[1], None) or getattr(laser.config.schema, found[1])
    words = [word.replace("config=", f"config={REPO}/") for word in words if word not in ("--help", "...")]
    load_config(schema, words, REPO / found[2] if found[2] else None)


def test_the_search_space_of_a_command_line_is_read():
    text = (DOCS / "guides" / "search-space.md").read_text(encoding="utf-8")
    [space] = re.findall(r"^    python jobs/tune.py ('space\..*?')", text, flags=re.MULTILINE)
    config = load_config(TuneExperiment, shlex.split(space), REPO / "configs" / "tune" / "demo.yaml")
    assert parse_space(config.space, Experiment)["mformer.num_layers"].values == (1, 2)
