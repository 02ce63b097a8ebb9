"""Private names of the frameworks are used in one module for each framework."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "platform" / "laser"
FRAMEWORKS = {"ray", "deepspeed", "mlflow", "torch", "transformers", "scipy"}
FENCES = {
    "cluster/ray_private.py": "ray",
    "engine/deepspeed_private.py": "deepspeed",
    "llm/packed/torch_private.py": "torch",
    "recommenders/scipy_private.py": "scipy",
    "tracking/mlflow_private.py": "mlflow",
}
"""Module → the framework whose private names it may use."""
NAMED_TUPLES = {"_make", "_replace", "_asdict", "_fields"}
"""Public, in spite of the underscore."""
PROMISED_SWITCHES = {
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S",
    "RAY_USAGE_STATS_ENABLED",
}
"""Environment variables that Ray documents."""
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if str(path.relative_to(PACKAGE)) not in FENCES)


def private(name: str) -> bool:
    """`_name`, and the `ds_…` attributes that ZeRO gives a weight."""
    if name.startswith("__") and name.endswith("__"):
        return False
    return name.startswith("ds_") or (name.startswith("_") and name != "_" and name not in NAMED_TUPLES)


def private_uses(source: str) -> Iterator[str]:
    """List what a module uses of the frameworks' private names.

    An attribute counts as a framework's if the module does not define the name. On `self` it counts if torch's modules
    have it.
    """
    tree = ast.parse(source)
    own = set(own_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from (name for name in names if is_framework(name) and any(map(private, name.split("."))))
        elif isinstance(node, ast.ImportFrom) and is_framework(node.module or ""):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if any(map(private, name.split("."))))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            if private(node.attr) and hasattr(nn.Module(), node.attr):
                yield ast.unparse(node)
        elif isinstance(node, ast.Attribute) and is_framework(ast.unparse(node)) and node.attr.startswith("_"):
            if node.attr != "__version__":
                yield ast.unparse(node)
        elif isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(rf"(?:{'|'.join(FRAMEWORKS)})(?:\.\w+)*\._\w+(?:\.\w+)*|ds_[a-z]+", node.value):
                yield repr(node.value)
            if re.fullmatch(r"(?:RAY|TUNE)_\w+", node.value) and node.value not in PROMISED_SWITCHES:
                yield repr(node.value)
        elif isinstance(node, ast.ClassDef):
            yield from overridden(node)


def is_framework(name: str) -> bool:
    return name.partition(".")[0] in FRAMEWORKS


def own_names(tree: ast.AST) -> Iterator[str]:
    """List the names that the module itself defines: functions, classes, fields, and what it assigns to `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def overridden(node: ast.ClassDef) -> Iterator[str]:
    """List the private methods of a framework's class that a class overrides."""
    bases = {ast.unparse(each).rpartition(".")[2] for each in node.bases}
    methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef) and private(each.name)]
    if "Module" in bases:
        yield from (f"{node.name}.{name}" for name in methods if hasattr(nn.Module, name))
    elif bases & {"TorchTrainer", "UserCallback"}:
        yield from (f"{node.name}.{name}" for name in methods)


def test_no_module_uses_what_others_keep_private():
    uses = {str(path.relative_to(PACKAGE)): list(private_uses(path.read_text(encoding="utf-8"))) for path in MODULES}
    assert {path: names for path, names in uses.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from ray._private import ray_constants",
        "import ray._raylet",
        "import torch\ntorch._softmax_backward_data()",
        "import deepspeed\ndeepspeed.ops.__compatible_ops__",
        "def f(weight):\n    return weight.ds_tensor",
        "def f(weight):\n    return getattr(weight, 'ds_shape', None)",
        "def f(zero):\n    zero._lazy_init_hp_params_optimizer_state()",
        "class A(TorchTrainer):\n    def _register_sigint_handler(self, controller): ...",
        "class A(nn.Module):\n    def names(self):\n        return list(self._buffers)",
        "class A(nn.Module):\n    def _load_from_state_dict(self): ...",
        "provider = 'ray.autoscaler._private.fake_multi_node'",
        "os.environ['RAY_FAKE_CLUSTER'] = '1'",
    ],
)
def test_the_search_for_private_names_finds(source: str):
    assert list(private_uses(source))


@pytest.mark.parametrize("module", FENCES)
def test_a_fence_names_the_version_that_is_pinned(module: str):
    path, package = PACKAGE / module, FENCES[module]
    found = re.search(rf"Checked on {package} ([0-9.]+\d)", path.read_text(encoding="utf-8"), re.IGNORECASE)
    assert found, f"{module} does not say which {package} it was checked on"
    assert re.search(rf"^{package}(\[.*\])?=={found[1]}\b", (REPO / "constraints.txt").read_text(), re.MULTILINE)
