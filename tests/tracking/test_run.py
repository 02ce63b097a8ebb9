"""One run: reported to from several processes, filled and read."""

import pickle

import pytest
from mlflow import MlflowClient

from laser.config.schema import Experiment
from laser.tracking.run import Run


def test_a_resumed_run_doubles_nothing(tracking, results, tmp_path):
    config, tags = Experiment(), {"dataset": "d"}
    with pytest.raises(KeyboardInterrupt), tracking.run(config, "train", "one", tags) as run:
        run.report({"val/ndcg@10": 0.1}, 0)
        raise KeyboardInterrupt
    client = MlflowClient(tracking.uri)
    assert client.get_run(run.run_id).info.status == "KILLED"
    with tracking.run(config, "train", "one", tags, run_id=run.run_id) as again:
        again.record(results)
    assert again.run_id == run.run_id
    recorded = client.get_run(run.run_id)
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["mformer.num_experts"] == "8"
    assert recorded.data.tags["kind"] == "train"
    points = client.get_metric_history(run.run_id, "val/ndcg_at_10")
    assert [(point.step, point.value) for point in points] == [(0, 0.1), (1, 0.2)]
    assert again.figures("best/") == {"ndcg@10": 0.2}
    assert (again.fetch("checkpoint", tmp_path / "files") / "weights").read_text() == "w"
    names = {item.path for item in client.list_artifacts(run.run_id)}
    assert names == {"checkpoint", "config.yaml", "environment.json"}


def test_a_run_reports_from_other_processes(tracking):
    with tracking.run(Experiment(), "train", "one", {}) as run:
        copy: Run = pickle.loads(pickle.dumps(run))
        copy.report({"loss": 1.0}, 1)
    assert MlflowClient(tracking.uri).get_run(run.run_id).data.metrics == {"loss": 1.0}
