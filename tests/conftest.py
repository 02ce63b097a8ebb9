"""What all tests share: a hermetic environment, and small real parts that are costly to make."""

import os
import secrets
import signal
import tempfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent

# Set before any test imports Ray, transformers or MLflow; the worker processes that tests start inherit them.
LEAKING = ("RAY_", "MLFLOW_", "HF_", "HUGGING_FACE_", "HUGGINGFACE_", "TRANSFORMERS_")
for name in [name for name in os.environ if name.startswith(LEAKING)]:
    del os.environ[name]  # addresses, tokens, caches of whoever runs the tests
_home = tempfile.TemporaryDirectory(prefix="laser-tests-", ignore_cleanup_errors=True)
os.environ["HF_HOME"] = _home.name  # neither the account's models nor its token
os.environ["HF_HUB_OFFLINE"] = "1"  # no test depends on a hub
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # as jobs/ui.py; eight processes, 40 s of CPU time
os.environ["RAY_AUTH_MODE"] = "token"  # else the first local ray.init() decides for every later one of this account
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Sums do not depend on the number of cores, and threads on a busy machine do not wait for one another: a job that
# evaluates took 87 s with two threads and 27 s with one on two cores that four others shared.
os.environ["OMP_NUM_THREADS"] = "1"
# A script's background job ignores Ctrl-C, and so does whatever it starts: the jobs that tests interrupt too.
signal.signal(signal.SIGINT, signal.default_int_handler)


FIRST = ("jobs/test_train.py", "cluster", "jobs", "numerics", "engine", "tracking")
"""What takes longest comes first, because `make unit` hands files out to two processes in this order. In a fresh clone
the first one converts the LLM for a minute. Meanwhile the other one does what needs no LLM."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first, and skip what needs a GPU where there is none."""
    items.sort(key=lambda item: next((i for i, place in enumerate(FIRST) if _lies_in(item, place)), len(FIRST)))
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _lies_in(item: pytest.Item, place: str) -> bool:
    return item.path.is_relative_to(REPO / "tests" / place)


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data beside the checkout, or a skip: it is not part of the project."""
    path = REPO.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the development data in ../shared/data")
    return path


@pytest.fixture(scope="session")
def cache() -> Path:
    """The checkout's own cache, so that a second run of the tests converts and prepares nothing again."""
    return REPO / ".cache" / "laser"


@pytest.fixture(scope="session")
def smollm2(cache: Path) -> Path:
    """Directory of the real SmolLM2-135M, fetched and converted on first use (93 MB)."""
    from laser.config.schema import LLMConfig
    from laser.conversion.source import resolve_llm

    return resolve_llm(LLMConfig().source, cache)


@pytest.fixture(scope="session")
def movielens(cache: Path):
    """MovieLens-100K, prepared with the default settings."""
    from laser.config.schema import DataConfig
    from laser.sources.prepare import prepare_dataset

    return prepare_dataset(DataConfig(), cache)


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random two-layer Llama of width 32 with a real byte-level tokenizer, for structural tests."""
    from tiny.llm import save_tiny_llm

    directory = tmp_path_factory.mktemp("tiny-llm")
    save_tiny_llm(directory)
    return directory
