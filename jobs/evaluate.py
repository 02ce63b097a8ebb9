"""Evaluate a recorded run again from its files: the selected weights, item embeddings, recommender and config."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import EvaluateJob
from laser.config.schema import Experiment

logger = logging.getLogger("evaluate")


def main(job: EvaluateJob) -> Mapping[str, Any]:
    """Rank the full catalogue for each user of the split, and record the metrics if the run has none of this split."""
    from laser.config.compose import read_yaml, validate, with_overrides
    from laser.config.paths import with_absolute_paths
    from laser.data.evaluated import evidence
    from laser.evaluation.findings import findings
    from laser.tracking.runs import open_records
    from laser.training.evaluate import check_same_content, evaluate_checkpoint
    from laser.training.prepare import prepare_inputs

    run = open_records(job.tracking, must_exist=True).find(job.run_id)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        checkpoint = run.fetch("checkpoint", directory)
        config = validate(Experiment, read_yaml(run.fetch("config.yaml", directory)))
        recommender = run.fetch("recommender", directory) if config.uses_recommender else None
        config = with_absolute_paths(with_overrides(config, {"cache_dir": job.cache_dir}))
        inputs = prepare_inputs(config, recommender)
        check_same_content(config, inputs.artifacts, run.tags())
        ranks = evaluate_checkpoint(config, inputs, checkpoint, job.split)
    metrics = ranks.metrics()
    examples = (inputs.test if job.split == "test" else inputs.val).examples
    doubtful = findings(evidence(inputs.dataset, examples, ranks))
    for finding in doubtful:
        logger.warning("%s", finding)
    prefix = "test/" if job.split == "test" else "best/"
    recorded = run.figures(prefix)
    if not recorded:
        run.summarise({f"{prefix}{name}": value for name, value in metrics.items()})
    data = inputs.dataset.facts()
    summary = {"run_id": run.run_id, "split": job.split, "data": data, "metrics": metrics}
    return {**summary, "recorded": recorded or None, "findings": doubtful}


if __name__ == "__main__":
    run_job(main, EvaluateJob)
