"""The directive `notebook`: a Jupyter notebook as part of a page, with the outputs that are stored in it."""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def markdown(path: Path) -> str:
    """Return a notebook as Markdown: text as it is, code and its outputs as blocks."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _parts(cell))


def _parts(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [f"```python\n{source}\n```", *(_output(output) for output in cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", [])})
    if "text/html" in data:
        return "```{raw} html\n" + "".join(data["text/html"]) + "\n```"
    return "```text\n" + "".join(data["text/plain"]).rstrip() + "\n```"


class Notebook(SphinxDirective):
    """Shows a notebook, whose path is relative to the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        self.env.note_dependency(str(path.resolve()))
        return self.parse_text_to_nodes(markdown(path), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("notebook", Notebook)
    return {"parallel_read_safe": True}
