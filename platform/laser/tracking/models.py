"""Models in MLflow: logged with their run, registered under a name, and fetched again.

A logged model is *from code*: a Python file that opens a folder of safetensors. Nothing is pickled.
"""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laser.errors import UserError
from laser.storage.cache import make_once
from laser.storage.credentials import masked
from laser.tracking.run import Run, metric_name
from laser.tracking.store import client, write_shared

PACKAGE = "package"
"""Name of the folder of safetensors among a model's artifacts."""
SCHEME = "models:/"


@dataclass(frozen=True)
class ModelForm:
    """How a model is called, as MLflow writes it into its signature."""

    inputs: str
    """JSON of the columns."""
    outputs: str
    params: str
    example: Mapping[str, Sequence[Any]]
    """A table of input: column → values."""


@dataclass(frozen=True)
class DataUsed:
    """The data that a model's metrics belong to, as its run has recorded them (`Run.log_dataset`)."""

    name: str
    digest: str


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: str
    run_id: str
    tags: Mapping[str, str]


def log_model(
    run: Run,
    code: Path,
    package: Path,
    sources: Path,
    form: ModelForm,
    requirements: Sequence[str],
    data: DataUsed,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> str:
    """Log a model of a run with its metrics, and return its id. A run has one; a second call finds it.

    Args:
        run: of the training.
        code: the Python file that makes the model.
        package: the folder that it opens.
        sources: folder of a Python package that `code` imports.
        form: how the model is called.
        requirements: pinned packages, as `torch==2.13.0`.
        data: what the metrics were measured on.
        metrics: of the model.
        tags: of the model.
    """
    from mlflow.entities import LoggedModelOutput

    store = client(run.uri)
    recorded = store.get_run(run.run_id)
    known = logged_model(run)
    if known is not None:
        return known
    model = store.create_logged_model(
        recorded.info.experiment_id, PACKAGE, run.run_id, dict(tags), model_type="recommender"
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        _save(place, model, run.run_id, code, package, sources, form, requirements)
        store.log_model_artifacts(model.model_id, str(place))
    for name, value in metrics.items():
        store.log_metric(
            run.run_id, metric_name(name), value,
            dataset_name=data.name, dataset_digest=data.digest, model_id=model.model_id,
        )  # fmt: skip
    store.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step=0)])
    store.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def logged_model(run: Run) -> str | None:
    """Return the id of the whole model that a run has logged, or None."""
    store = client(run.uri)
    experiment = store.get_run(run.run_id).info.experiment_id
    found = store.search_logged_models([experiment], f"source_run_id = '{run.run_id}'")
    ready = [model.model_id for model in found if str(model.status) == "READY"]
    return ready[0] if ready else None


def _save(
    place: Path,
    logged: Any,
    run_id: str,
    code: Path,
    package: Path,
    sources: Path,
    form: ModelForm,
    requirements: Sequence[str],
) -> None:
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model

    parts = {"inputs": form.inputs, "outputs": form.outputs, "params": form.params}
    save_model(
        place,
        python_model=str(code),
        artifacts={PACKAGE: str(package)},
        code_paths=[str(sources)],
        signature=ModelSignature.from_dict(parts),
        input_example=pd.DataFrame(dict(form.example)),
        pip_requirements=list(requirements),
        mlflow_model=Model(
            artifact_path=logged.artifact_location, model_uuid=logged.model_id, run_id=run_id, model_id=logged.model_id
        ),
    )
    for compiled in place.rglob("*.pyc"):
        compiled.unlink()


def register(uri: str, name: str, model_id: str, run_id: str, tags: Mapping[str, str]) -> Version:
    """Register a logged model under a name. A run has one version of a name; a second call finds it."""
    from mlflow.exceptions import MlflowException

    store = client(uri)
    known = [version for version in store.search_model_versions(f"name = '{name}'") if version.run_id == run_id]
    if known:
        return _version(known[0])
    try:
        store.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # `models:/<id>` as the source would be looked up in the store of the environment, not in this one.
    place = store.get_logged_model(model_id).artifact_location
    return _version(store.create_model_version(name, place, run_id, dict(tags), model_id=model_id))


def holder(uri: str, name: str, alias: str) -> Version | None:
    """Return the version that has an alias, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return _version(client(uri).get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def give_alias(uri: str, version: Version, alias: str) -> None:
    """Move an alias to a version."""
    write_shared(lambda: client(uri).set_registered_model_alias(version.name, alias, version.number))


def fetched_package(uri: str, model: str, cache: Path) -> Path:
    """Fetch the package of a model, once, into the cache.

    Args:
        uri: of the store.
        model: `models:/<name>@<alias>`, `models:/<name>/<version>` or `models:/<id>`.
        cache: the cache of all artifacts.

    Raises:
        UserError: there is no such model in the store, or it is none of ours.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    name, at, alias = model.removeprefix(SCHEME).partition("@")
    try:
        source = _source(uri, *((name, alias) if at else (model.removeprefix(SCHEME), None)))
        key = hashlib.sha256(source.encode()).hexdigest()[:10]
        place = cache / "packages" / f"fetched-{key}"

        def fetch(aside: Path) -> None:
            aside.mkdir()
            whole = Path(download_artifacts(source, dst_path=str(aside / "model"), tracking_uri=uri))
            packages = [path.parent for path in whole.glob("artifacts/*/package.json")]
            if len(packages) != 1:
                raise UserError(f"model: {model} holds no package of ours; name a model that a sweep has registered")
            packages[0].rename(aside / PACKAGE)

        make_once(place, fetch)
    except MlflowException as error:
        reason = masked(str(error)).splitlines()[0]
        raise UserError(
            f"model: {model}: {reason}; register one by jobs/tune.py, name a run by run_id=, or set tracking.uri"
        ) from error
    return place / PACKAGE


def _source(uri: str, name: str, alias: str | None) -> str:
    """Return where the files of a model lie. Without an alias, the name is `<name>/<version>` or the id of a model."""
    store = client(uri)
    if alias is not None:
        return str(store.get_model_version_by_alias(name, alias).source)
    registered, slash, number = name.partition("/")
    if slash:
        return str(store.get_model_version(registered, number).source)
    return str(store.get_logged_model(name).artifact_location)


def _version(version: Any) -> Version:
    return Version(version.name, str(version.version), version.run_id, dict(version.tags))
