"""The tree of docs/architecture.md, made of the files and the first line of each module's docstring.

python tests/architecture/tree.py     # writes it into the page
"""

import ast
import subprocess
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs/architecture.md"
START, END = "<!-- tree: python tests/architecture/tree.py -->", "<!-- end of the tree -->"
PACKAGE = Path("platform/laser")


def tracked_files() -> list[Path]:
    """Files that Git knows or would take, relative to the repository's root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    return sorted({Path(line) for line in listing.stdout.splitlines() if (REPO / line).exists()})


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse((REPO / path).read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def tree() -> str:
    """Rooms, and the modules of each, indented; the line of a folder is that of its `__init__.py`."""
    modules = [path for path in tracked_files() if path.is_relative_to(PACKAGE) and path.suffix == ".py"]
    lines = ["```", "platform/laser/"]
    folders = {path.parent for path in modules}
    entries = sorted((*modules, *folders), key=lambda path: [*path.parts[:-1], path.parts[-1]])
    for entry in entries:
        if entry == PACKAGE or entry.name == "__init__.py":
            continue
        depth = len(entry.relative_to(PACKAGE).parts)
        name = f"{entry.name}/" if entry in folders else entry.name
        label = f"{'  ' * depth}{name}"
        lines.append(f"{label:<28} {summary(entry / '__init__.py' if entry in folders else entry)}".rstrip())
    return "\n".join([*lines, "```"])


def write() -> None:
    """Put the tree between its marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n\n{tree()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write()
