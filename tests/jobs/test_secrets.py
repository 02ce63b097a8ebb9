"""Tests that no secret of the environment appears in MLflow, in the files of a run, or in any log."""

import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

NAMES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GITHUB_TOKEN",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PGPASSWORD",
    "RAY_AUTH_TOKEN",
    "WANDB_API_KEY",
    "SOMEBODYS_SECRET",
)


def test_secrets_of_the_environment_stand_in_no_record_and_no_log(workplace):
    secrets = {name: f"5ec2e7{number:02d}" * 4 for number, name in enumerate(NAMES)}
    # Ray's logs lie there; its sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="laser-", dir="/tmp", ignore_cleanup_errors=True) as session:
        process = workplace.start(
            "train.py",
            *workplace.settings("quickstart.yaml", "training.num_workers=1", "training.zero_stage=0"),
            "training.stage1_epochs=1",
            "training.stage2_epochs=0",
            environment={**secrets, "RAY_AUTH_MODE": "token", "RAY_TMPDIR": session},
        )
        try:
            output, errors = process.communicate(timeout=900)
        finally:
            process.terminate()
        assert process.returncode == 0, errors[-8000:]
        files = [path for path in (*Path(session).rglob("*"), *workplace.directory.rglob("*")) if path.is_file()]
        assert any(path.name.startswith("raylet") for path in files) and any(path.name == "mlflow.db" for path in files)
        texts = {str(path): path.read_bytes() for path in files} | {"output": (output + errors).encode()}
    found = [(name, where) for where, text in texts.items() for name in NAMES if secrets[name].encode() in text]
    assert found == []
