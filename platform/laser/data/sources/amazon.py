"""Dumps of Amazon reviews: one file of reviews and one of metadata, JSON lines, gzipped or plain.

The metadata's name begins with `meta`. Columns of 2018 (reviewerID, asin, unixReviewTime, overall; title, brand,
category) and of 2023 (user_id, parent_asin, timestamp, rating; title, store, main_category, categories) are
found by themselves. Where `data.attributes` is null, the ones above are kept, and not descriptions, prices and links.

The dumps are known for three defects, which are counted and not refused: reviews that occur twice (same user, item and
time: the first stays), metadata that occur twice (the first stays), and reviews of items without metadata.
"""

from pathlib import Path

from laser.config.schema import DataConfig
from laser.data.ingest.interactions import Workspace
from laser.data.ingest.json_lines import JsonLinesFile
from laser.data.sources.base import RawData, only_one
from laser.data.sources.tabular import Columns, read_interactions, read_items, title_column

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
ATTRIBUTES = ("brand", "store", "main_category", "category", "categories")


def read_amazon(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read reviews and metadata as streams; only the columns that are needed."""
    files = [path for path in sorted(directory.iterdir()) if path.name.endswith(SUFFIXES)]
    meta = [path for path in files if path.name.startswith("meta")]
    wanted = " or ".join(f"*{suffix}" for suffix in SUFFIXES)
    items = JsonLinesFile(only_one(directory, meta, f"meta{wanted}"))
    reviews = JsonLinesFile(only_one(directory, [path for path in files if path not in meta], wanted))

    item_column = _first(items, config.item_column, "parent_asin", "asin")
    known = items.column_names if config.attributes else [name for name in ATTRIBUTES if name in items.column_names]
    table, num_duplicates = read_items(items, config, item_column, title_column(items, config), "first", known)
    columns = Columns(
        user=_first(reviews, config.user_column, "user_id", "reviewerID"),
        item=_first(reviews, config.item_column, "parent_asin", "asin"),
        time=_first(reviews, None, config.timestamp_column, "unixReviewTime"),
        rating=_first(reviews, None, config.rating_column, "overall"),
    )
    collector, rejected = read_interactions(reviews, columns, table, config, workspace, unknown_item=None)
    users = collector.users()
    rejected |= {"duplicate_items": num_duplicates, "interactions_with_unknown_item": collector.num_unknown}
    return RawData(directory.name, table, users, collector.interactions, drop_repeats=True, rejected=rejected)


def _first(file: JsonLinesFile, chosen: str | None, *names: str) -> str:
    """The chosen column, else the first of these that the file has, else the last."""
    return chosen or next((name for name in names if name in file.column_names), names[-1])
