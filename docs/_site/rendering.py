"""What the site shows beside the pages as they are: settings, notebooks, and links that it can follow, as Markdown.

README.md, CONTRIBUTING.md and CHANGELOG.md are pages of the site. Other files outside docs/ are downloads, as they are.
"""

import json
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from laser.cli.help import SectionHelp, SettingHelp, described

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""File in the root of the repository → the page that it is."""
LINK = re.compile(r"\]\((?![a-z]+://|#)([^)#\s]+)(#[^)\s]*)?\)")


def settings_of(schema: str, without: str | None = None) -> str:
    """Return the settings of a schema, section by section, with types, defaults and meanings.

    Args:
        schema: dotted name of the class.
        without: another schema, whose settings are left out.
    """
    known = {repr(entry) for entry in described(_named(without))} if without else set()
    entries = [entry for entry in described(_named(schema)) if repr(entry) not in known]
    # Sphinx drops what stands before the first heading of a part that has any.
    heading = "### Without a section\n\n" if isinstance(entries[0], SettingHelp) else ""
    return heading + "\n\n".join(map(_line, entries))


def _line(entry: SectionHelp | SettingHelp) -> str:
    if isinstance(entry, SectionHelp):
        family = f", type {entry.family}" if entry.family else ""
        return f"### {entry.key}{family}\n\n{_plain(entry.meaning)}"
    default = "required" if entry.default is None else f"default `{entry.default}`"
    return f"- `{entry.key}` ({_plain(entry.kind)}; {default}): {_plain(entry.meaning)}"


def _plain(words: str) -> str:
    """Return words in which `*`, `<` and `[` mean themselves; what stands between backticks stays code."""
    return re.sub(r"(`[^`]*`)|([*<\[])", lambda found: found[1] or f"\\{found[2]}", words)


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def notebook(path: Path) -> str:
    """Return a Jupyter notebook with its stored outputs: text as it is, code and outputs as blocks."""
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


def with_code(docstring: list[str]) -> list[str]:
    """Return a docstring whose indented examples are code in reStructuredText too, where `::` announces them."""
    lines: list[str] = []
    for number, line in enumerate(docstring):
        before = [earlier for earlier in docstring[:number] if earlier.strip()][-1:]
        begins = line.startswith("    ") and number and not docstring[number - 1].strip()
        if begins and before and not before[0].startswith(" "):
            lines += ["::", ""]
        lines.append(line)
    return lines


def contents(children: list[str]) -> str:
    """Return the directive that puts pages below this one, in this order."""
    return "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(children) + "\n```\n"
