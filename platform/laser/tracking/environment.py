"""What a figure depends on besides its configuration: hardware, versions, commit, command."""

import getpass
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from laser.storage.credentials import masked

PACKAGES = ("torch", "transformers", "ray", "deepspeed", "mlflow", "pyarrow", "scikit-learn", "numpy", "laser")


def environment() -> dict[str, Any]:
    """Return hardware, versions, commit and command of this process, ready for JSON; null where unknown."""
    return {
        "hardware": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpus": _gpus(),
        },
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": commit(),
        "command": masked(shlex.join([Path(sys.executable).name, *sys.argv])),
    }


def source_tags(surroundings: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags by which MLflow shows where a run comes from: the command, the commit, and whose run it is.

    Args:
        surroundings: what `environment` returned.
    """
    tags = {
        "commit": surroundings["commit"],
        "mlflow.source.git.commit": surroundings["commit"],
        "mlflow.source.name": surroundings["command"],
        "mlflow.source.type": "JOB" if "RAY_ADDRESS" in os.environ else "LOCAL",
        "mlflow.user": _user(),
    }
    return {name: value for name, value in tags.items() if value}


def _user() -> str | None:
    """Return the account's name; None in a container whose account has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return None


def commit() -> str | None:
    """Return the code's Git commit, with `-dirty` if files differ from it; None outside a repository."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("-dirty" if changes.stdout.strip() else "")


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
