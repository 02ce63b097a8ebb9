"""Dumps of Amazon reviews: one file of reviews and one of metadata, JSON lines, gzipped or plain.

The metadata's name begins with `meta`. The columns of two releases are found without settings: 2018 (reviewerID, asin,
unixReviewTime, overall; title, brand, category) and 2023 (user_id, parent_asin, timestamp, rating; title, store,
main_category, categories). Where `data.attributes` is null, brand or store and the categories are kept; descriptions,
prices and links are not.

The dumps are known for these defects. They are counted and not refused:
- a review occurs twice, with the same user, item and time; the first one stays;
- an item's metadata occur twice; the first ones stay;
- a review is of an item without metadata; it is left out;
- texts are as they stood in the page, with entities, markup and line breaks; they become what a reader saw, unless
  `data.clean_texts` is false;
- a title is script of the page (`getTime`); it counts as missing, as the authors of the data advise.
"""

from pathlib import Path

from laser.config.schema import DataConfig
from laser.ingest.interactions import Workspace
from laser.ingest.json_lines import JsonLinesFile
from laser.sources.base import RawData, only_one, readable
from laser.sources.tabular import Columns, read_interactions, read_items

FILES = "meta_*.json.gz"
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
PATTERNS = tuple(f"*{suffix}" for suffix in SUFFIXES)
ATTRIBUTES = ("brand", "store", "main_category", "category", "categories")


def recognises(names: set[str]) -> bool:
    """Whether a folder with files of these names has this layout. `meta_data.json` is a file of RecFormer's."""
    return any(name.startswith("meta_") and ".json" in name for name in names - {"meta_data.json"})


def read(directory: Path, config: DataConfig, workspace: Workspace) -> RawData:
    """Read the needed columns of reviews and metadata as streams."""
    files = [path for path in sorted(directory.iterdir()) if path.name.endswith(SUFFIXES)]
    meta = [path for path in files if path.name.startswith("meta")]
    wanted = " or ".join(f"*{suffix}" for suffix in SUFFIXES)
    items = JsonLinesFile(readable(only_one(directory, meta, f"meta{wanted}")))
    reviews = JsonLinesFile(readable(only_one(directory, [path for path in files if path not in meta], wanted)))

    item_column = _first(items, config.items_id_column or config.item_column, "parent_asin", "asin")
    known = items.column_names if config.attributes else [name for name in ATTRIBUTES if name in items.column_names]
    table, num_duplicates = read_items(items, config, item_column, "first", known)
    columns = Columns(
        user=_first(reviews, config.user_column, "user_id", "reviewerID"),
        item=_first(reviews, config.item_column, "parent_asin", "asin"),
        time=_first(reviews, None, config.timestamp_column, "unixReviewTime"),
        rating=_first(reviews, None, config.rating_column, "overall"),
    )
    collector, rejected = read_interactions([reviews], columns, table, config, workspace)
    users = collector.users()
    rejected["duplicate_items"] = num_duplicates
    return RawData(
        directory.name, table, users, collector.interactions, drop_repeats=True, texts_of_pages=True, rejected=rejected
    )


def _first(file: JsonLinesFile, chosen: str | None, *names: str) -> str:
    """Return the chosen column, else the first of `names` that the file has, else the last of them."""
    return chosen or next((name for name in names if name in file.column_names), names[-1])
