"""One preparation in a process of its own, so that its peak memory is its own: ours, or a straightforward script.

    python -m laser.benchmarks.contestants.preparation <ours|script> <pairs|amazon> <source> <target> <k> <MiB>

The script does the same as one would quickly write it with pandas: read, drop items without title, k-core, sort by user
and time, number items by a seeded permutation, leave one out, write Parquet.
"""

import gzip
import json
import sys
import time
from pathlib import Path

from laser.engine.peak import resident_mib


def ours(layout: str, source: Path, target: Path, k: int, memory_mib: int) -> Path:
    """Prepare the data as `jobs/prepare.py` does."""
    from laser.config.schema import DataConfig
    from laser.sources.prepare import prepare_dataset

    return prepare_dataset(DataConfig(path=str(source), k_core=k, memory_mib=memory_mib), target).path


def script(layout: str, source: Path, target: Path, k: int, memory_mib: int) -> Path:
    """Prepare the data with pandas, without a bound of memory."""
    import numpy as np
    import pandas as pd

    if layout == "pairs":
        interactions = pd.read_csv(source / "interactions.csv", dtype={"user": str, "item": str})
        items = pd.read_csv(source / "items.csv", dtype=str, keep_default_na=False)
    else:
        reviews: dict[str, list[object]] = {"user": [], "item": [], "timestamp": []}
        with gzip.open(source / "generated.json.gz", "rt") as file:
            for line in file:
                row = json.loads(line)
                reviews["user"].append(row["reviewerID"])
                reviews["item"].append(row["asin"])
                reviews["timestamp"].append(row["unixReviewTime"])
        interactions = pd.DataFrame(reviews).drop_duplicates()
        with gzip.open(source / "meta_generated.json.gz", "rt") as file:
            rows = [json.loads(line) for line in file]
        items = pd.DataFrame(rows)[["asin", "title", "brand", "category"]].rename(columns={"asin": "item"})
        items["category"] = items["category"].str.join(", ")

    items = items[items["title"].str.strip() != ""]
    interactions = interactions[interactions["item"].isin(items["item"])]
    while True:
        per_user = interactions.groupby("user")["item"].transform("size")
        per_item = interactions.groupby("item")["user"].transform("size")
        keep = (per_user >= k) & (per_item >= k)
        if keep.all():
            break
        interactions = interactions[keep]
    interactions = interactions.sort_values(["user", "timestamp"], kind="stable")

    items = items[items["item"].isin(interactions["item"])]
    items["item_id"] = np.random.default_rng(0).permutation(len(items))
    interactions["item_id"] = interactions["item"].map(items.set_index("item")["item_id"])
    sequences = interactions.groupby("user").agg(items=("item_id", list), timestamps=("timestamp", list)).reset_index()
    length = sequences["items"].str.len()
    held_out = (length > 2) * 2
    splits = pd.DataFrame({"train_end": length - held_out, "val_end": length - held_out // 2, "test_end": length})

    target.mkdir(parents=True)
    items.sort_values("item_id").to_parquet(target / "items.parquet")
    sequences.rename(columns={"user": "raw_id"}).to_parquet(target / "sequences.parquet")
    splits.to_parquet(target / "splits.parquet")
    return target


def _main(contestant: str, layout: str, source: str, target: str, k: str, memory_mib: str) -> None:
    import pandas  # noqa: F401, ICN001, for both, because pyarrow imports it when it first converts something

    if contestant == "ours":
        import laser.sources.amazon  # noqa: F401
    baseline = resident_mib("VmRSS")
    started, processor = time.perf_counter(), time.process_time()
    made = {"ours": ours, "script": script}[contestant](layout, Path(source), Path(target), int(k), int(memory_mib))
    figures = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - processor,
        "baseline_mib": baseline,
        "peak_mib": resident_mib("VmHWM"),
        "dataset": str(made),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    _main(*sys.argv[1:])
