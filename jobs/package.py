"""Copy a trained model, with all that an answer needs but for the LLM, into a folder that stands by itself.

python jobs/package.py output=/shared/laser/served                 # the champion
python jobs/package.py model=null run_id=<run> output=my_model
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import PackageJob


def main(job: PackageJob) -> Mapping[str, Any]:
    """Write the folder whole or not at all. The summary holds what the model was made of."""
    from dataclasses import asdict

    from laser.serving.opening import open_named
    from laser.storage.places import check_new_folder

    output = Path(job.output).expanduser().absolute()
    check_new_folder(output, "output")
    package = open_named(job.model, job.run_id, job.tracking, Path(job.cache_dir))
    aside = output.with_name(f".{output.name}.{os.getpid()}.writing")
    try:
        shutil.copytree(package.folder, aside)
        os.rename(aside, output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"output": str(output), "model": asdict(package.identity)}


if __name__ == "__main__":
    run_job(main, PackageJob)
