"""Put a bundle together on a machine without a network, and run its command. Needs Python's standard library alone.

    python unbundle.py [--into FOLDER] [--no-run] [setting=value ...]

The parts, manifest.json and this file lie in one folder. Each part's SHA-256 is checked, the archive is unpacked into
FOLDER (bundle/ beside this file), the carried wheels go to FOLDER/site, and the command runs in FOLDER. Settings are
added to the command; the last value of a setting wins. What is unpacked already is not unpacked again.
"""

import argparse
import gzip
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 1 << 20
DONE = ".unbundled"


class BundleError(Exception):
    """What the user can fix: shown in one line."""


class Joined:
    """The parts, read one after the other as one file."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = iter(paths)
        self.file: BinaryIO | None = None

    def read(self, size: int = -1) -> bytes:
        while True:
            if self.file is None:
                path = next(self.paths, None)
                if path is None:
                    return b""
                self.file = path.open("rb")
            content = self.file.read(size)
            if content or not size:
                return content
            self.file.close()
            self.file = None


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest, after checking that all parts are there and whole."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{folder / 'manifest.json'}: {error.strerror}; copy it beside unbundle.py") from error
    except ValueError as error:
        raise BundleError(f"{folder / 'manifest.json'}: damaged ({error}); copy it again") from error
    for part in manifest["parts"]:
        path = folder / part["name"]
        if not path.is_file():
            raise BundleError(f"{part['name']}: missing; copy all {len(manifest['parts'])} parts into {folder}")
        if path.stat().st_size != part["bytes"]:
            raise BundleError(f"{part['name']}: has {path.stat().st_size} of {part['bytes']} bytes; copy it again")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != part["sha256"]:
            raise BundleError(f"{part['name']}: damaged (SHA-256 {digest}, wanted {part['sha256']}); copy it again")
    return manifest


def check_python(manifest: dict[str, Any]) -> None:
    """Refuse a Python that the wheels are not for."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if manifest["wheels"] and here != manifest["python"]:
        raise BundleError(
            f"this is Python {here}, and the wheels are for {manifest['python']}; "
            f"start it with python{manifest['python']}, or make the bundle with bundle.python={here}"
        )


def unpack(folder: Path, manifest: dict[str, Any], into: Path) -> bool:
    """Join and unpack the parts; return False where that is done already."""
    into.mkdir(parents=True, exist_ok=True)
    done = into / DONE
    if done.is_file() and done.read_text() == manifest["sha256"]:
        return False
    joined: Any = Joined([folder / part["name"] for part in manifest["parts"]])
    data_only: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    try:
        with gzip.GzipFile(fileobj=joined, mode="rb") as packed:
            with tarfile.open(fileobj=packed, mode="r|", bufsize=BLOCK) as archive:
                for member in archive:
                    if not (into / member.name).resolve().is_relative_to(into.resolve()) or not member.isfile():
                        raise BundleError(f"the archive holds {member.name!r}, which is no file within it")
                    archive.extract(member, into, **data_only)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise BundleError(f"the archive cannot be unpacked into {into}: {error}; make room there") from error
    for wheel in sorted((into / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as content:
            content.extractall(into / "site")
    done.write_text(manifest["sha256"])
    return True


def command_of(manifest: dict[str, Any], settings: list[str]) -> list[str]:
    """Return the words of the command, with this Python in the place of `python`."""
    words = [*shlex.split(manifest["command"]), *settings]
    return [sys.executable, *words[1:]] if words[0] in ("python", "python3") else words


def environment_of(into: Path) -> dict[str, str]:
    """Return the environment that finds the code and the carried packages."""
    paths = [str(into / "platform"), str(into / "site"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}


def main() -> int:
    """Return the exit status: that of the command, or 2 for a bundle that is not whole."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=here / "bundle")
    parser.add_argument("--no-run", action="store_true")
    parser.add_argument("settings", nargs="*")
    arguments = parser.parse_args()
    into = arguments.into.absolute()
    try:
        manifest = read_manifest(here)
        check_python(manifest)
        fresh = unpack(here, manifest, into)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'unpacked' if fresh else 'found'} {into}", file=sys.stderr)
    if arguments.no_run:
        return 0
    command = command_of(manifest, arguments.settings)
    print(shlex.join(command), file=sys.stderr, flush=True)
    return subprocess.run(command, cwd=into, env=environment_of(into), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
