"""Generated interactions: as CSV pairs and as a dump of Amazon reviews, with items' texts, or as histories of ids."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from laser.cli.progress import progress
from laser.storage.cache import make_once

VERSION = 1
"""Version of the generator, a part of the folder's name."""
CHUNK_ROWS = 1 << 19
FIRST_SECOND, LAST_SECOND = 946_684_800, 1_538_352_000  # 2000 to October 2018, as in the Amazon dumps
NUM_WORDS, NUM_TEXTS = 4096, 2048
GROUP_ITEMS = 50
"""Items that go together in generated histories. Half of a user's items are of one group, others by popularity."""
UNTITLED, WITHOUT_METADATA, REPEATED = 0.01, 0.01, 0.001
"""Fractions of items without title, of items that the dump's metadata lack, and of reviews that the dump repeats."""


def generate(num_interactions: int, cache_dir: Path, seed: int = 0) -> Path:
    """Make `pairs/` and `amazon/` in a folder of the cache, or find them made.

    There are a tenth as many users as interactions, and up to 150,000 items. Activity of users and popularity of items
    are log-normal: half of the users have fewer than 5 interactions. Rows are in no order, and ids look like Amazon's.

    Returns:
        the folder.
    """
    place = cache_dir / "benchmarks" / f"interactions-{num_interactions}-{seed}-v{VERSION}"
    make_once(place, lambda aside: _generate(aside, num_interactions, seed))
    return place


def histories(num_users: int, num_items: int, seed: int = 0) -> list[NDArray[np.int32]]:
    """Draw a history of 5 items or more for each user, 8 on average, as after a 5-core."""
    random = np.random.default_rng(seed)
    lengths = 5 + random.lognormal(0.6, 1.1, num_users).clip(max=195).astype(np.int64)
    popularity = np.cumsum(random.lognormal(sigma=1.2, size=num_items))
    popular = np.searchsorted(popularity, random.random(lengths.sum()) * popularity[-1])
    group = np.repeat(random.integers(0, -(-num_items // GROUP_ITEMS), num_users), lengths)
    of_group = np.minimum(group * GROUP_ITEMS + random.integers(0, GROUP_ITEMS, len(group)), num_items - 1)
    items = np.where(random.random(len(group)) < 0.5, of_group, popular).astype(np.int32)
    return np.split(items, np.cumsum(lengths)[:-1])


def _generate(folder: Path, num_interactions: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    users = _ids(random, max(1, num_interactions // 10), "A", 14)
    items = _items(random, max(1, min(150_000, num_interactions // 20)))
    chunks = list(_interactions(random, num_interactions, users, items.column("item").combine_chunks()))
    for name in ("pairs", "amazon"):
        (folder / name).mkdir(parents=True)
    with csv.CSVWriter(folder / "pairs/interactions.csv", chunks[0].schema) as writer:
        for chunk in chunks:
            writer.write_table(chunk)
    flat = items.set_column(3, "category", pc.binary_join(items.column("category"), ", "))
    csv.write_csv(flat, folder / "pairs/items.csv")
    _write_metadata(folder / "amazon/meta_generated.json.gz", items, random)
    _write_reviews(folder / "amazon/generated.json.gz", chunks, random)


def _ids(random: np.random.Generator, count: int, prefix: str, width: int) -> pa.Array:
    letters = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)
    text = letters[random.integers(0, len(letters), (count, width))]
    for position, value in enumerate(prefix):
        text[:, position] = ord(value)
    ids = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, [None, pa.py_buffer(text.tobytes())])
    return pc.unique(ids.cast(pa.binary()).cast(pa.string()))


def _sentences(random: np.random.Generator, count: int, shortest: int, longest: int) -> list[str]:
    letters = np.array(list("aeioubcdfglmnprst"))
    words = ["".join(random.choice(letters, length)) for length in random.integers(2, 10, NUM_WORDS)]
    chosen = random.integers(0, NUM_WORDS, (count, longest))
    lengths = random.integers(shortest, longest + 1, count)
    return [" ".join(words[w] for w in row[:n]) for row, n in zip(chosen.tolist(), lengths.tolist(), strict=True)]


def _items(random: np.random.Generator, count: int) -> pa.Table:
    ids = _ids(random, count, "B0", 10)
    titles = np.array(_sentences(random, len(ids), 4, 12), dtype=object)
    titles[random.random(len(ids)) < UNTITLED] = ""
    brands, categories = _sentences(random, 2000, 1, 2), _sentences(random, 200, 1, 3)
    chosen = [[categories[c] for c in row] for row in random.integers(0, len(categories), (len(ids), 3)).tolist()]
    brand = [brands[b] for b in random.integers(0, len(brands), len(ids)).tolist()]
    return pa.table({"item": ids, "title": pa.array(titles, pa.string()), "brand": brand, "category": chosen})


def _interactions(random: np.random.Generator, count: int, users: pa.Array, items: pa.Array) -> Iterator[pa.Table]:
    shares = [np.cumsum(random.lognormal(sigma=1.2, size=len(ids))) for ids in (users, items)]
    with progress(range(0, count, CHUNK_ROWS), "generate interactions", "chunk") as starts:
        for start in starts:
            size = min(CHUNK_ROWS, count - start)
            user, item = (_draw(random, share, size) for share in shares)
            time = random.integers(FIRST_SECOND, LAST_SECOND, size)
            yield pa.table({"user": users.take(user), "item": items.take(item), "timestamp": time})


def _draw(random: np.random.Generator, shares: NDArray[np.float64], size: int) -> pa.Array:
    return pa.array(np.searchsorted(shares, random.random(size) * shares[-1]))


def _write_metadata(path: Path, items: pa.Table, random: np.random.Generator) -> None:
    known = random.random(items.num_rows) >= WITHOUT_METADATA
    known[0] = True
    rows = items.filter(pa.array(known)).rename_columns(["asin", "title", "brand", "category"])
    texts = _sentences(random, NUM_TEXTS, 20, 60)
    with gzip.open(path, "wb", compresslevel=1) as file:
        for number, row in enumerate(rows.to_pylist()):
            row |= {"description": [texts[number % NUM_TEXTS]], "also_buy": [], "price": "$9.99"}
            file.write(json.dumps(row).encode() + b"\n")


def _write_reviews(path: Path, chunks: list[pa.Table], random: np.random.Generator) -> None:
    """Write lines as in the dumps of 2018, with the fields that we do not read."""
    texts, names = pa.array(_sentences(random, NUM_TEXTS, 10, 30)), pa.array(_sentences(random, NUM_TEXTS, 2, 3))
    with gzip.open(path, "wb", compresslevel=1) as file, progress(chunks, "write reviews", "chunk") as steps:
        for chunk in steps:
            twice = np.flatnonzero(random.random(chunk.num_rows) < REPEATED)
            rows = chunk.take(pa.array(np.sort(np.concatenate([np.arange(chunk.num_rows), twice]))))
            some = pa.array(random.integers(0, NUM_TEXTS, rows.num_rows))
            lines = pc.binary_join_element_wise(
                '{"overall": 5.0, "verified": true, "reviewTime": "07 21, 2015", "reviewerID": "',
                rows.column("user"),
                '", "asin": "',
                rows.column("item"),
                '", "reviewerName": "',
                names.take(some),
                '", "reviewText": "',
                texts.take(some),
                '", "summary": "Five Stars", "unixReviewTime": ',
                rows.column("timestamp").cast(pa.string()),
                "}\n",
                "",
            ).combine_chunks()
            data = lines.buffers()[2]
            file.write(data)
