"""Computes the frozen LLM's outputs for all histories and items once, and caches them in Arrow.

The outputs do not change while training touches only what follows the LLM. One pass reads all prefixes of a sequence
(`laser.llm.packed.readings`), which requires the same virtual tokens for all histories.

Shape suffixes: E examples, I items, R readings, H LLM width, L virtual tokens.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from laser.cli.progress import progress
from laser.config.fields import without
from laser.config.identity import stage_key
from laser.config.marks import HOW_IT_RUNS, PERMISSION
from laser.config.schema import Experiment
from laser.data.batches import inference_batches
from laser.engine.base import Engine
from laser.engine.histories import Histories, shared_texts
from laser.errors import UserError
from laser.llm.loading import choose_dtype
from laser.llm.packed.decoder import PackedDecoder
from laser.llm.packed.readings import read_at
from laser.models.laser import PREFIX_MAPS
from laser.storage.cache import make_once
from laser.training.inputs import Inputs
from laser.training.loop import outputs_of_batches

PIECE_BATCHES = 64
"""Batches that each worker reads between two pieces of an unfinished reading: some 20 seconds for SmolLM2's first six
blocks on one core, with the default batches."""

Found = Iterator[tuple[NDArray[np.int64], Tensor]]
"""Rows and their outputs."""


@dataclass(frozen=True)
class Outputs:
    """Holds the LLM's outputs, float32, on the CPU."""

    name: str
    """Names everything that they depend on."""
    prefixes_EH: Tensor
    """Outputs for `Inputs.prefixes`."""
    val_EH: Tensor
    """Outputs for `Inputs.val`."""
    items_IH: Tensor
    """Outputs for `Inputs.items`."""


def cached_outputs(engine: Engine, inputs: Inputs, config: Experiment) -> Outputs:
    """Return the outputs under the engine's present virtual tokens (collective).

    They come from the cache, or all workers compute them, and go on after an interruption. What has no such outputs
    has been refused: by `laser.training.prepare`, and by `check_shared_prefix`. An LLM that is to be tuned begins as
    the frozen one. Its outputs are the same in float32, and rounded otherwise in bf16, because `transformers` runs it.
    """
    assert inputs.prefixes is not None
    prefix_LH, suffix_H = _virtual_tokens(engine)
    parts = (inputs.prefixes, inputs.val, inputs.items)
    prompts, item_prompts = inputs.artifacts.prompts, inputs.artifacts.item_prompts
    virtual = hashlib.sha256(torch.cat([prefix_LH.flatten(), suffix_H]).numpy().tobytes()).hexdigest()
    settings, tuned = config.loaded_llm, config.finetuning.trains_llm
    rounded = tuned and choose_dtype(settings.dtype, engine.device) == torch.bfloat16
    key = stage_key(
        "outputs",
        without(settings, HOW_IT_RUNS, PERMISSION) | {"source": inputs.artifacts.llm_content},
        config.prompt,
        [(texts.instruction, texts.numbers, texts.items.name) for texts in (prompts, item_prompts)],
        inputs.dataset.fingerprint,
        virtual,
        config.bituning.prefix_position,
        [part.examples.digest() for part in parts],
        *(["transformers"] if rounded else []),
    )
    path = Path(config.cache_dir).expanduser() / "outputs" / f"{key}.arrow"
    there = engine.sum(torch.tensor(float(engine.rank == 0 and path.is_file()), device=engine.device))
    if there:
        outputs_RH = _load(path)
    else:
        batch_tokens, unfinished = config.training.inference_batch_tokens, path.with_suffix(".unfinished")
        if engine.laser.bituning.late or tuned:
            read = [read_outputs(engine, part, batch_tokens, unfinished / str(n)) for n, part in enumerate(parts)]
            outputs_RH = torch.cat(read)
        else:
            outputs_RH = _read(engine, parts, prefix_LH, suffix_H, batch_tokens, unfinished)
        if engine.rank == 0:
            make_once(path, lambda aside: _save(aside, outputs_RH))
            shutil.rmtree(unfinished, ignore_errors=True)
    return Outputs(key, *outputs_RH.split([len(part) for part in parts]))


def check_shared_prefix(weights: Mapping[str, Tensor]) -> None:
    """Refuse starting weights under which the prefix differs between histories.

    Raises:
        UserError: it does.
    """
    if any(weights[f"{name}.weight"].any() for name in PREFIX_MAPS if f"{name}.weight" in weights):
        raise UserError(
            "training.start_from: its prefix differs from user to user, and the head is prepared under one "
            "prefix; set warm_start.epochs to 0 and head.standardise to false, or bituning.prefix to free or none"
        )


