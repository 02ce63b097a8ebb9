"""Makes a bundle: code, prepared data, converted LLM, recommenders, encodings, prompts and wheels.

The artifacts are made here as the suite will look for them there. The cache names them by content, so they are found
again in another folder. The text cache is left out: it takes gigabytes, and a GPU reads it anew within seconds.
"""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from laser.benchmarks.gpu_parts.speed import suite_experiments
from laser.benchmarks.gpu_parts.training import experiment
from laser.bundle.parts import Entry, write_parts
from laser.config.compose import with_overrides
from laser.config.jobs import BundleConfig, BundleJob
from laser.config.schema import Experiment
from laser.conversion.source import resolve_llm
from laser.errors import UserError
from laser.sources.registry import source_directory
from laser.storage.files import write_json
from laser.storage.places import check_new_folder
from laser.training.artifacts import Artifacts
from laser.training.prepare import make_artifacts

logger = logging.getLogger(__name__)

FORMAT = 1
CODE = ("platform", "jobs", "configs", "tests", "pyproject.toml", "constraints.txt", "LICENSE")
LEFT_OUT = ("__pycache__", ".pyc", ".ruff_cache", ".mypy_cache", ".pytest_cache")
CACHE = ".cache/laser"
"""Where jobs look for artifacts in the folder of the bundle."""


def make_bundle(job: BundleJob, project: Path, commit: str | None) -> dict[str, Any]:
    """Write the bundle's folder, and return what it holds.

    Args:
        job: the suite as it will run there, and the bundle.
        project: the folder of `platform/` and `jobs/`.
        commit: the code's, for the manifest: there is no repository on the other machine.

    Raises:
        UserError: the folder is there already, data or LLM are missing, or pip finds no wheel.
    """
    output = Path(job.bundle.output).expanduser().absolute()
    check_new_folder(output, "bundle.output")
    cache = Path(job.cache_dir).expanduser().absolute()
    data, llm = source_directory(job.data, cache), resolve_llm(job.llm.source, cache)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        aside, wheels = Path(folder) / "bundle", Path(folder) / "wheels"
        aside.mkdir()
        fetch_wheels(job.bundle, wheels, project / "constraints.txt")
        entries = [
            *code(project),
            *files(data, f"data/{data.name}"),
            *files(llm, f"llm/{llm.name}"),
            *files(wheels, "wheels"),
            *cached(job, llm, data, cache),
        ]
        unique = {entry.name: entry for entry in entries}
        parts = write_parts(unique.values(), aside, job.bundle.part_mib << 20)
        names = {"data": f"data/{data.name}", "llm": f"llm/{llm.name}"}
        manifest = {
            "format": FORMAT,
            "commit": commit,
            "python": job.bundle.python,
            "platforms": list(job.bundle.platforms),
            "wheels": sorted(wheel.name for wheel in wheels.iterdir()),
            "command": job.bundle.command.format(**names),
            "files": len(unique),
            "parts": [asdict(part) for part in parts],
            "sha256": hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest(),
        }
        write_json(aside / "manifest.json", manifest)
        shutil.copy(Path(__file__).with_name("unbundle.py"), aside)
        aside.rename(output)
    size = sum(part.bytes for part in parts)
    logger.info("bundle %s: %d files in %d parts, %.1f MiB", output, len(unique), len(parts), size / 2**20)
    return {"bundle": str(output), **manifest, "mib": round(size / 2**20, 1)}


def code(project: Path) -> Iterator[Entry]:
    """Yield the files of the project that run and test it."""
    for name in CODE:
        place = project / name
        if place.is_file():
            yield Entry(name, place)
        elif place.is_dir():
            yield from files(place, name)


def files(folder: Path, name: str) -> Iterator[Entry]:
    """Yield the files of a folder under a name in the archive."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.endswith(LEFT_OUT) for part in relative.parts):
            yield Entry(f"{name}/{relative.as_posix()}", path)


def cached(job: BundleJob, llm: Path, data: Path, cache: Path) -> Iterator[Entry]:
    """Make the artifacts of all experiments of the suite, and yield their files as the cache there holds them."""
    for config in experiments(job):
        # The folder of the LLM names its content there, so that it must here.
        named = {"llm.source": str(llm), "data.path": str(data), "training.use_gpu": False, "llm.cache_mib": 0}
        artifacts = make_artifacts(with_overrides(config, named))
        for path in filter(lambda place: place.is_relative_to(cache), places(artifacts)):
            name = f"{CACHE}/{path.relative_to(cache).as_posix()}"
            yield from files(path, name) if path.is_dir() else [Entry(name, path)]


def experiments(job: BundleJob) -> list[Experiment]:
    """Return the experiments whose artifacts the suite reads."""
    if job.suite != "gpu":
        return [job]
    seeds, paths = job.benchmark.gpu_seeds, job.benchmark.gpu_experiments
    trained: Iterable[Experiment] = [experiment(job, path, seed) for path in paths for seed in seeds]
    return [*suite_experiments(job), *trained]


def places(artifacts: Artifacts) -> list[Path]:
    """Return the files and folders in the cache; the LLM and the texts are not among them."""
    found = [artifacts.dataset_directory, artifacts.prompts.items, artifacts.item_prompts.items]
    single = (artifacts.recommender, artifacts.item_embeddings, artifacts.text_means)
    found += [path for path in single if path is not None]
    found += [] if artifacts.users is None else [artifacts.users]
    return [*found, *artifacts.encodings.values()]


def fetch_wheels(bundle: BundleConfig, folder: Path, constraints: Path) -> None:
    """Download the wheels for the other machine, and those that they need.

    Raises:
        UserError: pip finds no wheel for that Python and platform.
    """
    folder.mkdir()
    if not bundle.wheels:
        return
    platforms = [word for platform in bundle.platforms for word in ("--platform", platform)]
    pinned = ["--constraint", str(constraints)] if constraints.is_file() else []
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--only-binary=:all:"]
    target = ["--python-version", bundle.python, "--implementation", "cp", *platforms]
    command = [*pip, *target, *pinned, "--dest", str(folder), *bundle.wheels]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise UserError(
            f"bundle.wheels: {' '.join(bundle.wheels)} for Python {bundle.python}: "
            f"{errors[-1].removeprefix('ERROR: ')}; check the names, bundle.python and bundle.platforms"
        )
