"""What lies on disk, replaced or damaged: named and refused, and a pickle is never loaded."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from laser.config.families.recommenders import SASRecConfig
from laser.config.identity import stage_key
from laser.config.schema import DataConfig
from laser.data.dataset import open_dataset
from laser.errors import UserError
from laser.llm.loading import llm_weights
from laser.recommenders.registry import build_recommender
from laser.recommenders.storage import load_recommender, save_recommender
from laser.sources.prepare import prepare_dataset
from laser.storage.wheels import fetch_wheel
from laser.training.run.checkpoint import FILES, TrainingState, latest_checkpoint, read_checkpoint, write_checkpoint

Damage = Callable[[bytes], bytes]


class Touch:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


DAMAGES: dict[str, Damage] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "deep": lambda content: b"[" * 100_000,
    "absurd length": lambda content: b"\xff" * 7 + b"\x7f" + content[8:],
    "of another kind": lambda content: b'{"schema_version": [], "num_items": "many"}',
}


def damaged(path: Path, damage: str) -> Path:
    """Replace a file; the path at which a loaded pickle would leave a file."""
    ran = path.parent.parent / "ran"
    if damage == "pickle":
        path.write_bytes(pickle.dumps(Touch(ran)))
    elif damage == "torch.save":
        torch.save({"weight": Touch(ran)}, path)
    else:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    return ran


def refused(read: Callable[[], object], name: str) -> None:
    with pytest.raises(UserError) as caught:
        read()
    assert name in str(caught.value)
    assert str(caught.value).isprintable()


EVERY_DAMAGE = ["pickle", "torch.save", *DAMAGES]


@pytest.mark.parametrize("damage", EVERY_DAMAGE)
@pytest.mark.parametrize("name", ["recommender.json", "model.safetensors"])
def test_a_damaged_recommender_is_refused(name, damage, tmp_path):
    folder, config = tmp_path / "recommender", SASRecConfig(hidden_size=8, num_layers=1)
    folder.mkdir()
    save_recommender(build_recommender(config, 5), config, 5, folder)
    ran = damaged(folder / name, damage)
    refused(lambda: load_recommender(folder), name)
    assert not ran.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"num_items": 10**15},
        {"num_items": -1},
        {"num_items": 6},
        {"config": {"type": "sasrec", "x": 1}},
        {"config": {"type": "none"}},
        {"config": {"type": "..baselines"}},
    ],
)
def test_a_recommender_whose_description_was_altered_is_refused(change, tmp_path):
    config = SASRecConfig(hidden_size=8, num_layers=1)
    save_recommender(build_recommender(config, 5), config, 5, tmp_path)
    path = tmp_path / "recommender.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(lambda: load_recommender(tmp_path), "run jobs/pretrain.py anew")


@pytest.mark.parametrize("damage", EVERY_DAMAGE)
@pytest.mark.parametrize("name", ["checksums.json", "state.json", "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_passed_over(name, damage, tmp_path):
    weights = {"suffix": torch.ones(3)}
    places = [
        write_checkpoint(
            tmp_path / "run", TrainingState(1, epoch, epoch, None, 0.0, {}), weights, weights, torch.eye(2)
        )
        for epoch in (1, 2)
    ]
    ran = damaged(places[1].path / name, damage)
    refused(lambda: read_checkpoint(places[1].path), places[1].name)
    latest = latest_checkpoint(tmp_path / "run")
    assert latest is not None and latest.name == places[0].name
    assert not ran.exists()


@pytest.mark.parametrize("damage", ["pickle", "torch.save"])
def test_a_pickle_with_matching_checksums_is_not_loaded(damage, tmp_path):
    weights = {"suffix": torch.ones(3)}
    place = write_checkpoint(
        tmp_path / "run", TrainingState(1, 1, 1, None, 0.0, {}), weights, weights, torch.eye(2)
    ).path
    ran = damaged(place / FILES[0], damage)
    import hashlib

    sums = json.loads((place / "checksums.json").read_text())
    sums[FILES[0]] = hashlib.sha256((place / FILES[0]).read_bytes()).hexdigest()
    (place / "checksums.json").write_text(json.dumps(sums))
    refused(lambda: read_checkpoint(place).trainable(), FILES[0])
    (place / "checksums.json").write_text("{}")  # sums of nothing vouch for nothing
    refused(lambda: read_checkpoint(place), FILES[0])
    assert not ran.exists()


@pytest.mark.parametrize("damage", ["pickle", "torch.save", "truncated", "absurd length", "empty"])
def test_a_damaged_llm_is_refused(damage, tmp_path):
    folder = tmp_path / "llm"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    ran = damaged(folder / "model.safetensors", damage)
    refused(lambda: list(llm_weights(folder, ["embed_tokens.weight"])), "model.safetensors")
    assert not ran.exists()


@pytest.mark.parametrize("damage", [damage for damage in EVERY_DAMAGE if damage != "absurd length"])
@pytest.mark.parametrize("name", ["manifest.json", "items.parquet", "sequences.parquet", "splits.parquet"])
def test_a_damaged_prepared_dataset_is_refused(name, damage, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "interactions.csv").write_text("user,item,timestamp\nu,a,1\nu,b,2\nu,c,3\n")
    (raw / "items.csv").write_text("item,title\na,A\nb,B\nc,C\n")
    place = prepare_dataset(DataConfig(path=str(raw)), tmp_path / "cache").path
    ran = damaged(place / name, damage)

    def read() -> None:
        dataset = open_dataset(place)
        assert dataset.items and len(dataset.examples("val"))

    refused(read, name)
    assert not ran.exists()


def wheel(folder: Path, member: str, content: bytes = b"x") -> None:
    """A wheel that pip takes."""
    info = "evil-1.0.dist-info"
    with zipfile.ZipFile(folder / "evil-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
        archive.writestr(member, content)


@pytest.mark.parametrize("member", ["../../escaped", "/tmp/laser-escaped", "damaged"])
def test_a_wheel_that_writes_outside_of_itself_or_is_damaged_is_refused(member, tmp_path, monkeypatch):
    folder, cache = tmp_path / "wheels", tmp_path / "cache"
    folder.mkdir()
    wheel(folder, member, b"content of the member")
    if member == "damaged":
        (file,) = folder.iterdir()
        file.write_bytes(file.read_bytes().replace(b"content of", b"CONTENT OF"))  # its checksum no longer fits
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    refused(lambda: fetch_wheel("evil==1.0", cache), "evil")
    assert not Path("/tmp/laser-escaped").exists()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".whl", ".lock")] == []


@pytest.mark.parametrize(
    "path",
    ["pypi:../../x==1.0#a", "pypi:/etc==1.0#a", "pypi:a==../1#a", "pypi:a b==1#a", "~nobody-of-this-name/x", "a\0b"],
)
def test_a_source_that_is_no_package_and_no_folder_is_refused(path, tmp_path):
    refused(
        lambda: prepare_dataset(DataConfig(path=path), tmp_path / "cache"), "wanted" if "pypi" in path else "no such"
    )
    assert list(tmp_path.iterdir()) == []


def test_names_of_stages_hold_no_part_of_a_path():
    assert "/" not in stage_key("dataset", "../../x", "/etc/passwd")
