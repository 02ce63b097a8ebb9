"""A package holds what an answer needs, and nothing that was altered."""

import importlib.util
import shutil

import pytest

from laser.config.jobs import PackageJob
from laser.config.schema import TrackingConfig
from laser.errors import UserError
from laser.serving.answerer import Answerer
from laser.serving.opening import packaged_run
from laser.serving.package import read_package


def test_it_says_what_it_was_made_of(trained, cache):
    model = trained("stack")
    identity = model.package.identity
    assert identity.run_id == model.run.run_id
    assert identity.fingerprint == model.inputs.dataset.fingerprint
    assert (identity.recommender, identity.llm_content) == ("stack", model.inputs.artifacts.llm_content)
    assert not [path for path in model.package.folder.rglob("*") if path.suffix in (".pkl", ".pt", ".bin")]
    assert packaged_run(model.run, cache).folder == model.package.folder  # found, not made again


def test_an_altered_or_missing_file_is_refused(trained, tmp_path):
    folder = shutil.copytree(trained("before").package.folder, tmp_path / "package")
    weights = folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="weights.safetensors: missing, added or altered"):
        read_package(folder)
    weights.unlink()
    with pytest.raises(UserError, match="weights.safetensors: missing, added or altered"):
        read_package(folder)
    (folder / "package.json").write_text("{}")
    with pytest.raises(UserError, match="not a packaged model"):
        read_package(folder)


def test_another_llm_in_the_same_place_is_refused(trained, cache, tmp_path, tiny_llm, monkeypatch):
    package = trained("before").package
    other = shutil.copytree(tiny_llm, tmp_path / "llm")
    (other / "tokenizer_config.json").write_text((other / "tokenizer_config.json").read_text() + "\n")
    config = package.config.model_copy(update={"llm": package.config.llm.model_copy(update={"source": str(other)})})
    changed = type(package)(package.folder, config, package.identity)
    with pytest.raises(UserError, match="llm.source: .* holds folder:.*, and the model was trained on folder:"):
        Answerer.open(changed, cache)


def test_the_job_copies_a_package_once(trained, store, cache, repo, tmp_path):
    spec = importlib.util.spec_from_file_location("package_job", repo / "jobs" / "package.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run_id = trained("before").run.run_id
    job = PackageJob(
        output=str(tmp_path / "deep" / "copy"), model=None, run_id=run_id, tracking=TrackingConfig(uri=store.uri),
        cache_dir=str(cache),
    )  # fmt: skip
    assert module.main(job)["model"]["run_id"] == run_id
    assert read_package(tmp_path / "deep" / "copy").identity == trained("before").package.identity
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]
    with pytest.raises(UserError, match="output: .*copy is there already"):
        module.main(job)
