"""The tests see nothing of the account that runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

LEAKING = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
    "MLFLOW_TRACKING_TOKEN": "secret",
    "RAY_ADDRESS": "127.0.0.1:1",
    "HF_TOKEN": "secret",
    "HF_HUB_CACHE": "/nowhere",
    "HF_HOME": "/nowhere",
    "TRANSFORMERS_CACHE": "/nowhere",
}
SCRIPT = "import json, os, runpy, sys; runpy.run_path(sys.argv[1]); print(json.dumps(dict(os.environ)))"


def test_addresses_tokens_and_caches_of_the_account_are_left_out(repo: Path):
    command = [sys.executable, "-c", SCRIPT, str(repo / "tests" / "conftest.py")]
    done = subprocess.run(command, env={**os.environ, **LEAKING}, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert not [name for name, value in LEAKING.items() if seen.get(name) == value]
    assert (seen["HF_HUB_OFFLINE"], seen["RAY_AUTH_MODE"]) == ("1", "token")
