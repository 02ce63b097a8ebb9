"""A training of RecTools' SASRec or BERT4Rec, run as a script in an environment that has RecTools and not Laser.

    <python of that environment> rectools_training.py <folder>

`laser.benchmarks.peers` writes `request.json` into the folder, and reads `result.json` and `scores.npy`. All settings
that RecTools shares with ours are the same; the rest are its defaults.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 512
"""Users whose whole ranking is asked for at once."""


def main(folder: Path) -> None:
    """Train for the epochs of the request, then score all items after each history."""
    import rectools
    import torch
    from pytorch_lightning import Callback, Trainer, seed_everything
    from rectools.dataset import Dataset

    request = json.loads((folder / "request.json").read_text())
    seed_everything(request["seed"])
    seconds: list[float] = []

    class Clock(Callback):  # type: ignore[misc]
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            self.started = time.perf_counter()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    def trainer() -> Any:
        epochs = request["epochs"]
        return Trainer(
            max_epochs=epochs, min_epochs=epochs, accelerator="cpu", devices=1, callbacks=[Clock()], logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip

    dataset = Dataset.construct(interactions(request["sequences"]))
    model = build(request, trainer)
    model.fit(dataset)
    scores_BI = np.full((len(request["validated"]), request["num_items"]), -np.inf, dtype=np.float32)
    for start in range(0, len(scores_BI), BATCH):
        users = np.array(request["validated"][start : start + BATCH])
        lists = model.recommend(users, dataset, k=request["num_items"], filter_viewed=False)
        rows = start + np.searchsorted(users, lists["user_id"])
        scores_BI[rows, lists["item_id"]] = lists["score"]
    np.save(folder / "scores.npy", scores_BI)
    result = {
        "version": rectools.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.torch_model.parameters()),
        "seconds": seconds,
    }
    (folder / "result.json").write_text(json.dumps(result))


def interactions(sequences: list[list[int]]) -> Any:
    """Return the table that RecTools reads; positions stand for days."""
    import pandas as pd

    lengths = [len(items) for items in sequences]
    positions = np.concatenate([np.arange(length) for length in lengths])
    return pd.DataFrame({
        "user_id": np.repeat(np.arange(len(sequences)), lengths),
        "item_id": np.concatenate(sequences),
        "weight": 1.0,
        "datetime": pd.Timestamp("2020-01-01") + pd.to_timedelta(positions, unit="D"),
    })  # fmt: skip


def build(request: dict[str, Any], trainer: Any) -> Any:
    """Return the untrained model, given the settings in our words."""
    from rectools.models import BERT4RecModel, SASRecModel

    shared = {
        "n_blocks": request["num_layers"],
        "n_heads": request["num_heads"],
        "n_factors": request["hidden_size"],
        "dropout_rate": request["dropout"],
        "session_max_len": request["max_history"],
        "lr": request["learning_rate"],
        "batch_size": request["batch_size"],
        "epochs": request["epochs"],
        "loss": "softmax",
        "get_trainer_func": trainer,
    }
    if request["family"] == "sasrec":
        return SASRecModel(**shared)
    return BERT4RecModel(mask_prob=request["mask_probability"], **shared)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
