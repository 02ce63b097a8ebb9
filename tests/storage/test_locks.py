"""One process at a time holds a directory."""

import subprocess
import sys

import pytest

from laser.errors import UserError
from laser.storage.locks import held


def test_a_run_that_another_process_trains_is_not_resumed(tmp_path):
    directory = tmp_path / "run"
    hold = (
        "import sys\nfrom pathlib import Path\nfrom laser.storage.locks import held\n"
        f"with held(Path({str(directory)!r}), 'trains'):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process trains this run; wait for it or stop it"):
            with held(directory, "trains this run"):
                pass
        other.communicate("")
    with held(directory, "trains this run"):
        pass
