"""A real bundle, put together and run where only the packages of a GPU machine are installed."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from laser.bundle.make import make_bundle
from laser.config.compose import load_config
from laser.config.jobs import BundleJob
from laser.errors import UserError
from tiny.histories import save_histories

THERE = ("torch", "transformers", "pyarrow", "numpy", "psutil", "accelerate", "peft", "pytest")
"""Packages of a GPU machine; what is not installed here is left out."""
CARRIED = ("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions")
NEVER = ("ray", "deepspeed", "mlflow", "gguf", "sklearn", "scipy", "pydantic", "omegaconf", "pandas")
TAG = "manylinux_2_17_x86_64"
EXPERIMENTS = "benchmark.gpu_experiments=[configs/experiment/paper.yaml,configs/experiment/late-prefix.yaml]"
EXPERIMENT = {
    "prompt": {"attributes": [], "instruction": "Sum up", "max_history_items": 4, "max_item_tokens": 8},
    "recommender": {"type": "sasrec", "hidden_size": 8},
    "mformer": {"num_layers": 1, "hidden_size": 16, "num_heads": 2},
}


def needed(names: tuple[str, ...]) -> dict[str, Distribution]:
    """Return these packages and all that they need, but for what a bundle carries."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found or name in CARRIED[:4]:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for line in found[name].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def gpu_machines_python(folder: Path) -> Path:
    """Make an environment of links to the packages, without all others."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    for package in needed(THERE).values():
        tops = {path.parts[0] for path in package.files or () if path.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            source = Path(str(package.locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    return folder / "bin" / "python"


def pack(name: str, folder: Path) -> None:
    """Make a wheel of an installed package, so that the test needs no index."""
    package = distribution(name)
    compiled = any(path.suffix == ".so" for path in package.files or ())
    version = f"cp3{sys.version_info[1]}"
    tags = f"{version}-{version}-{TAG}" if compiled else "py3-none-any"
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{package.version}-{tags}.whl", "w") as wheel:
        for path in package.files or ():
            if path.parts[0] != ".." and path.suffix != ".pyc" and Path(str(path.locate())).is_file():
                wheel.write(str(path.locate()), str(path))


def job(tmp_path: Path, llm: Path, **overrides: object) -> BundleJob:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    experiment = tmp_path / "late.yaml"
    experiment.write_text(yaml.safe_dump({**EXPERIMENT, "bituning": {"prefix_position": "after"}}))
    words = [
        f"config={tmp_path / 'tiny.yaml'}",
        f"cache_dir={tmp_path / 'cache'}",
        f"data.path={save_histories(tmp_path / 'raw')}",
        "data.k_core=1",
        f"llm.source={llm}",
        "llm.compile=false",
        "benchmark.gpu_scale=small",
        "benchmark.gpu_seeds=[0]",
        EXPERIMENTS,
        f"bundle.output={tmp_path / 'bundle'}",
        f"bundle.python=3.{sys.version_info[1]}",
        *(f"{name.replace('__', '.')}={value}" for name, value in overrides.items()),
    ]
    return load_config(BundleJob, words, None)


def test_a_folder_that_is_there_is_refused(tmp_path: Path, tiny_llm: Path, repo: Path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(UserError, match=r"bundle\.output: .* is there already"):
        make_bundle(job(tmp_path, tiny_llm), repo, None)


def test_a_wheel_that_pip_does_not_find_is_named(tmp_path: Path, tiny_llm: Path, repo: Path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"bundle\.wheels: laser-lacks-this for Python 3\."):
        make_bundle(job(tmp_path, tiny_llm, bundle__wheels="[laser-lacks-this]"), repo, None)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_a_bundle_runs_the_suite_where_only_torch_transformers_and_pyarrow_are(
    tmp_path: Path, tiny_llm: Path, repo: Path, monkeypatch
):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in CARRIED:
        pack(name, wheels)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.chdir(repo)
    command = (
        f"python jobs/benchmark.py suite=gpu data.path={{data}} llm.source={{llm}} config={tmp_path / 'tiny.yaml'} "
        f"data.k_core=1 llm.compile=false benchmark.gpu_scale=small benchmark.gpu_seeds=[0] {EXPERIMENTS}"
    )
    summary = make_bundle(
        job(tmp_path, tiny_llm, bundle__part_mib=1, bundle__command=command, bundle__platforms=f"[{TAG}]"),
        repo,
        "abc",
    )
    assert len(summary["parts"]) > 1 and len(summary["wheels"]) == len(CARRIED)
    shutil.rmtree(tmp_path / "raw")
    shutil.rmtree(tmp_path / "cache")
    python = gpu_machines_python(tmp_path / "machine")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for package in NEVER:
        done = subprocess.run([python, "-c", f"import {package}"], env=environment, capture_output=True, check=False)
        assert b"ModuleNotFoundError" in done.stderr, package
    done = subprocess.run(
        [python, tmp_path / "bundle" / "unbundle.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    parts = json.loads(done.stdout.splitlines()[-1])["figures"]["parts"]
    failed = {name: part["error"] for name, part in parts.items() if "error" in part}
    without_peft = [name for name, error in failed.items() if "needs the peer's package" in error]
    assert set(failed) <= set(without_peft), failed
    assert all("val_ndcg@10" in parts[f"train {name} seed 0"] for name in ("paper", "late-prefix"))
    unpacked = tmp_path / "bundle" / "bundle"
    assert json.loads((unpacked / "runs" / "gpu.json").read_text())["parts"].keys() == parts.keys()
    tests, environment["PYTHONPATH"] = ["-m", "pytest", "-q", "tests/gpu"], "platform:site"
    done = subprocess.run([python, *tests], cwd=unpacked, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
