"""The site of docs/: what can be checked without its generator. `make docs` builds it, and a warning is an error."""

import runpy
from pathlib import Path

from laser.cli.help import SectionHelp, described
from laser.config.schema import TuneExperiment

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


def test_links_lead_to_pages_of_the_site():
    link, guides = RENDERING["with_links"], DOCS / "guides"
    assert link("[a](../../README.md#jobs)", guides, guides, DOCS) == "[a](../index.md#jobs)"
    assert link("[a](../decisions/)", guides, guides, DOCS) == "[a](../decisions/README.md)"
    assert link("[a](docs/method.md)", REPO, DOCS, DOCS) == "[a](method.md)"
    assert link("[a](https://x.y/z.md) [b](#c)", guides, guides, DOCS) == "[a](https://x.y/z.md) [b](#c)"
