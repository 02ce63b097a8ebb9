"""Numbers the users and items of a source's rows in the order of their first appearance."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from laser.ingest.interactions import Workspace

PIECE_ROWS = 1 << 20
"""Most rows of a piece that a source appends; 16 MiB with times."""


class Vocabulary:
    """Texts and their numbers. New texts are numbered behind the known ones, in the order of first appearance."""

    def __init__(self, known: pa.Array) -> None:
        self.texts = known
        """The text of each number."""

    def numbers(self, columns: Iterable[pa.ChunkedArray]) -> NDArray[np.int32]:
        """Return the number of each text. New texts get the next numbers."""
        texts = [chunk for column in columns for chunk in column.chunks]
        # One hash table takes the known texts and all new ones. The known come first, so that they keep their numbers.
        encoded = pa.chunked_array([self.texts, *texts]).dictionary_encode()
        num_known = len(self.texts)
        self.texts = encoded.chunk(0).dictionary
        return np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])[num_known:]


class Collector:
    """Numbers the users and items of a source's rows and gathers the rows as interactions.

    Rows wait until there is enough text, because the hash tables are built anew each time. Another thread numbers them
    while the source reads the next rows.

    Args:
        workspace: of the preparation.
        thread: a pool of one thread; the caller shuts it down.
        item_ids: raw ids of the items; an interaction's item is a position in it. Interactions with other items are
            left out and counted.
    """

    def __init__(self, workspace: Workspace, thread: ThreadPoolExecutor, item_ids: pa.Array) -> None:
        self.interactions = workspace.interactions()
        self.num_unknown = 0
        """Interactions that were left out because their item is unknown, of those to keep."""
        self._workspace = workspace
        self._thread = thread
        self._num_items = len(item_ids)
        self._users = Vocabulary(pa.array([], pa.string()))
        self._items = Vocabulary(item_ids)
        self._waiting: list[_Rows] = []
        self._waiting_bytes = 0
        self._running: Future[None] | None = None

    def add(
        self,
        users: pa.ChunkedArray,
        items: pa.ChunkedArray,
        times: NDArray[np.int64],
        keep: NDArray[np.bool_] | None = None,
        split: int | None = None,
    ) -> None:
        """Take rows: raw ids, times, which of the rows to keep (None keeps all), and the split if the source has it."""
        keep = np.ones(len(times), dtype=bool) if keep is None else keep
        splits = np.full(0 if split is None else len(times), split or 0, dtype=np.int8)
        self._waiting.append(_Rows(users, items, times, keep, splits))
        self._waiting_bytes += users.nbytes + items.nbytes
        if self._waiting_bytes >= self._workspace.text_bytes:
            self._start()

    def users(self) -> pa.Array:
        """End the collection and return the raw ids of the users, by number."""
        if self._waiting:
            self._start()
        self._finish()
        return self._users.texts

    def _start(self) -> None:
        self._finish()
        self._running = self._thread.submit(self._number, self._waiting)
        self._waiting, self._waiting_bytes = [], 0

    def _finish(self) -> None:
        if self._running is not None:
            self._running.result()
            self._running = None

    def _number(self, waiting: "list[_Rows]") -> None:
        user_texts, item_texts, times, keep, splits = zip(*waiting, strict=True)
        with ThreadPoolExecutor(1) as thread:  # hashing frees the interpreter's lock
            users = thread.submit(self._users.numbers, user_texts)
            items = self._items.numbers(item_texts)
            columns = {"user": users.result(), "item": items, "time": np.concatenate(times)}
        if len(splits[0]):
            columns["split"] = np.concatenate(splits)
        wanted = np.concatenate(keep)
        kept = wanted & (items < self._num_items)
        self.num_unknown += int(wanted.sum() - kept.sum())
        if not kept.all():
            columns = {name: column[kept] for name, column in columns.items()}
        gathered = pa.record_batch(list(columns.values()), names=list(columns))
        for start in range(0, gathered.num_rows, PIECE_ROWS):
            self.interactions.append(gathered.slice(start, PIECE_ROWS))


class _Rows(NamedTuple):
    users: pa.ChunkedArray
    items: pa.ChunkedArray
    times: NDArray[np.int64]
    keep: NDArray[np.bool_]
    splits: NDArray[np.int8]
    """Empty where the source has no split of its own."""
