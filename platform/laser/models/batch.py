"""Holds what one pass of the model reads: packed texts, and the recommender's padded encodings.

Shape suffixes: B histories, Q text tokens of all histories, N history items, C recommender width, P pairs of row and
item.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from laser.llm.text_states import Segments, TextStates, joined_text, stacked

Parts = TypeVar("Parts")
"""Tensors in dataclasses and tuples, a batch for instance."""


@dataclass(frozen=True)
class Batch:
    """Holds histories of users, of items, or of users followed by items.

    `weights_B` is 0 for a history that only fills a worker's shard. The model reads it, but no loss counts it.
    """

    token_ids_Q: Tensor
    """int64; the texts of the histories, one after the other."""
    text_lengths_B: Tensor
    """int64; number of text tokens of each history, at least one."""
    encoding_BNC: Tensor
    """float32, right-padded; the frozen recommender's hidden states. C is 0 if the experiment reads no recommender."""
    encoding_mask_BN: Tensor
    """True at real items."""
    state_BC: Tensor
    """float32; the recommender's last hidden state of each user, or its embedding of each item. A head reads it."""
    targets_B: Tensor
    """int64; the item that came next."""
    weights_B: Tensor
    """float32; 1 for real histories."""
    num_users: int
    """Number of users. They are the first rows; the other rows are items."""
    num_tokens: int
    """Number of text tokens of the histories with weight 1, without virtual tokens."""
    own_items: tuple[Tensor, Tensor] | None = None
    """Row and id of each item of the whole histories, int64 (P,). No row repeats an item. A history bias reads it."""
    text: TextStates | Segments | None = None
    """What a late prefix reads: cached states of the texts; or how the histories are put together, if each item is read
    by itself; None for ordinary text."""

    def __len__(self) -> int:
        return len(self.targets_B)


def joined(users: Batch, items: Batch) -> Batch:
    """Join users and items into one batch, users first. The shorter encodings are padded to the longer ones."""
    assert users.num_users == len(users) and items.num_users == 0

    def below(name: str) -> Tensor:
        return torch.cat([getattr(users, name), getattr(items, name)])

    return replace(
        users,
        token_ids_Q=below("token_ids_Q"),
        text_lengths_B=below("text_lengths_B"),
        encoding_BNC=stacked(users.encoding_BNC, items.encoding_BNC),
        encoding_mask_BN=stacked(users.encoding_mask_BN, items.encoding_mask_BN),
        state_BC=below("state_BC"),
        targets_B=below("targets_B"),
        weights_B=below("weights_B"),
        num_tokens=users.num_tokens + items.num_tokens,
        own_items=None,
        text=joined_text(users.text, items.text),
    )


def sent(parts: Parts, device: torch.device) -> Parts:
    """Return the same on a device. A GPU gets them from pinned memory, and nobody waits until they are there."""

    def send(tensor: Tensor) -> Tensor:
        if device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    return each_tensor(parts, send)


def each_tensor(parts: Parts, change: Callable[[Tensor], Tensor]) -> Parts:
    """Return the same with each tensor changed, however deep it lies in dataclasses, tuples and lists."""

    def changed(part: object) -> object:
        if isinstance(part, Tensor):
            return change(part)
        if isinstance(part, tuple | list):
            return type(part)(map(changed, part))
        if is_dataclass(part) and not isinstance(part, type):
            return replace(part, **{field.name: changed(getattr(part, field.name)) for field in fields(part)})
        return part

    return changed(parts)  # type: ignore[return-value]
