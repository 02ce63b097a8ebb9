"""Show the recorded runs in a browser: start MLflow's own page and print the address that opens on them.

    python jobs/ui.py [port=5000]

Ctrl-C stops it.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import UiJob
from laser.storage.credentials import masked

OUTDATED = "ignore:starlette.middleware.wsgi is deprecated"
"""MLflow's server imports it in each of its processes, which would each say so below the address."""
WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""MLflow would start eight more processes, for jobs of its judges and traces, which these runs do not have."""


def main(job: UiJob) -> Mapping[str, Any]:
    """Serve the store on this machine alone until it is interrupted."""
    from laser.cluster.ports import check_port
    from laser.tracking.runs import open_tracking

    tracking = open_tracking(job.tracking, must_exist=True)
    server = tracking.uri if tracking.uri.startswith("http") else f"http://127.0.0.1:{job.port}"
    address = tracking.address(server)
    print(f"the runs of {tracking.experiment}: {address or masked(server)}", file=sys.stderr, flush=True)
    if server != tracking.uri:
        check_port("127.0.0.1", job.port)
        command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking.uri]
        command += ["--host", "127.0.0.1", "--port", str(job.port), "--workers", "1"]
        command += ["--uvicorn-opts", "--log-level=warning"]
        try:
            subprocess.run(command, check=True, env={**WITHOUT_JOBS, **os.environ, "PYTHONWARNINGS": OUTDATED})
        except KeyboardInterrupt:
            pass
    return {"address": address}


if __name__ == "__main__":
    run_job(main, UiJob)
