"""deploy/kuberay: the fields that KubeRay's types know, the settings of cluster.yaml, and what nobody else can reach.

The CRDs are a megabyte of YAML and no part of the checkout, so the fields stand here by hand, from KubeRay's API
reference (ray.io/v1, KubeRay 1.5). Pod templates are not checked beyond what is asserted; a cluster of yours does that
with `kubectl apply --dry-run=server`.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from laser.config.compose import load_config, validate
from laser.config.jobs import ServeJob
from laser.config.schema import TuneExperiment


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
CONTAINER = {
    "type": "object",
    "required": ["name", "image", "resources", "securityContext"],
    "properties": {"name": {"type": "string"}, "image": {"type": "string"}},
}
TEMPLATE = _object(
    ["metadata", "spec"],
    metadata={"type": "object"},
    spec={
        "type": "object",
        "required": ["containers"],
        "properties": {"containers": {"type": "array", "minItems": 1, "items": CONTAINER}},
    },
)
HEAD = _object(
    ["rayStartParams", "template"],
    rayStartParams=TEXTS,
    template=TEMPLATE,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    headService={"type": "object"},
    enableIngress={"type": "boolean"},
)
WORKERS = _object(
    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    groupName={"type": "string"},
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
CLUSTER = _object(
    ["headGroupSpec", "rayVersion"],
    rayVersion={"type": "string"},
    enableInTreeAutoscaling={"type": "boolean"},
    authOptions=_object([], mode={"enum": ["token", "disabled"]}),
    autoscalerOptions=_object(
        [],
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources={"type": "object"},
        image={"type": "string"},
        env={"type": "array"},
    ),
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
    suspend={"type": "boolean"},
)
JOB = _object(
    ["entrypoint", "rayClusterSpec"],
    entrypoint={"type": "string"},
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    runtimeEnvYAML={"type": "string"},
    entrypointResources={"type": "string"},
    rayClusterSpec=CLUSTER,
)
SERVICE = _object(
    ["serveConfigV2", "rayClusterConfig"],
    serveConfigV2={"type": "string"},
    rayClusterConfig=CLUSTER,
    serveService={"type": "object"},
    upgradeStrategy={"type": "object"},
    excludeHeadPodFromServeSvc={"type": "boolean"},
)


@pytest.fixture(scope="module")
def manifests(repo: Path) -> dict[str, dict]:
    paths = sorted((repo / "deploy" / "kuberay").glob("*.yaml"))
    documents = [document for path in paths for document in yaml.safe_load_all(path.read_text())]
    return {document["kind"]: document for document in documents}


def test_fields_are_those_of_kuberay(manifests):
    jsonschema.validate(manifests["RayCluster"]["spec"], CLUSTER)
    jsonschema.validate(manifests["RayJob"]["spec"], JOB)
    jsonschema.validate(manifests["RayService"]["spec"], SERVICE)
    assert {manifests[kind]["apiVersion"] for kind in ("RayCluster", "RayJob", "RayService")} == {"ray.io/v1"}


def test_a_job_has_the_cluster_of_the_other_manifest(manifests):
    assert manifests["RayJob"]["spec"]["rayClusterSpec"] == manifests["RayCluster"]["spec"]


def test_what_is_served_is_an_application_of_ours_with_a_token(manifests):
    spec = manifests["RayService"]["spec"]
    config = yaml.safe_load(spec["serveConfigV2"])
    [application] = config["applications"]
    module, _, function = application["import_path"].partition(":")
    assert "\ndef " + function in Path(find_spec(module).origin).read_text()
    job = validate(ServeJob, application["args"])
    # A host that others reach asks for a token, which each pod has from a secret.
    assert job.host == config["http_options"]["host"] == "0.0.0.0"
    cluster = spec["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        [container] = group["template"]["spec"]["containers"]
        [token] = container["env"]
        assert token["name"] == "LASER_SERVE_TOKEN" and "secretKeyRef" in token["valueFrom"]
    [workers] = cluster["workerGroupSpecs"]
    cpus = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert cpus * workers["maxReplicas"] >= job.cpus_per_replica * job.max_replicas


def test_serving_has_the_ray_the_image_and_the_walls_of_training(manifests):
    ours, other = manifests["RayService"]["spec"]["rayClusterConfig"], manifests["RayCluster"]["spec"]
    for key in ("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"):
        assert ours[key] == other[key]
    images = {container["image"] for spec in (ours, other) for pod in _pods(spec) for container in pod["containers"]}
    assert len(images) == 1
    label = manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    for group in (ours["headGroupSpec"], *ours["workerGroupSpecs"]):
        assert group["template"]["metadata"]["labels"] == label
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"]


def test_it_is_the_pinned_ray_in_one_image(manifests, repo):
    spec = manifests["RayCluster"]["spec"]
    assert f"ray=={spec['rayVersion']}\n" in (repo / "constraints.txt").read_text()
    assert "-c constraints.txt" in (repo / "deploy" / "kuberay" / "Dockerfile").read_text()
    assert len({container["image"] for pod in _pods(spec) for container in pod["containers"]}) == 1


def test_it_scales_as_cluster_yaml_does(manifests, repo):
    spec = manifests["RayCluster"]["spec"]
    aws = yaml.safe_load((repo / "cluster.yaml").read_text())
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] == 60 * aws["idle_timeout_minutes"]
    for group in spec["workerGroupSpecs"]:
        node_type = aws["available_node_types"][group["groupName"]]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert (group["minReplicas"], group["maxReplicas"]) == (node_type["min_workers"], node_type["max_workers"])
        assert (int(limits["cpu"]), limits["nvidia.com/gpu"]) == tuple(
            node_type["resources"][k] for k in ("CPU", "GPU")
        )


def test_trials_own_processes_keep_to_the_head(manifests, repo):
    path = repo / "configs" / "tune" / "cluster.yaml"
    search = load_config(TuneExperiment, [f"config={path}"], path).search
    head = manifests["RayCluster"]["spec"]["headGroupSpec"]["rayStartParams"]
    assert head["num-cpus"] == "0"
    # The operator pastes it into a shell command, so it is quoted once for YAML and once for the shell.
    quoted = json.dumps(json.dumps({search.driver_resource: 1}))
    assert head["resources"] == quoted


def test_nobody_else_gets_in(manifests):
    spec, policy = manifests["RayCluster"]["spec"], manifests["NetworkPolicy"]["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP" and "enableIngress" not in spec["headGroupSpec"]
    label = policy["podSelector"]["matchLabels"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert all(group["template"]["metadata"]["labels"] == label for group in groups)
    assert [source for rule in policy["ingress"] for source in rule["from"]] == [
        {"podSelector": {"matchLabels": label}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kuberay-operator"}}},
    ]
    [mlflow] = [c for c in spec["headGroupSpec"]["template"]["spec"]["containers"] if c["name"] == "mlflow"]
    assert mlflow["command"][:4] == ["mlflow", "server", "--host", "127.0.0.1"]
    for pod in _pods(spec):
        assert pod["securityContext"]["runAsNonRoot"]
        assert all(not container["securityContext"]["allowPrivilegeEscalation"] for container in pod["containers"])


def _pods(spec: dict) -> list[dict]:
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
