"""Tests that each stage starts from the best epoch so far, and that a resumed run equals an uninterrupted one."""

import pytest
import torch

from laser.config.compose import with_overrides
from laser.engine.plain import PlainEngine
from laser.engine.schedule import Schedule
from laser.errors import UserError
from laser.training.evaluate import evaluate_checkpoint
from laser.training.loop import CatalogueStep, train_epoch
from laser.training.model import whole_laser
from laser.training.prepare import prepare_inputs
from laser.training.run.checkpoint import latest_checkpoint
from laser.training.train import preflight
from tiny.laser import CPU
from tiny.training import train


def test_stage_0_and_the_schedule_resume_as_if_uninterrupted(experiment, inputs, tmp_path):
    config = with_overrides(
        experiment,
        {
            "training.alignment_epochs": 1,
            "training.stage0_epochs": 2,
            "training.schedule": "cosine",
            "training.warmup_steps": 3,
        },
    )
    whole = train(config, tmp_path / "whole", lambda metrics, epoch: None)

    class Interrupt(Exception):
        pass

    def interrupt_at(last: int):
        def report(metrics: object, epoch: int) -> None:
            if epoch == last:
                raise Interrupt

        return report

    for last in (1, 3):  # in stage 0, and after stage 1
        with pytest.raises(Interrupt):
            train(config, tmp_path / "parts", interrupt_at(last))
    names = {path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()}
    assert "stage1-epoch0001" in names
    parts = train(config, tmp_path / "parts", lambda metrics, epoch: None)
    assert parts.epochs == whole.epochs == 4
    assert parts.val == whole.val
    one, other = (latest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parts"))
    assert [row["stage"] for row in one.state.history[1:]] == [0, 0, 1, 2]
    assert [row["loss"] for row in one.state.history[1:]] == [row["loss"] for row in other.state.history[1:]]
    assert one.state.history[0]["alignment/loss"] > 0
    for name, weight in one.trainable().items():
        assert torch.equal(weight, other.trainable()[name]), name
    with pytest.raises(UserError, match=r"training\.stage2_epochs: 7 differs from 1"):  # the cosine would be another
        train(with_overrides(config, {"training.stage2_epochs": 7}), tmp_path / "parts", lambda *_: None)


def test_a_stage_goes_on_from_the_best_epoch_before_it(experiment, inputs, tmp_path):
    config = with_overrides(experiment, {"training.stage0_epochs": 2, "training.stage2_epochs": 0})
    train(config, tmp_path, lambda metrics, epoch: None)
    history = latest_checkpoint(tmp_path / "checkpoints").state.history
    first_two = [row["val/ndcg@10"] for row in history[1:3]]
    best = 1 + first_two.index(max(first_two))
    alone = with_overrides(config, {"training.stage0_epochs": best, "training.stage1_epochs": 0})
    train(alone, tmp_path / "alone", lambda metrics, epoch: None)
    kept = latest_checkpoint(tmp_path / "alone" / "checkpoints")
    assert kept.name == f"stage0-epoch{best:04d}"
    laser = whole_laser(config, inputs.artifacts, CPU)
    engine = PlainEngine(laser, config.training, CPU)
    engine.load_trainable(kept.trainable())
    step = CatalogueStep(engine, inputs.train, kept.item_embeddings(), config.training)
    schedule = Schedule(config.training, 0, 0, 1)
    figures = train_epoch(engine, inputs.train, step, config.training, 2, "again", schedule, len(inputs.items))
    assert figures["loss"] == pytest.approx(history[3]["loss"], abs=1e-6)


JOINED = {
    "recommender": {"type": "item_knn", "hidden_size": 4},
    "head.width": 8,
    "head.text_width": 6,
    "head.collaborative": True,
    "head.history_bias": True,
}


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_recommender_that_joins_after_the_training_leaves_the_training_alone(experiment, tmp_path, num_workers):
    config = with_overrides(experiment, {**JOINED, "training.num_workers": num_workers})
    after = with_overrides(config, {"head.joins": "after"})
    joined = train(after, tmp_path / "after", lambda *_: None)
    apart = train(with_overrides(config, {"head.collaborative": False}), tmp_path / "apart", lambda *_: None)
    assert joined.epochs == apart.epochs + 1 == 3 and joined.selected == "stage3-epoch0001"
    rows = [latest_checkpoint(tmp_path / name / "checkpoints").state.history for name in ("after", "apart")]
    for one, other in zip(rows[0], rows[1], strict=False):
        assert one["val/ndcg@10"] == other["val/ndcg@10"] and one.get("loss") == other.get("loss")
    assert joined.val["ndcg@10"] > apart.val["ndcg@10"]
    assert rows[0][3]["weight/counted"] > 0 and rows[0][3]["stage"] == 3
    checkpoint = tmp_path / "after" / "checkpoints" / joined.selected
    again = evaluate_checkpoint(after, prepare_inputs(after), checkpoint, "val").metrics()
    assert {name: again[name] for name in joined.val} == pytest.approx(joined.val)


def test_it_joins_once_also_where_a_run_resumes(experiment, tmp_path):
    config = with_overrides(experiment, {**JOINED, "head.joins": "after"})
    part = with_overrides(config, {"head.collaborative": False})
    whole = train(config, tmp_path / "whole", lambda *_: None)

    def interrupt(metrics: object, epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", interrupt)
    for _ in range(2):  # the second has nothing left to do
        parts = train(config, tmp_path / "parts", lambda *_: None)
        assert parts.val == whole.val and parts.epochs == whole.epochs
    with pytest.raises(UserError, match=r"head\.collaborative"):
        train(part, tmp_path / "parts", lambda *_: None)


def test_a_joined_run_without_epochs_is_evaluated_as_it_is(experiment, tmp_path):
    config = with_overrides(experiment, {**JOINED, "head.joins": "after"})
    joined = train(config, tmp_path / "run", lambda *_: None)
    assert joined.selected == "stage3-epoch0001"
    none = {f"training.stage{stage}_epochs": 0 for stage in range(3)} | {"training.start_from": str(tmp_path / "run")}
    again = train(with_overrides(config, none), tmp_path / "again", lambda *_: None)
    assert again.epochs == 0 and again.val == joined.val and again.test == joined.test


def test_more_epochs_of_a_stage_that_has_ended_are_refused(experiment, tmp_path):
    config = with_overrides(experiment, {**JOINED, "head.joins": "after", "training.stage2_epochs": 0})
    train(config, tmp_path / "run", lambda *_: None)
    artifacts = prepare_inputs(config).artifacts
    preflight(tmp_path / "run", config, artifacts)
    for stage, epochs in ((1, 2), (2, 1)):
        longer = with_overrides(config, {f"training.stage{stage}_epochs": epochs})
        with pytest.raises(UserError, match=rf"training\.stage{stage}_epochs: {epochs}"):
            preflight(tmp_path / "run", longer, artifacts)
