"""Noise is dropped by its own words; every other message of the same source comes through."""

import subprocess
import sys
import warnings

import pytest

from laser.cli.quiet import PRINTED, Noise, is_noise, quieten

WATCHER = (
    "[2026-11-27 23:05:37,056 E 14232 14274] core_worker.cc:2465: Actor with class name: 'PreemptionWatcher' and ID: "
    "'0b49' has constructor arguments in the object store and max_restarts > 0. If the arguments"
)


@pytest.mark.parametrize(
    ("line", "noise"),
    [
        (WATCHER, True),
        (WATCHER.replace("PreemptionWatcher", "OurActor"), False),
        ("2026-11-27 23:04:38,067\tSUCC cli.py:66 -- Job 'laser-7ae02e63' submitted successfully", True),
        ("2026-11-27 23:04:38,067\tERR cli.py:68 -- Job 'laser-7ae02e63' failed", False),
        ("2026-11-27 23:04:38,067\tWARNING cli.py:68 -- something", False),
        (
            "WARNING: 8 PYTHON worker processes have been started on node: bcc with address: 127.0.0.1, which is 4x "
            "the maximum expected startup concurrency (2). This could be",
            True,
        ),
        ("WARNING: object store is full", False),
        ("stage 1 epoch 1: 8/8 step, 19 s", False),
    ],
)
def test_lines_of_other_processes(line, noise):
    assert is_noise(line) == noise


def test_a_warning_is_dropped_only_where_it_comes_from():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quieten()
        for module, kind in (
            ("torch.distributed", FutureWarning), ("torch.distributed", UserWarning), ("laser.data", FutureWarning)
        ):  # fmt: skip
            warnings.warn_explicit("words", kind, "file.py", 1, module=module)
    assert [(str(each.message), each.category) for each in seen] == [("words", UserWarning), ("words", FutureWarning)]


@pytest.mark.parametrize("noise", PRINTED, ids=lambda noise: noise.source)
def test_every_noise_has_a_reason(noise: Noise):
    assert noise.words and noise.reason


def test_an_installation_shows_its_progress_and_all_of_it_where_it_fails(repo, tmp_path):
    says = "print('Collecting a'); print('  Downloading a-1.whl'); print('Installing collected packages: a')"
    for code, status in ((says, 0), (f"{says}; import sys; sys.exit('no such package')", 1)):
        command = [sys.executable, str(repo / "deploy" / "install.py"), str(tmp_path / "log")]
        done = subprocess.run([*command, sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (status, "")
        assert ("no such package" in done.stderr and "Downloading a-1.whl" in done.stderr) == bool(status)
        assert "Collecting a" in (tmp_path / "log").read_text()
