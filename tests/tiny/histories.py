"""Random histories in RecFormer's layout, for tests that have neither a network nor a cache."""

import json
from pathlib import Path

import numpy as np

USERS, ITEMS = 64, 30


def save_histories(folder: Path) -> Path:
    """Write the files into a new folder, and return it; the same ones each time."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    sequences = {str(user): random.permutation(ITEMS)[: random.integers(5, 9)].tolist() for user in range(USERS)}
    content = {
        "train": {user: items[:-2] for user, items in sequences.items()},
        "val": {user: items[-2:-1] for user, items in sequences.items()},
        "test": {user: items[-1:] for user, items in sequences.items()},
        "meta_data": {f"i{item}": {"title": f"Title {item}", "brand": "a", "category": "b"} for item in range(ITEMS)},
        "smap": {f"i{item}": item for item in range(ITEMS)},
        "umap": {f"u{user}": user for user in range(USERS)},
    }
    for name, rows in content.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder
