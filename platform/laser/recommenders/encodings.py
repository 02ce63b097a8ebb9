"""The frozen recommender's hidden states C_u of many histories, computed once and then read from a mapped file.

They lie in one Arrow IPC file. Each row is a history, `encoding: large_list<fixed_size_list<float32, C>>`. The file is
not compressed, so a batch is read straight from the mapped pages, which the processes of a machine share.

Shape suffixes: B batch, N history items, C recommender width, R rows of all histories of a record batch.
"""

from collections.abc import Callable, Iterator
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

    def batch(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return right-padded copies: float32 encoding_BNC, zero at the padding, and bool mask_BN, true at items."""
        start_B, end_B = self._places(indices)
        lengths_B = end_B - start_B
        mask_BN = np.arange(lengths_B.max()) < lengths_B[:, None]
        encoding_BNC = np.zeros((*mask_BN.shape, self.width), dtype=np.float32)
        for number, which_B in self._by_record_batch(indices):
            row_R, item_R = mask_BN[which_B].nonzero()
            row_R = which_B[row_R]
            encoding_BNC[row_R, item_R] = self._values_RC[number][start_B[row_R] + item_R]
        return encoding_BNC, mask_BN

    def last(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the encoding of each history's last item: states_BC, a copy."""
        end_B = self._places(indices)[1]
        states_BC = np.empty((len(indices), self.width), dtype=np.float32)
        for number, which_B in self._by_record_batch(indices):
            states_BC[which_B] = self._values_RC[number][end_B[which_B] - 1]
        return states_BC

    def _by_record_batch(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the number of each record batch that is read, and which of the histories lie in it."""
        number_B = indices // HISTORIES_PER_RECORD_BATCH
        for number in sorted(set(number_B.tolist())):
            yield number, np.flatnonzero(number_B == number)

    def _places(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first row of each history in its record batch, and the one after its last."""
        places_2B = np.empty((2, len(indices)), np.int64)
        for number, which_B in self._by_record_batch(indices):
            row_B = indices[which_B] % HISTORIES_PER_RECORD_BATCH
            places_2B[:, which_B] = self._offsets[number][row_B], self._offsets[number][row_B + 1]
        return places_2B[0], places_2B[1]


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
        self._offsets, self._values_RC, self._num_histories = [], [], len(examples)
        for block in _blocks(recommender, examples, None):
            self._offsets.append(block[0])
            self._values_RC.append(block[1])


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
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for offsets, values_RC in _blocks(recommender, examples, own_sequence):
            column = pa.FixedSizeListArray.from_arrays(pa.array(values_RC.reshape(-1)), width)
            writer.write_batch(pa.record_batch([pa.LargeListArray.from_arrays(offsets, column)], schema=schema))


def _blocks(
    recommender: SequentialRecommender, examples: Examples, own_sequence: OwnSequence
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the states values_RC of each record batch, and where each of its histories begins."""
    lengths = examples.ends - examples.starts
    label = f"encode {len(examples):,} histories by {type(recommender).__name__}"
    steps = progress(range(0, len(examples), HISTORIES_PER_RECORD_BATCH), label, "block", silent_seconds=SILENT_SECONDS)
    with steps:
        for first in steps:
            part = lengths[first : first + HISTORIES_PER_RECORD_BATCH]
            offsets = np.concatenate([[0], part.cumsum()])
            values_RC = np.empty((offsets[-1], recommender.hidden_size), dtype=np.float32)
            for rows in inference_batches(part, MAX_ITEMS_PER_FORWARD):
                states_PC = _encode(recommender, examples, first + rows, own_sequence)
                ends = np.cumsum(part[rows])
                places_P = np.arange(len(states_PC)) + np.repeat(offsets[rows] - ends + part[rows], part[rows])
                values_RC[places_P] = states_PC
            yield offsets, values_RC


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
