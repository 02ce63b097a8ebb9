"""cluster.yaml: what Ray accepts, what its autoscalers make of it, and what nobody else can reach."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from laser.config.compose import load_config
from laser.config.schema import TuneExperiment

HOLDS_TWO_WORKERS = [{"GPU": 1, "CPU": 1}, {"GPU": 1, "CPU": 1}]


@pytest.fixture(scope="module")
def cluster(repo: Path) -> dict:
    return yaml.safe_load((repo / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def prepared(cluster: dict) -> dict:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    return prepared


def test_cluster_file_is_valid_for_ray(cluster):
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_cluster_file_has_all_that_the_launcher_fills_in(cluster, prepared):
    assert "anaconda" not in json.dumps(prepared["setup_commands"])  # ours, not Ray's defaults
    for name in ("gpu-spot", "gpu-on-demand"):
        assert prepared["available_node_types"][name]["min_workers"] == 0
        assert prepared["available_node_types"][name]["max_workers"] <= cluster["max_workers"]


def test_spot_and_on_demand_differ_in_the_market_alone(cluster):
    types = cluster["available_node_types"]
    spot, on_demand = types["gpu-spot"], types["gpu-on-demand"]
    assert spot["resources"] == on_demand["resources"]
    assert spot["node_config"] == on_demand["node_config"] | {"InstanceMarketOptions": {"MarketType": "spot"}}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]


@pytest.mark.parametrize("spot_nodes, chosen", [(0, {"gpu-spot": 2}), (4, {"gpu-on-demand": 2})])
def test_the_older_autoscaler_asks_for_spot_first_and_then_for_on_demand(prepared, spot_nodes, chosen):
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for

    added, left = get_nodes_for(
        prepared["available_node_types"],
        {"head": 1, "gpu-spot": spot_nodes},
        "head",
        8,
        HOLDS_TWO_WORKERS,
        utilization_scorer=lambda *about, **_: _default_utilization_scorer(*about, node_availability_summary=None),
    )
    assert (dict(added), left) == (chosen, [])


@pytest.mark.parametrize("spot_nodes, chosen", [(4, {"gpu-spot": 2}), (0, {"gpu-on-demand": 2}), (1, None)])
def test_the_newer_autoscaler_does_so_too(prepared, spot_nodes, chosen):
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    types = {name: dict(node_type) for name, node_type in prepared["available_node_types"].items()}
    types["gpu-spot"]["max_workers"] = spot_nodes  # so many may still come
    config = AutoscalingConfig({**prepared, "available_node_types": types}, skip_content_hash=True)
    requests = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(each) for each in HOLDS_TWO_WORKERS])
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=requests,
        )
    )
    launched = {request.instance_type: request.count for request in reply.to_launch if request.instance_type != "head"}
    assert launched == (chosen or {"gpu-spot": 1, "gpu-on-demand": 1})


def test_authentication_is_explicit_wherever_ray_starts(cluster):
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        start = next(command for command in commands if "ray start" in command)
        assert "RAY_AUTH_MODE=token" in start
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in cluster["setup_commands"]


def test_nothing_is_open_to_the_world(cluster):
    assert "0.0.0.0" not in json.dumps(cluster)
    for node_type in cluster["available_node_types"].values():
        assert node_type["node_config"]["SecurityGroupIds"]  # without, Ray makes a group with SSH open to everybody
    commands = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in commands and "--host 127.0.0.1 --port 5000" in commands


def test_trials_own_processes_keep_to_the_head(cluster, repo):
    path = repo / "configs" / "tune" / "cluster.yaml"
    search = load_config(TuneExperiment, [f"config={path}"], path).search
    offering = [
        name for name, type_ in cluster["available_node_types"].items() if search.driver_resource in type_["resources"]
    ]
    assert offering == [cluster["head_node_type"]]
