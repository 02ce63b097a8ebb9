"""Aligns the M-Former with the LLM's word embeddings, before any other training.

The released code starts from a query transformer that a contrastive loss has aligned with the items' text; it uses the
best three experts there. Here a contrastive loss draws the mean of an item's prefix to the mean input embedding of
the item's own text, against those of all other items. No gradient passes through the LLM, and only its embedding table
is read. So an epoch costs a few passes of the M-Former over the catalogue.

Shape suffixes: I catalogue items, H LLM width.
"""

import time
from dataclasses import replace
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from laser.config.schema import TrainingConfig
from laser.engine.base import Engine
from laser.engine.histories import Histories
from laser.engine.schedule import Schedule
from laser.models.laser import Laser
from laser.training.loop import CatalogueStep, outputs, train_epoch

FIRST_EPOCH = 1_000_000
"""The alignment counts its epochs from here, so that its order of the data differs from that of the training."""


def align(engine: Engine, items: Histories, config: TrainingConfig) -> dict[str, float]:
    """Train the M-Former for `alignment_epochs` over the catalogue, then reset Adam.

    Returns:
        `alignment/loss` of the last epoch and `alignment/seconds` of all; empty without alignment.
    """
    if not config.alignment_epochs:
        return {}
    started = time.perf_counter()
    targets_IH = text_targets(engine, items, config)
    num_steps = ceil(len(items) / config.batch_size)
    config = config.model_copy(update={"schedule": "constant"})
    figures: dict[str, float] = {}
    for epoch in range(config.alignment_epochs):
        schedule = Schedule(config, 0, epoch * num_steps, num_steps)
        step = CatalogueStep(engine, items, targets_IH, config, Laser.average_prefix)
        label = f"alignment epoch {epoch + 1}"
        figures = train_epoch(engine, items, step, config, FIRST_EPOCH + epoch, label, schedule, len(items))
    engine.load_optimizer(None)
    return {"alignment/loss": figures["loss/contrastive"], "alignment/seconds": time.perf_counter() - started}


def text_targets(engine: Engine, items: Histories, config: TrainingConfig) -> Tensor:
    """Return the mean input embedding of each item's text without instruction (I, H).

    The means are centred over the catalogue and normalised. Without centring, any two of them point the same way.
    """
    prompts = replace(items.prompts, instruction=np.zeros(0, dtype=np.int32))
    texts = replace(items, prompts=prompts, lengths=prompts.lengths(items.examples))
    means_IH = torch.zeros(len(items), engine.laser.llm_width, device=engine.device)
    for indices, output in outputs(
        engine, texts, config.inference_batch_tokens, "embed item texts", Laser.average_text
    ):
        means_IH[torch.from_numpy(indices).to(engine.device)] = output.representation_BH
    means_IH = engine.sum(means_IH)
    return F.normalize(means_IH - means_IH.mean(dim=0), dim=-1)
