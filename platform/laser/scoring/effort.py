"""The effort of training users: the norm of a user's own gradient of what is trained (arXiv 2401.17197, Eq. 12).

One backward pass gives the gradients of all users of a batch, each exactly. A user's loss is that of the stages: its
next item in the softmax over the catalogue, whose item embeddings are fixed.

Shape suffixes: B users of a batch, I catalogue items, C recommender width, D width of what is compared, H LLM width, S
positions, R rank, V input and W output width of a linear map.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from laser.engine.losses import item_contrastive_loss
from laser.errors import UserError
from laser.llm.packed.attention import Packing
from laser.models.batch import Batch
from laser.models.finetuning.lora import LoRALinear
from laser.models.head import ITEMS, USERS, Head
from laser.models.laser import Laser


def check_effort(laser: Laser, kind: str) -> None:
    """Refuse an effort of what the model does not have.

    Raises:
        UserError: names the setting that is missing.
    """
    if kind == "head" and laser.head is None:
        raise UserError("selection.effort: head; there is no head: set head.width, or selection.effort to suffix")
    if kind == "suffix" and (laser.bituning.suffix is None or laser.bituning.late):
        raise UserError(
            "selection.effort: suffix; it needs bituning.representation suffix and bituning.prefix_position before: "
            "set these, or selection.effort to head"
        )
    if kind == "adapters" and not _adapters(laser):
        raise UserError("selection.effort: adapters; the LLM has none: set finetuning.type to lora")
    if kind == "adapters" and laser.bituning.late:  # texts and virtual tokens pass through the LLM one after the other
        needed = "it needs bituning.prefix_position before"
        raise UserError(f"selection.effort: adapters; {needed}: set that, or selection.effort to head")


@torch.no_grad()
def item_vectors(laser: Laser, output_IH: Tensor, state_IC: Tensor) -> Tensor:
    """Return the item embeddings of what the LLM gives for the items: items_ID."""
    if laser.head is None:
        return F.normalize(output_IH, dim=-1)
    return cast(Tensor, laser.head(output_IH, ITEMS, state_IC).vector_BD)


def head_efforts(head: Head, batch: Batch, output_BH: Tensor, items_ID: Tensor, temperature: float) -> Tensor:
    """Return the norms of the users' gradients of the head: efforts_B.

    Items count as fixed, so that what a head of its own for items (`head.shared` false) learns plays no part.

    Args:
        head: in evaluation mode.
        batch: users alone; their states, targets and own items are read.
        output_BH: what the LLM gives for them.
        items_ID: the item embeddings.
        temperature: τ.
    """
    weights = {name: weight.detach() for name, weight in head.named_parameters() if name != "history_bias"}
    vector_BD = head(output_BH, USERS, batch.state_BC).vector_BD.detach().requires_grad_()
    slope_BD, of_bias_B = _loss_gradients(vector_BD, head.history_bias, batch, items_ID, temperature)

    def square(output_H: Tensor, state_C: Tensor, slope_D: Tensor) -> Tensor:
        def vector(weights: dict[str, Tensor]) -> Tensor:
            return functional_call(head, weights, (output_H[None], USERS, state_C[None])).vector_BD[0]

        (gradients,) = vjp(vector, weights)[1](slope_D)
        return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum()

    return (vmap(square)(output_BH, batch.state_BC, slope_BD) + of_bias_B.square()).sqrt()


def _loss_gradients(
    vector_BD: Tensor, bias: Tensor | None, batch: Batch, items_ID: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return each user's gradients of its loss with respect to its own vector, and to the history bias.

    All users share the bias. Its gradient for each is the derivative, by the weight of the user, of the bias's gradient
    for all.
    """
    weights_B = torch.ones_like(vector_BD[:, 0]).requires_grad_()
    bias = None if bias is None else bias.detach().requires_grad_()
    loss = item_contrastive_loss(vector_BD, items_ID, batch.targets_B, weights_B, temperature, bias, batch.own_items)
    (slope_BD,) = torch.autograd.grad(loss, vector_BD, retain_graph=True)
    if bias is None:
        return slope_BD, torch.zeros_like(weights_B)
    (of_bias,) = torch.autograd.grad(loss, bias, create_graph=True)
    return slope_BD, torch.autograd.grad(of_bias.sum(), weights_B)[0].detach()


def suffix_efforts(laser: Laser, batch: Batch, items_ID: Tensor, temperature: float) -> Tensor:
    """Return the norms of the users' gradients of the suffix, which each reads at a row of its own: efforts_B."""
    seen: list[tuple[Tensor, Packing | None]] = []

    def watch(llm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        padded = "inputs_embeds" in kwargs
        rows = (kwargs["inputs_embeds"] if padded else args[0]).detach().requires_grad_()
        seen.append((rows, None if padded else args[1]))
        return (args, {**kwargs, "inputs_embeds": rows}) if padded else ((rows, *args[1:]), kwargs)

    handle = laser.llm.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        loss = _loss(laser, batch, items_ID, temperature)
    finally:
        handle.remove()
    rows, packing = seen[0]
    (slopes,) = torch.autograd.grad(loss, rows)
    if packing is not None:
        return slopes[packing.last_B].float().norm(dim=-1)
    places_B = laser.num_virtual_tokens + batch.text_lengths_B
    return slopes[torch.arange(len(places_B), device=slopes.device), places_B].float().norm(dim=-1)


def adapter_efforts(laser: Laser, batch: Batch, items_ID: Tensor, temperature: float) -> Tensor:
    """Return the norms of the users' gradients of LoRA's matrices: efforts_B."""
    adapters = _adapters(laser)
    with _watched(adapters) as seen:
        loss = _loss(laser, batch, items_ID, temperature)
    slopes = torch.autograd.grad(loss, [added for _, added in seen])
    squares_B = torch.zeros(len(batch), device=loss.device)
    for adapter, (input_BSV, _), of_output_BSW in zip(adapters, seen, slopes, strict=True):
        slope_BSW = adapter.scale * of_output_BSW.float()
        up_BWR = torch.einsum("bsw,bsr->bwr", slope_BSW, input_BSV @ adapter.down_RI.detach().T)
        down_BRV = torch.einsum("bsr,bsv->brv", slope_BSW @ adapter.up_OR.detach(), input_BSV)
        squares_B += up_BWR.square().sum(dim=(1, 2)) + down_BRV.square().sum(dim=(1, 2))
    return squares_B.sqrt()


def _adapters(laser: Laser) -> list[LoRALinear]:
    return [module for module in laser.llm.modules() if isinstance(module, LoRALinear)]


@contextmanager
def _watched(adapters: list[LoRALinear]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Note what enters each adapted map, and a zero added to what leaves it, whose gradient is that of the output."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output_BSW: Tensor) -> Tensor:
        zero_BSW = torch.zeros_like(output_BSW).requires_grad_()
        seen.append((inputs[0].detach().float(), zero_BSW))
        return output_BSW + zero_BSW

    handles = [adapter.register_forward_hook(watch) for adapter in adapters]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _loss(laser: Laser, batch: Batch, items_ID: Tensor, temperature: float) -> Tensor:
    """Return the sum of the users' losses."""
    output, ones_B = laser(batch), torch.ones_like(batch.weights_B)
    return item_contrastive_loss(
        output.vector_BD, items_ID, batch.targets_B, ones_B, temperature, output.history_bias, batch.own_items
    )
