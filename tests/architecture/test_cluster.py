"""cluster.yaml: what Ray's cluster launcher accepts."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml


@pytest.fixture(scope="module")
def cluster(repo: Path) -> dict:
    return yaml.safe_load((repo / "cluster.yaml").read_text())


def test_cluster_file_is_valid_for_ray(cluster):
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_cluster_file_has_all_that_the_launcher_fills_in(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["min_workers"] == 0
    assert prepared["available_node_types"]["gpu"]["max_workers"] == cluster["max_workers"]
    assert prepared["available_node_types"]["gpu"]["resources"]["GPU"] >= 1
    assert "anaconda" not in json.dumps(prepared["setup_commands"])  # ours, not Ray's defaults


def test_authentication_is_explicit_wherever_ray_starts(cluster):
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        start = next(command for command in commands if "ray start" in command)
        assert "RAY_AUTH_MODE=token" in start
