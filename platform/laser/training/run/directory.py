"""Each run has a directory of its own under `output_dir`: `<name>`, then `<name>-2`, `<name>-3`, … for later ones."""

import re
from pathlib import Path

from laser.errors import UserError


def run_directory(output_dir: Path, name: str, resume: bool) -> Path:
    """A new directory for a run of this name or, to resume, the latest one there is.

    Raises:
        UserError: there is nothing to resume.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    numbered = re.compile(re.escape(name) + r"(?:-(\d+))?")
    matches = (numbered.fullmatch(path.name) for path in output_dir.iterdir() if path.is_dir())
    latest = max((int(match[1] or 1) for match in matches if match), default=0)
    if resume:
        if not latest:
            raise UserError(f"resume: no run named {name!r} in {output_dir}; leave it out to start one")
        return output_dir / _numbered_name(name, latest)
    while True:  # another process may take the same number first
        latest += 1
        directory = output_dir / _numbered_name(name, latest)
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        return directory


def remember_run(directory: Path, run_id: str) -> None:
    """Note the MLflow run that records what happens in this directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run_id").write_text(f"{run_id}\n")


def remembered_run(directory: Path) -> str | None:
    """The MLflow run of earlier sessions in this directory."""
    path = directory / "run_id"
    return path.read_text().strip() if path.is_file() else None


def _numbered_name(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"
