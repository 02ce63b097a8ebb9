"""Computes the frozen LLM's outputs for all histories and items once, and caches them in Arrow.

The outputs do not change while training touches only what follows the LLM. One pass reads all prefixes of a sequence
(`laser.llm.packed.readings`), which requires the same virtual tokens for all histories.

Shape suffixes: E examples, I items, R readings, H LLM width, L virtual tokens.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.cli.progress import progress
from laser.config.fields import without
from laser.config.identity import stage_key
from laser.config.marks import HOW_IT_RUNS, PERMISSION
from laser.config.schema import Experiment
from laser.data.batches import inference_batches
from laser.engine.base import Engine
from laser.engine.histories import Histories
from laser.errors import UserError
from laser.llm.loading import choose_dtype
from laser.llm.packed.decoder import PackedDecoder
from laser.llm.packed.readings import read_at
from laser.models.laser import PREFIX_MAPS
from laser.storage.cache import make_once
from laser.training.inputs import Inputs
from laser.training.loop import outputs


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

    They come from the cache, or all workers compute them. What has no such outputs has been refused: by
    `laser.training.prepare`, and by `check_shared_prefix`. An LLM that is to be tuned begins as the frozen one. Its
    outputs are the same in float32, and rounded otherwise in bf16, because `transformers` runs it.
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
        batch_tokens = config.training.inference_batch_tokens
        if engine.laser.bituning.late or tuned:
            outputs_RH = torch.cat([read_outputs(engine, part, batch_tokens) for part in parts])
        else:
            outputs_RH = _read(engine, parts, prefix_LH, suffix_H, batch_tokens)
        if engine.rank == 0:
            make_once(path, lambda aside: _save(aside, outputs_RH))
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


def read_outputs(engine: Engine, part: Histories, batch_tokens: int) -> Tensor:
    """Return what the LLM gives for each history of a part, float32 (E, H) on the CPU of every worker (collective)."""
    outputs_EH = torch.zeros(len(part), engine.laser.llm_width)
    for rows, output in outputs(engine, part, batch_tokens, "read"):
        outputs_EH[rows] = output.representation_BH.cpu()
    return torch.cat([engine.sum(some_EH.to(engine.device)).cpu() for some_EH in outputs_EH.split(16_384)])


def _read(
    engine: Engine,
    parts: tuple[Histories, Histories, Histories],
    prefix_LH: Tensor,
    suffix_H: Tensor,
    batch_tokens: int,
) -> Tensor:
    """Compute the outputs of all parts, one after the other: float32 outputs_RH on the CPU of every worker."""
    laser, device = engine.laser, engine.device
    assert isinstance(laser.llm, PackedDecoder)
    laser.eval()
    prefix_LH, suffix_H = prefix_LH.to(device), suffix_H.to(device)
    prefixes, val, items = parts
    texts = [*_texts([prefixes, val], 0), *_texts([items], len(prefixes) + len(val))]
    batches = inference_batches(np.array([text.tokens for text in texts]), batch_tokens)
    outputs_RH = torch.zeros(sum(len(part) for part in parts), laser.llm_width)
    with progress(range(0, len(batches), engine.world_size), "read", "batch", enabled=engine.rank == 0) as starts:
        for start in starts:
            number = start + engine.rank
            batch = [texts[index] for index in batches[min(number, len(batches) - 1)]]
            token_ids = [torch.from_numpy(text.read().astype(np.int64)).to(device) for text in batch]
            ends = [torch.from_numpy(text.ends).to(device) for text in batch]
            read_RH = read_at(laser.llm, prefix_LH, token_ids, ends, suffix_H)
            if number < len(batches):
                outputs_RH[np.concatenate([text.rows for text in batch])] = read_RH.cpu()
    return torch.cat([engine.sum(part_RH.to(device)).cpu() for part_RH in outputs_RH.split(16_384)])


@dataclass(frozen=True)
class _Text:
    """Holds the longest of several histories that begin at the same item, and where the others end in its text."""

    histories: Histories
    longest: int
    rows: NDArray[np.int64]
    """Rows of the histories in the outputs."""
    ends: NDArray[np.int64]
    """Number of text tokens of each history."""

    @property
    def tokens(self) -> int:
        return int(self.ends.max())

    def read(self) -> NDArray[np.int32]:
        return self.histories.prompts.tokens(self.histories.examples.history(self.longest))


def _texts(parts: Sequence[Histories], first_row: int) -> Iterator[_Text]:
    """Yield texts that together hold every history; histories that begin at the same item of a sequence share one.

    Args:
        parts: histories of the same sequences, with the same prompts.
        first_row: row in the outputs of the first history of the first part.
    """
    sizes = [len(part) for part in parts]
    part_E = np.repeat(np.arange(len(parts)), sizes)
    index_E = np.concatenate([np.arange(size) for size in sizes])
    start_E = np.concatenate([part.examples.starts for part in parts])
    length_E = np.concatenate([part.lengths for part in parts])
    order = np.lexsort([length_E, start_E])
    breaks = np.flatnonzero(np.diff(start_E[order])) + 1
    for group in np.split(order, breaks):
        longest = group[-1]
        yield _Text(parts[part_E[longest]], int(index_E[longest]), first_row + group, length_E[group])


def _save(path: Path, outputs_RH: Tensor) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(outputs_RH.numpy().reshape(-1)), outputs_RH.shape[1])
    table = pa.table({"output": column})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _load(path: Path) -> Tensor:
    with pa.memory_map(str(path)) as source:
        column = pa.ipc.open_file(source).read_all().column("output").combine_chunks()
    return torch.from_numpy(column.values.to_numpy().reshape(len(column), -1).copy())
