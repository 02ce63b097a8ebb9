"""The commands of docs/tutorial.md, and what they do, in one shell as a reader types them.

python tests/documentation/tutorial.py <folder>     # runs them in an installed checkout, and prints what they print
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs" / "tutorial.md"
INSTALLATION = 3
"""The first commands clone and install. Whoever runs the others has done that."""
MARK = "@@ command "


@dataclass(frozen=True)
class Step:
    """A command of the page, and what the page shows of its output."""

    command: str
    shown: str | None


def steps(text: str) -> list[Step]:
    """Return the commands of the page in their order. A block `text` after a command is its output."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    outputs = [block for kind, block in blocks[1:] if kind == "text"]
    assert all(kind in ("sh", "text") for kind, _ in blocks)
    following = [*blocks[1:], ("sh", "")]
    found = [
        Step(block.rstrip("\n"), after.rstrip("\n") if kind_after == "text" else None)
        for (kind, block), (kind_after, after) in zip(blocks, following, strict=True)
        if kind == "sh"
    ]
    assert len(outputs) == sum(step.shown is not None for step in found)
    return found


def run(commands: Sequence[str], folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Run commands in one shell, which ends at the first that fails; return what each prints on standard output.

    Raises:
        AssertionError: one has failed; it shows the end of standard error.
    """
    script = "\n".join(f"printf '\\n{MARK}{number}\\n'\n{command}" for number, command in enumerate(commands))
    with (folder / "tutorial.log").open("w") as log:
        ran = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            check=False,
        )
    parts = re.split(rf"^{MARK}\d+\n", ran.stdout, flags=re.MULTILINE)[1:]
    assert ran.returncode == 0, f"{commands[len(parts) - 1]}\n{(folder / 'tutorial.log').read_text()[-8000:]}"
    return parts


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    commands = [step.command for step in steps(PAGE.read_text(encoding="utf-8"))[INSTALLATION:]]
    for command, output in zip(commands, run(commands, folder, {}), strict=True):
        print(f"$ {command}\n{output}")
