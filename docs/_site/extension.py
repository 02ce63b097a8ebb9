"""Sphinx's side of `rendering`: the directives `settings` and `notebook`, links, and what stands below a page.

```{settings} laser.config.schema.TuneExperiment
:without: laser.config.schema.Experiment
```

```{notebook} ../notebooks/first-steps.ipynb
```
"""

from pathlib import Path
from typing import Any, ClassVar

import rendering
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Settings(SphinxDirective):
    """Shows the settings of a schema."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"without": str}

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # the schema is no page, so Sphinx does not see that it changes
        text = rendering.settings_of(self.arguments[0], self.options.get("without"))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Notebook(SphinxDirective):
    """Shows a notebook, whose path is relative to the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        self.env.note_dependency(str(path.resolve()))
        return self.parse_text_to_nodes(rendering.notebook(path), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives, and change pages as they are read."""
    docs = Path(app.srcdir)

    def read(_: Sphinx, name: str, source: list[str]) -> None:
        folder = (docs / name).parent
        source[0] = rendering.with_links(source[0], folder, folder, docs)
        if name in app.config.site_children:
            source[0] += rendering.contents(app.config.site_children[name])

    def include(_: Sphinx, file: Path, name: str, source: list[str]) -> None:
        source[0] = rendering.with_links(source[0], docs / file.parent, (docs / name).parent, docs)

    def code(_: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
        lines[:] = rendering.with_code(lines)

    app.add_directive("settings", Settings)
    app.add_directive("notebook", Notebook)
    app.add_config_value("site_children", {}, "env")
    app.connect("source-read", read)
    app.connect("include-read", include)
    app.connect("autodoc-process-docstring", code, priority=400)  # before napoleon reads the sections
    return {"parallel_read_safe": True}