def _virtual_tokens(engine: Engine) -> tuple[Tensor, Tensor]:
    """Return prefix and suffix, float32 on the CPU."""
    laser, state = engine.laser, engine.trainable_state()
    prefix_LH = state.get("bituning.prefix", torch.empty(0, laser.llm_width))
    for name in PREFIX_MAPS:
        if f"{name}.bias" in state:
            assert not state[f"{name}.weight"].any(), "the prefix differs from user to user"
            prefix_LH = state[f"{name}.bias"].expand(laser.num_virtual_tokens, -1)
    return prefix_LH, state["bituning.suffix"]


def read_outputs(engine: Engine, part: Histories, batch_tokens: int, unfinished: Path | None = None) -> Tensor:
    """Return what the LLM gives for each history of a part, float32 (E, H) on the CPU of every worker (collective).

    Args:
        engine: its model reads.
        part: the histories.
        batch_tokens: `training.inference_batch_tokens`.
        unfinished: a folder in which an interrupted reading is found again, named by all that it depends on.
    """
    batches = inference_batches(part.costs(engine.laser.num_added_tokens), batch_tokens)

    def read(piece: range) -> Found:
        label = _label(piece, len(batches))
        for rows, output in outputs_of_batches(engine, part, batches[piece.start : piece.stop], label):
            yield rows, output.representation_BH

    return _in_pieces(engine, batches, len(part), read, unfinished)


def _read(
    engine: Engine,
    parts: tuple[Histories, Histories, Histories],
    prefix_LH: Tensor,
    suffix_H: Tensor,
    batch_tokens: int,
    unfinished: Path,
) -> Tensor:
    """Compute the outputs of all parts, one after the other: float32 outputs_RH on the CPU of every worker."""
    llm, device = engine.laser.llm, engine.device
    assert isinstance(llm, PackedDecoder)
    engine.laser.eval()
    prefix_LH, suffix_H = prefix_LH.to(device), suffix_H.to(device)
    prefixes, val, items = parts
    texts = [*shared_texts([prefixes, val], 0), *shared_texts([items], len(prefixes) + len(val))]
    batches = inference_batches(np.array([text.tokens for text in texts]), batch_tokens)
    rows_of_batches = [np.concatenate([texts[index].rows for index in batch]) for batch in batches]

    def read(piece: range) -> Found:
        starts = piece[:: engine.world_size]
        with progress(starts, _label(piece, len(batches)), "batch", enabled=engine.rank == 0) as shown:
            for start in shown:
                number = start + engine.rank
                batch = [texts[index] for index in batches[min(number, piece[-1])]]
                token_ids = [torch.from_numpy(text.read().astype(np.int64)).to(device) for text in batch]
                ends = [torch.from_numpy(text.ends).to(device) for text in batch]
                read_RH = read_at(llm, prefix_LH, token_ids, ends, suffix_H)
                if number in piece:
                    yield rows_of_batches[number], read_RH

    return _in_pieces(engine, rows_of_batches, sum(len(part) for part in parts), read, unfinished)


def _label(piece: range, num_batches: int) -> str:
    return "read" if len(piece) == num_batches else f"read, from batch {piece.start + 1:,} of {num_batches:,}"


def _in_pieces(
    engine: Engine,
    batches: Sequence[NDArray[np.int64]],
    num_rows: int,
    read: Callable[[range], Found],
    unfinished: Path | None,
) -> Tensor:
    """Collect outputs_RH from pieces of some batches, and keep each piece in a folder until all are there (collective).

    Args:
        engine: gives the workers.
        batches: the rows of each batch; each row is in one of them.
        num_rows: R.
        read: reads the batches of these numbers; yields rows and outputs of this worker's part of them.
        unfinished: the folder; None keeps nothing.
    """
    outputs_RH, size = torch.zeros(num_rows, engine.laser.llm_width), PIECE_BATCHES * engine.world_size
    for start in range(0, len(batches), size):
        piece = range(start, min(start + size, len(batches)))
        rows = np.concatenate(batches[start : piece.stop])
        file = None if unfinished is None else unfinished / f"{hashlib.sha256(rows.tobytes()).hexdigest()}.safetensors"
        is_there = torch.tensor(float(engine.rank == 0 and file is not None and file.is_file()), device=engine.device)
        if file is not None and engine.sum(is_there):
            outputs_RH[rows] = load_file(file)["outputs"]
            continue
        for own_rows, found_BH in read(piece):
            outputs_RH[own_rows] = found_BH.cpu()
        outputs_RH[rows] = found_RH = engine.sum(outputs_RH[rows].to(engine.device)).cpu()
        if file is not None and engine.rank == 0:
            make_once(file, partial(save_file, {"outputs": found_RH}))
    return outputs_RH


def _save(path: Path, outputs_RH: Tensor) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(outputs_RH.numpy().reshape(-1)), outputs_RH.shape[1])
    table = pa.table({"output": column})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _load(path: Path) -> Tensor:
    with pa.memory_map(str(path)) as source:
        column = pa.ipc.open_file(source).read_all().column("output").combine_chunks()
    return torch.from_numpy(column.values.to_numpy().reshape(len(column), -1).copy())
