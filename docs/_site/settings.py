"""The directive `settings`: the settings of a schema with their types, defaults and meanings, made from the schema.

    ```{settings} laser.config.schema.TuneExperiment
    :without: laser.config.schema.Experiment
    ```
"""

from importlib import import_module
from typing import Any, ClassVar

from docutils import nodes
from laser.cli.help import SectionHelp, SettingHelp, described
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def markdown(schema: str, without: str | None = None) -> str:
    """Return the settings of a schema as a Markdown list by section.

    Args:
        schema: dotted name of the class.
        without: another schema, whose settings are left out.
    """
    known = {repr(entry) for entry in described(_named(without))} if without else set()
    entries = [entry for entry in described(_named(schema)) if repr(entry) not in known]
    return "\n\n".join(_line(entry) for entry in entries)


def _line(entry: SectionHelp | SettingHelp) -> str:
    if isinstance(entry, SectionHelp):
        family = f", type {entry.family}" if entry.family else ""
        return f"**{entry.key}{family}.** {_text(entry.meaning)}"
    default = "required" if entry.default is None else f"default `{entry.default}`"
    return f"- `{entry.key}` ({_text(entry.kind)}; {default}): {_text(entry.meaning)}"


def _text(words: str) -> str:
    """Return plain words, in which `*` and `<` mean themselves, and what stands in backticks stays code."""
    parts = words.split("`")
    plain = [part.replace("<", "\\<").replace("*", "\\*").replace("[", "\\[") for part in parts[::2]]
    return "".join(part for pair in zip(plain, [*(f"`{code}`" for code in parts[1::2]), ""], strict=True) for part in pair)


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


class Settings(SphinxDirective):
    """Shows the settings of a schema."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"without": str}

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(markdown(self.arguments[0], self.options.get("without")))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True}
