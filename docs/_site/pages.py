"""What a site needs beside pages that read well on GitHub: links that it can follow, and the order of the contents.

README.md, CONTRIBUTING.md and CHANGELOG.md are pages of the site. Other files outside docs/ are downloads, as they are.
"""

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""File in the root of the repository → the page that it is."""
LINK = re.compile(r"\]\((?![a-z]+://|#)([^)#\s]+)(#[^)\s]*)?\)")


def with_links(text: str, written_in: Path, shown_in: Path, docs: Path) -> str:
    """Return Markdown with links that the site can follow.

    Args:
        text: Markdown.
        written_in: the folder from which its links start.
        shown_in: the folder of the page that shows it.
        docs: the folder of all pages.
    """

    def rewrite(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(written_in / link[1]))
        if target.parent == docs.parent and target.name in PAGES:
            target = docs / PAGES[target.name]
        elif target.is_dir() and (target / "README.md").exists():
            target /= "README.md"
        return f"]({os.path.relpath(target, shown_in)}{link[2] or ''})"

    return LINK.sub(rewrite, text)


def contents(children: list[str]) -> str:
    """Return the directive that puts pages below this one, in this order."""
    return "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(children) + "\n```\n"


def setup(app: Sphinx) -> dict[str, Any]:
    docs = Path(app.srcdir)

    def read(_: Sphinx, name: str, source: list[str]) -> None:
        folder = (docs / name).parent
        source[0] = with_links(source[0], folder, folder, docs)
        if name in app.config.site_children:
            source[0] += contents(app.config.site_children[name])

    def include(_: Sphinx, file: Path, name: str, source: list[str]) -> None:
        source[0] = with_links(source[0], docs / file.parent, (docs / name).parent, docs)

    app.add_config_value("site_children", {}, "env")
    app.connect("source-read", read)
    app.connect("include-read", include)
    return {"parallel_read_safe": True}
