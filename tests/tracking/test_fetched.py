"""A checkpoint of a recorded run in a folder that processes share."""

from laser.config.schema import Experiment
from laser.tracking.fetched import fetched_checkpoint


def test_a_checkpoint_is_fetched_anew_only_when_the_run_has_another(tracking, tmp_path):
    with tracking.run(Experiment(), "train", "one", {}) as run:
        for content in ("first", "second"):
            run.log_text(content, "checkpoint/weights")
            run.log_text(content, "checkpoint/checksums.json")
            place = fetched_checkpoint(run, tmp_path / "transfers" / run.run_id)
            assert (place / "weights").read_text() == content
            (place / "read already").touch()
            assert fetched_checkpoint(run, tmp_path / "transfers" / run.run_id) == place
            assert (place / "read already").exists()
    assert [path.name for path in place.parent.iterdir()] == ["checkpoint"]
