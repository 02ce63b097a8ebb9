"""The frozen recommender's hidden states C_u of many histories, computed once and then read from a mapped file.

They lie in one Arrow IPC file. Each row is a history, `encoding: large_list<fixed_size_list<float32, C>>`. The file is
not compressed, so a batch is read straight from the mapped pages, which the processes of a machine share.

Shape suffixes: B batch, N history items, C recommender width, R rows of all histories of a record batch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from laser.cli.progress import SILENT_SECONDS, progress
from laser.data.batches import inference_batches, stack_right
from laser.data.examples import Examples
from laser.recommenders.base import FittedRecommender, Items, SequentialRecommender
from laser.storage.cache import make_once

HISTORIES_PER_RECORD_BATCH = 4096
"""Every record batch but the last holds this many, so a division finds a history. 50 MB at 50 items of width 64."""
MAX_ITEMS_PER_FORWARD = 16_384

OwnSequence: TypeAlias = Callable[[int], Items] | None


class Encodings:
    """The encodings of histories in a memory-mapped file, by index.

    Args:
        path: a file that `make_encodings` wrote.
    """

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        columns = [reader.get_batch(number).column(0) for number in range(reader.num_record_batches)]
        self.path = path
        self.width: int = reader.schema.field(0).type.value_type.list_size
        self._offsets = [column.offsets.to_numpy() for column in columns]
        self._values_RC = [column.values.values.to_numpy().reshape(-1, self.width) for column in columns]
        self._num_histories = sum(len(column) for column in columns)

    def __len__(self) -> int:
        return self._num_histories

    def history(self, index: int) -> NDArray[np.float32]:
        """Return the encoding [N, C] of one history, a read-only view of the file."""
        number, row = divmod(index, HISTORIES_PER_RECORD_BATCH)
        start, end = self._offsets[number][row : row + 2]
        return self._values_RC[number][start:end]

    def batch(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return right-padded copies: float32 encoding_BNC, zero at the padding, and bool mask_BN, true at items."""
        histories = [self.history(int(index)) for index in indices]
        lengths = np.array([len(history) for history in histories])
        mask_BN = np.arange(lengths.max()) < lengths[:, None]
        encoding_BNC = np.zeros((*mask_BN.shape, self.width), dtype=np.float32)
        encoding_BNC[mask_BN] = np.concatenate(histories)
        return encoding_BNC, mask_BN


class HeldEncodings(Encodings):
    """The same in memory, of a few histories that no file keeps.

    Args:
        recommender: frozen and in eval mode.
        examples: the histories; of each, the last ``max_history`` items are encoded.
    """

    def __init__(self, recommender: SequentialRecommender, examples: Examples) -> None:
        assert not recommender.training, "encodings are those of a frozen recommender"
        examples = examples.last(recommender.max_history)
        self.width = recommender.hidden_size
        self._states: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(examples)
        for rows in inference_batches(examples.ends - examples.starts, MAX_ITEMS_PER_FORWARD):
            states_PC = _encode(recommender, examples, rows, None)
            ends = np.cumsum((examples.ends - examples.starts)[rows])
            for row, states_NC in zip(rows, np.split(states_PC, ends[:-1]), strict=True):
                self._states[row] = states_NC

    def __len__(self) -> int:
        return len(self._states)

    def history(self, index: int) -> NDArray[np.float32]:
        return self._states[index]


def make_encodings(
    recommender: SequentialRecommender, examples: Examples, directory: Path, key: str, own_sequence: OwnSequence = None
) -> Path:
    """Return the file of the encodings of the examples' histories, made once.

    Of each history, the last ``max_history`` items are encoded. Several processes may ask at once: one computes, and
    the others wait and read. An interrupted computation leaves nothing that a later one could take for whole.

    Args:
        recommender: frozen and in eval mode.
        examples: the histories; their targets are not read.
        directory: the folder of the file ``<key>.arrow``.
        key: names the recommender and the examples.
        own_sequence: for training examples, returns the training sequence of a user. A fitted recommender leaves it
            out when it encodes that user (`FittedRecommender`).
    """
    assert not recommender.training, "encodings are those of a frozen recommender"
    path = directory / f"{key}.arrow"
    make_once(path, lambda aside: _write(recommender, examples.last(recommender.max_history), aside, own_sequence))
    encodings = Encodings(path)
    assert (len(encodings), encodings.width) == (len(examples), recommender.hidden_size), f"{path} belongs to others"
    return path


def _write(recommender: SequentialRecommender, examples: Examples, path: Path, own_sequence: OwnSequence) -> None:
    width = recommender.hidden_size
    schema = pa.schema([("encoding", pa.large_list(pa.list_(pa.float32(), width)))])
    lengths = examples.ends - examples.starts
    label = f"encode {len(examples):,} histories by {type(recommender).__name__}"
    steps = progress(range(0, len(examples), HISTORIES_PER_RECORD_BATCH), label, "block", silent_seconds=SILENT_SECONDS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer, steps:
        for first in steps:
            part = lengths[first : first + HISTORIES_PER_RECORD_BATCH]
            offsets = np.concatenate([[0], part.cumsum()])
            values_RC = np.empty((offsets[-1], width), dtype=np.float32)
            for rows in inference_batches(part, MAX_ITEMS_PER_FORWARD):
                states_PC = _encode(recommender, examples, first + rows, own_sequence)
                ends = np.cumsum(part[rows])
                places_P = np.arange(len(states_PC)) + np.repeat(offsets[rows] - ends + part[rows], part[rows])
                values_RC[places_P] = states_PC
            column = pa.FixedSizeListArray.from_arrays(pa.array(values_RC.reshape(-1)), width)
            writer.write_batch(pa.record_batch([pa.LargeListArray.from_arrays(offsets, column)], schema=schema))


def _encode(
    recommender: SequentialRecommender, examples: Examples, indices: NDArray[np.int64], own_sequence: OwnSequence
) -> NDArray[np.float32]:
    """Return the states of some histories, one after the other."""
    item_ids, mask = stack_right(*examples.histories(indices), 0)
    inputs = torch.from_numpy(item_ids).to(recommender.device), torch.from_numpy(mask).to(recommender.device)
    with torch.inference_mode():
        if own_sequence is not None and isinstance(recommender, FittedRecommender):
            own_sequences = [own_sequence(int(user)) for user in examples.users[indices]]
            encoding_BNC = recommender.encode_without(*inputs, own_sequences)
        else:
            encoding_BNC = recommender.encode(*inputs)
    states_PC: NDArray[np.float32] = encoding_BNC.cpu().numpy()[mask]
    return states_PC
