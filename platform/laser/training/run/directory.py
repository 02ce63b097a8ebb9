"""Gives each run its own directory under `output_dir`: `<name>`, then `<name>-2`, `<name>-3`, … for later runs."""

import re
from pathlib import Path

from laser.errors import UserError
from laser.storage.files import write_whole


def run_directory(output_dir: Path, name: str, resume: bool) -> Path:
    """Make a new directory for a run of this name or, if `resume` is true, return the latest one.

    Raises:
        UserError: there is no run to resume.
    """
    if not resume:
        output_dir.mkdir(parents=True, exist_ok=True)
    numbered = re.compile(re.escape(name) + r"(?:-(\d+))?")
    matches = (numbered.fullmatch(path.name) for path in output_dir.glob("*") if path.is_dir())  # none without it
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
    """Store the id of the MLflow run that records the run of this directory."""
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / "run_id", f"{run_id}\n")


def remembered_run(directory: Path) -> str | None:
    """Return the stored id of the MLflow run, or None if no earlier session stored one."""
    path = directory / "run_id"
    return path.read_text().strip() if path.is_file() else None


def _numbered_name(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"
