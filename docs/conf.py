"""How Sphinx builds these pages: `make docs`."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_site"), str(DOCS.parent / "platform")]

project = "Laser"
html_title = "Laser"
html_theme = "furo"
html_show_copyright = False
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_site/static"]
html_css_files = ["laser.css"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "extension"]
exclude_patterns = ["_build", "_site"]
root_doc = "index"

myst_heading_anchors = 4  # named as GitHub names them, so that links hold on both
suppress_warnings = ["misc.highlighting_failure"]  # excerpts of code have an …, which no language has

# What stands below a page in the contents. It is not in the pages, because GitHub would show it as text.
site_children = {
    "guides/README": [
        "your-data", "your-llm", "search-space", "recommend-and-serve", "python", "gpu-workstation", "clusters", "aws",
        "kubernetes", "reproduce", "no-network",
    ],
    "recipes/README": ["recommender", "layout", "split", "metric", "tuning-method", "decoder", "selector", "table"],
    "reference/README": ["jobs", "settings", "python", "seams"],
    "results/README": [
        "table-4/report", "table-7/report", "additions/report", "dealrec/report", "collectivekv/report",
        "collectivekv-movielens/report", "collectivekv-mini/report", "peso/report", "peso-mini/report",
        "peso-rates-mini/report", "text-cache/report", "table-4-late/report", "families-scientific/report",
        "families-scientific-masked/report", "ways-scientific-mini/report",
    ],
    "decisions/README": ["house", "models", "training", "data", "recommenders", "evaluation", "cluster"],
}  # fmt: skip

# Docstrings are Google's form; a name between single backticks is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
