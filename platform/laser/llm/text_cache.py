"""Files of the frozen LLM's keys and values, which grow by the texts that they lack.

A folder belongs to one LLM, depth and dtype. Each block of the LLM has a file, whose rows are the states of texts, one
row for each token. So what a block reads of a text lies in one piece. The index says which rows belong to which text.
Rows that the index knows never change. So a new item is new rows at the end, and any number of processes map the files
into memory once.

    <folder>/
        block-<n>.bin        rows_R2GE
        index.safetensors    name, first row and number of rows of each text; a checksum of samples of the rows

Shape suffixes: R rows, N blocks, G key and value heads, E head width, T texts.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from laser.cli.progress import progress
from laser.data.batches import inference_batches
from laser.llm.loading import Decoder
from laser.llm.text_files import StateShape, state_files
from laser.llm.text_states import States, read_texts, spread
from laser.storage.locks import exclusive

logger = logging.getLogger(__name__)

SAMPLES, SAMPLE_BYTES = 8, 4096
"""The checksum covers so many places of each file, and so many bytes at each. It finds what was cut, replaced or
zeroed, and costs milliseconds."""
BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}
"""Tokens that pass through the LLM at once. So many fit a CPU's caches; a GPU wants large products."""


class Text(NamedTuple):
    """A text as the LLM reads it by itself, of which the rows from some token on are kept."""

    token_ids: NDArray[np.int32]
    kept_from: int = 0

    @property
    def name(self) -> bytes:
        """Sixteen bytes that name the text."""
        content = np.asarray(self.token_ids, np.int32).tobytes()
        return hashlib.sha256(self.kept_from.to_bytes(8, "little") + content).digest()[:16]

    @property
    def num_kept(self) -> int:
        return len(self.token_ids) - self.kept_from


