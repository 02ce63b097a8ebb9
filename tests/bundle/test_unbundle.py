"""Parts of a bundle: cut, checked, put together, and run."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from laser.bundle import unbundle
from laser.bundle.parts import Entry, write_parts

PART = 1000
COMMAND = "python -c 'import carried, sys; print(carried.WORD, open(sys.argv[1]).read())' data/small"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder of parts that hold two data files and a wheel, its manifest and the script."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "small").write_text("few")
    (tmp_path / "large").write_bytes(os.urandom(3 * PART))  # larger than a part, and not to be compressed
    wheel = tmp_path / "carried-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as content:
        content.writestr("carried.py", "WORD = 'carried'")
    entries = [Entry(f"data/{name}", tmp_path / name) for name in ("small", "large")]
    parts = write_parts([*entries, Entry(f"wheels/{wheel.name}", wheel)], folder, PART)
    manifest = {
        "python": f"3.{sys.version_info[1]}",
        "wheels": [wheel.name],
        "command": COMMAND,
        "parts": [asdict(part) for part in parts],
        "sha256": "of all",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shutil.copy(unbundle.__file__, folder)
    return folder


def run(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(bundle / "unbundle.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_parts_are_put_together_and_the_command_runs_with_the_carried_packages(bundle: Path):
    parts = sorted(bundle.glob("part-*"))
    assert len(parts) > 3
    assert [part.stat().st_size for part in parts[:-1]] == [PART] * (len(parts) - 1)
    done = run(bundle)
    assert (done.returncode, done.stdout) == (0, "carried few\n"), done.stderr
    assert (bundle / "bundle" / "data" / "large").read_bytes() == (bundle.parent / "large").read_bytes()
    for part in parts[1:]:  # the second time nothing is unpacked, but the parts are still checked
        part.unlink()
    assert run(bundle).returncode == 2


def test_the_exit_status_is_that_of_the_command(bundle: Path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["command"] = "python -c 'raise SystemExit(7)'"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert run(bundle).returncode == 7


def damage(bundle: Path, name: str) -> str:
    part = bundle / "part-002"
    content = bytearray(part.read_bytes())
    if name == "missing":
        part.unlink()
    elif name == "cut":
        part.write_bytes(content[:-1])
    elif name == "altered":
        content[17] ^= 1
        part.write_bytes(content)
    elif name == "manifest":
        (bundle / "manifest.json").unlink()
        return "manifest.json: No such file or directory; copy it beside unbundle.py"
    elif name == "python":
        manifest = json.loads((bundle / "manifest.json").read_text())
        (bundle / "manifest.json").write_text(json.dumps(manifest | {"python": "3.3"}))
        return "and the wheels are for 3.3; start it with python3.3"
    return {
        "missing": "part-002: missing; copy all",
        "cut": f"part-002: has {PART - 1} of {PART} bytes; copy it again",
        "altered": "part-002: damaged (SHA-256",
    }[name]


@pytest.mark.parametrize("name", ["missing", "cut", "altered", "manifest", "python"])
def test_a_bundle_that_is_not_whole_is_refused_in_one_line(bundle: Path, name: str):
    message = damage(bundle, name)
    done = run(bundle)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr
    assert not (bundle / "bundle").exists()
