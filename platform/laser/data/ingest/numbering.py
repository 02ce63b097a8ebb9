"""Numbers the users and items of a source's rows in the order of their first appearance."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from laser.data.ingest.interactions import Workspace
from laser.errors import UserError

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
        item_ids: raw ids of the items; an interaction's item is a position in it.
        unknown_item: makes an error from the row and raw id of an item that is not in `item_ids`. None leaves such
            interactions out and counts them.
    """

    def __init__(
        self,
        workspace: Workspace,
        thread: ThreadPoolExecutor,
        item_ids: pa.Array,
        unknown_item: Callable[[int, str], UserError] | None = None,
    ) -> None:
        self.interactions = workspace.interactions()
        self.num_unknown = 0
        """Interactions that were left out because their item is unknown."""
        self._workspace = workspace
        self._thread = thread
        self._num_items = len(item_ids)
        self._unknown_item = unknown_item
        self._users = Vocabulary(pa.array([], pa.string()))
        self._items = Vocabulary(item_ids)
        self._num_rows = 0
        self._waiting: list[_Rows] = []
        self._waiting_bytes = 0
        self._running: Future[None] | None = None

    def add(
        self,
        users: pa.ChunkedArray,
        items: pa.ChunkedArray,
        times: NDArray[np.int64],
        keep: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take rows: raw ids, times, and which of the rows to keep. None keeps all."""
        self._waiting.append(_Rows(users, items, times, np.ones(len(times), dtype=bool) if keep is None else keep))
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
        user_texts, item_texts, times, keep = zip(*waiting, strict=True)
        with ThreadPoolExecutor(1) as thread:  # hashing frees the interpreter's lock
            users = thread.submit(self._users.numbers, user_texts)
            items = self._items.numbers(item_texts)
            columns = [users.result(), items, np.concatenate(times)]
        kept = self._known(items) & np.concatenate(keep)
        if not kept.all():
            columns = [column[kept] for column in columns]
        gathered = pa.record_batch([pa.array(column) for column in columns], names=["user", "item", "time"])
        for start in range(0, gathered.num_rows, PIECE_ROWS):
            self.interactions.append(gathered.slice(start, PIECE_ROWS))
        self._num_rows += len(items)

    def _known(self, items: NDArray[np.int32]) -> NDArray[np.bool_]:
        known = items < self._num_items
        if self._unknown_item is not None and not known.all():
            row = int(np.argmin(known))
            raise self._unknown_item(self._num_rows + row, self._items.texts[items[row]].as_py())
        self.num_unknown += len(items) - int(known.sum())
        return known


class _Rows(NamedTuple):
    users: pa.ChunkedArray
    items: pa.ChunkedArray
    times: NDArray[np.int64]
    keep: NDArray[np.bool_]