class TextCache:
    """The texts of one folder.

    Args:
        folder: named by all that the states depend on, but for the texts.
        shape: of a row.
    """

    def __init__(self, folder: Path, shape: StateShape) -> None:
        self.folder, self.shape = folder, shape

    def add(self, texts: Sequence[Text], load: Callable[[], Decoder], device: torch.device) -> None:
        """Read the texts that are not there, and append their rows.

        Args:
            texts: those that must be there in the end.
            load: loads the LLM; called only if a text is missing.
            device: of the LLM.
        """
        if self._missing(texts) == []:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / "lock"):
            missing = self._missing(texts)
            if missing is None:
                logger.warning("%s is damaged: its texts are read anew", self.folder)
                for path in self.folder.glob("*.*"):  # what others have kept of first rows goes too
                    path.unlink()
                missing = self._missing(texts)
            if missing:
                self._append(missing, load(), device)

    def is_whole(self) -> bool:
        """Whether there is a file that looks as it was written."""
        return self._index.is_file() and self._missing([]) is not None

    def starts(self, texts: Sequence[Text]) -> NDArray[np.int64]:
        """Return the first row of each text, 0 where it keeps none; all have been added."""
        start_of = dict(zip(*self._read_index()[:2], strict=True))
        return np.array([start_of[text.name] if text.num_kept else 0 for text in texts], np.int64)

    def open(self) -> States:
        """Map the rows; all processes of a machine share the memory."""
        return tuple(self._open(path) for path in self._files)

    def _open(self, path: Path) -> Tensor:
        rows = path.stat().st_size // self.shape.row_bytes
        size = rows * int(np.prod(self.shape.row))
        flat = torch.from_file(str(path), shared=False, size=size, dtype=self.shape.dtype)
        return flat.view(rows, *self.shape.row)

    @property
    def _files(self) -> list[Path]:
        return state_files(self.folder, self.shape.blocks)

    @property
    def _index(self) -> Path:
        return self.folder / "index.safetensors"

    def _missing(self, texts: Sequence[Text]) -> list[Text] | None:
        """Return the texts that are not there, each once; None if what is there is damaged."""
        try:
            names, _, lengths, checksum = self._read_index()
        except (SafetensorError, KeyError):
            return None
        rows = int(sum(lengths))
        if rows and self._checksum(rows) != checksum:
            return None
        known = set(names)
        return list({text.name: text for text in texts if text.num_kept and text.name not in known}.values())

    def _read_index(self) -> tuple[list[bytes], list[int], list[int], str]:
        """Return names, first rows and lengths of the texts, and the checksum of all rows."""
        if not self._index.is_file():
            return [], [], [], ""
        with safe_open(self._index, framework="np") as file:
            names, starts, lengths = (file.get_tensor(name) for name in ("names", "starts", "lengths"))
            checksum = file.metadata()["checksum"]
        return [name.tobytes() for name in names], starts.tolist(), lengths.tolist(), checksum

    def _checksum(self, rows: int) -> str:
        """Hash samples of the first rows; a file that is too short has another checksum."""
        size = rows * self.shape.row_bytes
        digest = hashlib.sha256(str(size).encode())
        for path in self._files:
            if not path.is_file() or path.stat().st_size < size:
                return "cut short"
            with path.open("rb") as file:
                for place in np.linspace(0, max(0, size - SAMPLE_BYTES), SAMPLES).astype(np.int64):
                    file.seek(int(place))
                    digest.update(file.read(min(SAMPLE_BYTES, size - int(place))))
        return digest.hexdigest()

    def _append(self, texts: Sequence[Text], llm: Decoder, device: torch.device) -> None:
        """Read the texts, long ones first, and write the rows of each batch while the LLM reads the next one."""
        names, starts, lengths, _ = self._read_index()
        first, started, in_llm = sum(lengths), time.perf_counter(), 0.0
        token_counts = np.array([len(text.token_ids) for text in texts])
        batches = inference_batches(token_counts, BATCH_TOKENS[device.type])
        texts = [texts[index] for batch in batches for index in batch]
        kept = np.array([text.num_kept for text in texts])
        start_of = first + np.cumsum(kept) - kept
        size = int(kept.sum()) * self.shape.row_bytes
        left = iter(texts)
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("r+b" if path.exists() else "w+b")) for path in self._files]
            end = first * self.shape.row_bytes + size
            for file in files:
                os.posix_fallocate(file.fileno(), 0, end)  # a full disk is an error here, and not after minutes
                file.truncate(end)
                file.seek(end - size)
            writer = stack.enter_context(ThreadPoolExecutor(1))
            writing: Future[None] | None = None
            with progress(batches, "read texts", "batch") as steps:
                for batch in steps:
                    reading = time.perf_counter()
                    rows_NQ2GE = _kept_rows(list(islice(left, len(batch))), llm, device)
                    in_llm += time.perf_counter() - reading
                    if writing is not None:
                        writing.result()
                    writing = writer.submit(_write, files, rows_NQ2GE)
            if writing is not None:
                writing.result()
        self._write_index(
            [*names, *(text.name for text in texts)], [*starts, *start_of.tolist()], [*lengths, *kept.tolist()]
        )
        logger.info(
            "text cache: %d texts of %d tokens, %d MiB, took %.1f s; the LLM read them in %.1f s of these",
            len(texts), token_counts.sum(), size * self.shape.blocks >> 20, time.perf_counter() - started, in_llm,
        )  # fmt: skip

    def _write_index(self, names: list[bytes], starts: list[int], lengths: list[int]) -> None:
        aside = self._index.with_name(".index.writing")
        content = {
            "names": torch.frombuffer(bytearray(b"".join(names)), dtype=torch.uint8).view(-1, 16),
            "starts": torch.tensor(starts),
            "lengths": torch.tensor(lengths),
        }
        save_file(content, aside, metadata={"checksum": self._checksum(sum(lengths))})
        os.replace(aside, self._index)


@torch.inference_mode()
def _kept_rows(texts: Sequence[Text], llm: Decoder, device: torch.device) -> Tensor:
    """Read texts in one pass and return the rows_NQ2GE that they keep, text after text, on the CPU."""
    token_ids_Q = np.concatenate([text.token_ids for text in texts]).astype(np.int64)
    length_B = torch.tensor([len(text.token_ids) for text in texts])
    rows_NQ2GE = read_texts(llm, torch.from_numpy(token_ids_Q).to(device), length_B.to(device)).cpu()
    if not any(text.kept_from for text in texts):
        return rows_NQ2GE
    kept_from_B = torch.tensor([text.kept_from for text in texts])
    first_B = length_B.cumsum(0) - length_B + kept_from_B
    return rows_NQ2GE.index_select(1, spread(first_B, length_B - kept_from_B))


def _write(files: Sequence[BinaryIO], rows_NQ2GE: Tensor) -> None:
    for file, rows_Q2GE in zip(files, rows_NQ2GE, strict=True):
        file.write(rows_Q2GE.view(-1).view(torch.uint8).numpy().data)
