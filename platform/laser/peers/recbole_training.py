"""A training of RecBole's SASRec or BERT4Rec, run as a script in an environment that has RecBole and not Laser.

    <python of that environment> recbole_training.py <folder>

`laser.benchmarks.peers` writes `request.json` into the folder, and reads `result.json` and `scores.npy`. All settings
that RecBole shares with ours are the same; the rest are its defaults.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = {"sasrec": "SASRec", "bert4rec": "BERT4Rec"}
BATCH = 512
"""Histories that are scored at once."""


def main(folder: Path) -> None:
    """Train for the epochs of the request, then score all items after each history."""
    import recbole
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.data.interaction import Interaction
    from recbole.utils import get_model, get_trainer, init_seed

    # A module of RecBole turns this on for the whole process when it is imported. It checks each gradient for NaN.
    torch.autograd.set_detect_anomaly(False)
    request = json.loads((folder / "request.json").read_text())
    write_interactions(folder / "data" / "data.inter", request["sequences"])
    config = Config(model=CLASSES[request["family"]], dataset="data", config_dict=settings(request, folder))
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    train_data, _, _ = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train_data.dataset)
    seconds: list[float] = []

    class Timed(get_trainer(config["MODEL_TYPE"], config["model"])):  # type: ignore[misc]
        def _train_epoch(self, *arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            loss = super()._train_epoch(*arguments, **named)
            seconds.append(time.perf_counter() - started)
            return loss

    Timed(config, model).fit(train_data, None, saved=False, verbose=False)
    model.eval()
    known = np.array([int(token) for token in dataset.field2id_token["item_id"][1:]])
    numbers = {item: number for number, item in enumerate(known, 1)}
    histories = [request["sequences"][user][-request["max_history"] :] for user in request["validated"]]
    scores_BI = np.full((len(histories), request["num_items"]), -np.inf, dtype=np.float32)
    for start in range(0, len(histories), BATCH):
        some = histories[start : start + BATCH]
        item_ids = torch.zeros(len(some), request["max_history"], dtype=torch.int64)
        for row, history in enumerate(some):
            item_ids[row, : len(history)] = torch.tensor([numbers[item] for item in history])
        lengths = torch.tensor([len(history) for history in some])
        with torch.no_grad():
            scores = model.full_sort_predict(Interaction({"item_id_list": item_ids, "item_length": lengths}))
        scores_BI[start : start + BATCH, known] = scores.view(len(some), -1)[:, 1 : len(known) + 1].numpy()
    np.save(folder / "scores.npy", scores_BI)
    result = {
        "version": recbole.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": seconds,
    }
    (folder / "result.json").write_text(json.dumps(result))


def write_interactions(path: Path, sequences: list[list[int]]) -> None:
    """Write RecBole's atomic file. It will split off each user's last two items, so the last one is repeated twice."""
    path.parent.mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, items in enumerate(sequences):
        lines += [f"{user}\t{item}\t{time}" for time, item in enumerate([*items, items[-1], items[-1]])]
    path.write_text("\n".join(lines) + "\n")


def settings(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings in RecBole's words."""
    return {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        "seed": request["seed"],
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "learner": "adam",
        "learning_rate": request["learning_rate"],
        "train_batch_size": request["batch_size"],
        "epochs": request["epochs"],
        "MAX_ITEM_LIST_LENGTH": request["max_history"],
        "n_layers": request["num_layers"],
        "n_heads": request["num_heads"],
        "hidden_size": request["hidden_size"],
        "inner_size": 4 * request["hidden_size"],
        "hidden_dropout_prob": request["dropout"],
        "attn_dropout_prob": request["dropout"],
        "mask_ratio": request["mask_probability"],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
