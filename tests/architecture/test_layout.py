"""The shape of the house: what shadows nothing, what imports nothing heavy, what loads, what is documented."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("tree", Path(__file__).with_name("tree.py"))
assert _spec is not None and _spec.loader is not None
page = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(page)
CONFIGS = sorted((REPO / "configs").rglob("*.yaml"))
ROOMS = sorted(path.parent for path in (REPO / "platform" / "laser").glob("*/__init__.py"))
JOBS = sorted((REPO / "jobs").glob("*.py"))
PAGES = [*REPO.glob("*.md"), *sorted((REPO / "docs").rglob("*.md"))]

WITHOUT_FRAMEWORKS = """
import importlib, pkgutil, sys
for framework in ("ray", "deepspeed", "mlflow"):
    sys.modules[framework] = None  # import raises ImportError
import laser
fenced = {"laser.training.ray_train", "laser.engine.deepspeed"}
fenced |= {f"laser.serving.{name}" for name in ("model", "opening", "ray_lists", "recommending", "registration")}
rooms = ("laser.tuning", "laser.tracking.runs", "laser.tracking.sweeps", "laser.cluster", "laser.serving.http")
for module in pkgutil.walk_packages(laser.__path__, "laser."):
    if module.name not in fenced and not module.name.startswith(rooms):
        importlib.import_module(module.name)
"""

WITH_TORCH_ALONE = """
import sys
for package in "ray deepspeed mlflow gguf sklearn scipy omegaconf pandas matplotlib sqlalchemy optuna".split():
    sys.modules[package] = None  # import raises ImportError
import laser.tracking.runs
import laser.training.evaluate, laser.training.plain, laser.training.prepare, laser.training.train
import laser.families.bert4rec, laser.families.sasrec
import laser.benchmarks.encode, laser.benchmarks.rank, laser.benchmarks.train
"""

WITHOUT_TORCH = """
import importlib, pkgutil, sys
import laser.config
for module in pkgutil.walk_packages(laser.config.__path__, "laser.config."):
    importlib.import_module(module.name)
heavy = {"torch", "numpy", "transformers", "ray", "mlflow"} & set(sys.modules)
assert not heavy, heavy
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO / "platform"), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_platform_is_a_source_root_and_the_standard_librarys_name():
    assert not (REPO / "platform" / "__init__.py").exists()
    result = python("-c", "import platform, uuid; print(platform.python_version(), platform.__file__)")
    assert result.returncode == 0, result.stderr
    assert str(REPO) not in result.stdout


def test_core_rooms_import_without_ray_deepspeed_and_mlflow():
    result = python("-c", WITHOUT_FRAMEWORKS)
    assert result.returncode == 0, result.stderr


def test_training_in_this_process_imports_torch_transformers_and_pyarrow_alone():
    result = python("-c", WITH_TORCH_ALONE)
    assert result.returncode == 0, result.stderr


def test_config_room_imports_without_torch():
    result = python("-c", WITHOUT_TORCH)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(REPO)))
def test_every_config_loads(path: Path):
    from laser.config.compose import load_config
    from laser.config.jobs import BenchmarkJob
    from laser.config.schema import Experiment, TuneExperiment
    from laser.tuning.space import parse_space

    schema = {"tune": TuneExperiment, "benchmark": BenchmarkJob}.get(path.parent.name, Experiment)
    config = load_config(schema, [f"config={path}"], path)
    if isinstance(config, TuneExperiment):
        assert parse_space(config.space, Experiment)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_job_helps_at_once(path: Path):
    result = python("-X", "importtime", str(path), "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    imported = {
        line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")
    }
    # These are what makes a start slow; without them --help takes half a second on an idle core.
    assert not imported & {"torch", "numpy", "transformers", "ray", "mlflow", "pyarrow", "deepspeed"}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_jobs_are_thin(path: Path):
    assert len(path.read_text().splitlines()) <= 60


def test_the_page_of_the_architecture_shows_the_files_as_they_are():
    """Mended by `python tests/architecture/tree.py`."""
    assert page.tree() in page.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPO)))
def test_links_between_pages_lead_somewhere(path: Path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.name)
def test_a_room_is_small_enough_to_hold_one_idea(room: Path):
    files = list(room.rglob("*.py"))
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 2500
    for folder in {path.parent for path in files}:
        assert len(list(folder.glob("*.py"))) <= 15, folder  # more of them want a subfolder that says why
