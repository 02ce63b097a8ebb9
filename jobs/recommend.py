"""Recommend items: a list for each user of a dataset, or for each history of a file, by a trained model.

    python jobs/recommend.py model=models:/laser@champion k=10
    python jobs/recommend.py run_id=<run> histories=new.csv new_items=items.csv output=lists.parquet

It works on Ray Data where RAY_ADDRESS names a cluster, and in this process otherwise.
"""

from collections.abc import Mapping
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import RecommendJob


def main(job: RecommendJob) -> Mapping[str, Any]:
    """Write the lists. The summary holds how they spread over the catalogue, and what became of odd histories."""
    from laser.serving.recommending import recommend

    return recommend(job)


if __name__ == "__main__":
    run_job(main, RecommendJob)
