"""The site of docs/: what can be checked without its generator. `make docs` builds it, and a warning is an error."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from laser.cli.help import SectionHelp, described
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


def test_the_search_space_of_a_command_line_is_read():
    text = (DOCS / "guides" / "search-space.md").read_text(encoding="utf-8")
    [space] = re.findall(r"^    python jobs/tune.py ('space\..*?')", text, flags=re.MULTILINE)
    config = load_config(TuneExperiment, shlex.split(space), REPO / "configs" / "tune" / "demo.yaml")
    assert parse_space(config.space, Experiment)["mformer.num_layers"].values == (1, 2)
