"""Serve a trained model over HTTP on Ray Serve, until Ctrl-C or `kill`.

    python jobs/serve.py                                  # the champion, on 127.0.0.1:8000
    python jobs/serve.py model=null run_id=<run> max_replicas=4
    curl -H "Authorization: Bearer $(cat runs/serve/token)" http://127.0.0.1:8000/recommend \\
        -H 'Content-Type: application/json' -d '{"histories": [["B001", "B002"]], "k": 5}'
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import ServeJob

logger = logging.getLogger("serve")


def main(job: ServeJob) -> Mapping[str, Any]:
    """Serve until interrupted. The summary holds the address and the time."""
    from laser.cluster.join import cluster
    from laser.serving.http.running import answers, application_of, serving

    started = time.monotonic()
    application = application_of(job)
    with cluster(), serving(job, application) as address:
        logger.info("serving at %s, token in %s; Ctrl-C ends it", address, job.token_file)
        try:
            while True:
                time.sleep(10)
                if not answers(address):
                    logger.warning("%s does not answer; Ray Serve replaces a replica that is gone", address)
        except KeyboardInterrupt:
            logger.info("ending: requests that run are answered first")
    return {"address": address, "seconds": round(time.monotonic() - started, 1)}


if __name__ == "__main__":
    run_job(main, ServeJob)
