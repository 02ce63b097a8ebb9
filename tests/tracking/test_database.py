"""MLflow's SQLite file: made whole by several processes at once, found by its address, and checked first."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from laser.config.schema import Experiment, TrackingConfig
from laser.errors import UserError
from laser.tracking import database
from laser.tracking.database import SQLiteFile, check_server
from laser.tracking.mlflow_private import make_tables
from laser.tracking.runs import open_tracking


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "mlflow.db"
    make_tables(SQLiteFile(path).uri)
    return path


def test_processes_that_start_at_once_share_one_whole_store(runs_at_once, tmp_path):
    for attempt in range(2):
        folder = tmp_path / f"attempt {attempt}"
        folder.mkdir()
        runs = runs_at_once(f"sqlite:///{folder / 'mlflow.db'}", "new")
        client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("new")
        assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == runs
        assert {path.name for path in folder.iterdir()} == {"mlflow.db", ".mlflow.db.lock", "mlartifacts"}


def break_off(whole: Path, path: Path) -> None:
    """Leave a store as two processes did that made its tables at once: the last steps are missing."""
    with closing(sqlite3.connect(whole)) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
        target.execute("UPDATE alembic_version SET version_num = '97727af70f4d'")
        target.execute("DROP TABLE trace_info")
        target.commit()


def refusal(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        open_tracking(TrackingConfig(uri=f"sqlite:///{path}"), **options)
    message = str(caught.value)
    assert message.startswith("tracking.uri: ") and message.isprintable()
    return message


def test_a_store_that_was_left_half_made_is_named_with_its_remedy(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "STILL_SECONDS", 0.5)
    path = tmp_path / "mlflow.db"
    break_off(whole, path)
    before = path.read_bytes()
    for must_exist in (False, True):
        assert "left half made and holds no run; remove this file" in refusal(path, must_exist=must_exist)
    assert path.read_bytes() == before
    path.unlink()
    with open_tracking(TrackingConfig(uri=f"sqlite:///{path}")).run(Experiment(), "train", "one", {}):
        pass  # the remedy works


def test_a_store_of_another_mlflow_is_not_lost(whole, tmp_path):
    path = tmp_path / "mlflow.db"
    break_off(whole, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO runs (run_uuid) VALUES ('a')")
        connection.commit()
    assert f"make a copy of it and run: mlflow db upgrade 'sqlite:///{path}'" in refusal(path)


def test_a_store_without_tables_is_made_and_other_files_are_refused(tmp_path):
    (tmp_path / "empty.db").touch()
    for name in ("empty.db", "bare.db"):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            connection.execute("PRAGMA user_version = 1" if name == "bare.db" else "SELECT 1")
        tracking = open_tracking(TrackingConfig(uri=f"sqlite:///{tmp_path / name}"))
        with tracking.run(Experiment(), "train", "one", {}):
            pass
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    assert "file is not a database" in refusal(tmp_path / "notes.txt")
    (tmp_path / "folder").mkdir()
    assert "unable to open" in refusal(tmp_path / "folder")
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE friends (name TEXT)")
    assert "holds no MLflow store; name another file" in refusal(tmp_path / "other.db")


def test_a_store_that_cannot_be_made_or_written_is_refused_at_once(tmp_path):
    assert "name a folder that can be made and written" in refusal(Path("/proc/mlflow.db"))
    (tmp_path / "mlartifacts").touch()
    assert "mlartifacts: Not a directory" in refusal(tmp_path / "mlflow.db")
    assert [path.name for path in tmp_path.iterdir()] == ["mlartifacts"]


@pytest.mark.parametrize(
    "folder", ["q?x=1", "p%20q", "feature%2Flogin", "a#b", "ein Ordner", "本 é", "a;b&c+d", "x'y\"z"]
)
def test_a_working_folder_may_have_any_name(folder, whole, tmp_path, monkeypatch):
    work = tmp_path / folder
    work.mkdir()
    (work / "mlflow.db").write_bytes(whole.read_bytes())
    monkeypatch.chdir(work)
    tracking = open_tracking(TrackingConfig())
    with tracking.run(Experiment(), "train", "one", {}) as run:
        run.log_text("a", "checkpoint/weights")
    again = open_tracking(TrackingConfig(uri=f"sqlite:///{work}/mlflow.db"), must_exist=True).find(run.run_id)
    assert (again.fetch("checkpoint", tmp_path) / "weights").read_text() == "a"
    assert len(list((work / "mlartifacts").rglob("weights"))) == 1
    assert {path.name for path in work.iterdir()} == {"mlflow.db", "mlartifacts"}
    assert {path.name for path in tmp_path.iterdir()} == {folder, "checkpoint"}


def test_a_store_is_made_in_a_folder_whose_name_is_no_address(tmp_path):
    folder = tmp_path / "p%20q?"
    folder.mkdir()
    file = SQLiteFile.named(f"sqlite:///{folder}/mlflow.db")
    file.make()
    assert SQLiteFile.named(file.uri) == file
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}
    file.check()


def test_an_address_is_read_as_written_or_else_decoded(tmp_path):
    (tmp_path / "a b").mkdir()
    assert SQLiteFile.named(f"sqlite:///{tmp_path}/a%20b/x.db").path == tmp_path / "a b" / "x.db"
    (tmp_path / "a%20b").mkdir()
    assert SQLiteFile.named(f"sqlite:///{tmp_path}/a%20b/x.db").path == tmp_path / "a%20b" / "x.db"
    assert SQLiteFile.named(f"sqlite:///{tmp_path}/x.db?timeout=60").uri == f"sqlite:///{tmp_path}/x.db?timeout=60"


def test_a_database_server_without_its_driver_is_told_in_one_line():
    with pytest.raises(UserError) as caught:
        check_server("postgresql+nodriver://me:hunter2@127.0.0.1:9/mlflow")
    message = str(caught.value)
    assert "install its driver" in message and "hunter2" not in message and "\n" not in message


def test_a_deleted_experiment_is_told_before_any_work(whole, tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(whole.read_bytes())
    tracking = open_tracking(TrackingConfig(uri=f"sqlite:///{path}", experiment="gone"))
    with tracking.run(Experiment(), "train", "one", {}):
        pass
    client = MlflowClient(tracking.uri)
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(UserError, match="tracking.experiment: 'gone' was deleted"):
        open_tracking(TrackingConfig(uri=f"sqlite:///{path}", experiment="gone"))
