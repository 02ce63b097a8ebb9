"""Early stopping: the best epoch is kept, and a training goes on from its file."""

from pathlib import Path

import torch

from laser.models.early_stopping import EarlyStopping


def test_a_broken_state_is_told_and_left(tmp_path: Path, caplog):
    path = tmp_path / "some.unfinished"
    path.write_bytes(b"no state")
    model = torch.nn.Linear(2, 2)
    stopping = EarlyStopping(model, torch.optim.AdamW(model.parameters()), 2, path)
    assert stopping.epoch == 0 and "training starts anew" in caplog.text
    stopping.record({"epoch": 1, "loss": 0.5}, 0.25)
    again = EarlyStopping(model, torch.optim.AdamW(model.parameters()), 2, path)
    assert (again.epoch, again.best_score) == (1, 0.25)


def test_the_best_epoch_is_kept_and_patience_ends_it():
    model = torch.nn.Linear(1, 1, bias=False)
    stopping = EarlyStopping(model, torch.optim.AdamW(model.parameters()), patience=2)
    scores = {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.3, 5: 0.9}

    def run(epoch):
        model.weight.data.fill_(epoch)
        return {"epoch": epoch, "loss": 1.0}, scores[epoch]

    assert stopping.train(10, "test", run)["epoch"] == 2 and float(model.weight.detach()) == 2 and stopping.epoch == 4


def test_one_that_was_interrupted_at_its_end_trains_no_further(tmp_path: Path):
    def begun() -> EarlyStopping:
        model = torch.nn.Linear(1, 1)
        return EarlyStopping(model, torch.optim.AdamW(model.parameters()), 2, tmp_path / "some.unfinished")

    scores = {1: 0.3, 2: 0.2, 3: 0.1, 4: 0.9}
    first = begun()
    first.train(10, "test", lambda epoch: ({"epoch": epoch, "loss": 1.0}, scores[epoch]))
    again = begun()
    assert again.train(10, "test", lambda epoch: ({"epoch": epoch, "loss": 1.0}, scores[epoch]))["epoch"] == 1
    assert first.epoch == again.epoch == 3
