"""Joins the recommender's product to the score after all training (`head.joins`).

The stages train the cosine by itself; at the end, a few single weights put the two together by NDCG@10 on validation
users. Under the product, training would hardly move the cosine, because the recommender knows its training users.

Where the recommender has counted scores, they join in place of its first block. That block's product is the same
counts in few dimensions, and holds little of what is counted of rare items.

Shape suffixes: E validation users, I items, D width of what is compared.
"""

import time

import numpy as np
import torch
from torch import Tensor

from laser.config.schema import Experiment
from laser.engine.base import Engine
from laser.models.batch import sent
from laser.models.calibration import Scores, sampled_users
from laser.training.inputs import Inputs
from laser.training.loop import encode_items
from laser.training.model import copied_head


@torch.no_grad()
def join(engine: Engine, inputs: Inputs, items_ID: Tensor, config: Experiment) -> tuple[dict[str, float], Tensor]:
    """Set the weights of the recommender's blocks, of the cosine and of the history, the same on every worker.

    Args:
        engine: its head has no weights of the recommender yet.
        inputs: the validation users, and the recommender's states.
        items_ID: the item embeddings, for the cosine alone.
        config: the experiment.

    Returns:
        The weight of each block and of the cosine, with the seconds, and the item embeddings of the whole score.
    """
    started, val, blocks = time.perf_counter(), inputs.val, inputs.artifacts.recommender_blocks
    head = copied_head(engine, config, inputs.artifacts)
    vectors_ED = encode_items(engine, val, config.training, "encode validation users").float()
    rows = sampled_users(len(val), len(items_ID), np.random.default_rng(config.training.seed))
    states_IC = torch.from_numpy(inputs.items.states(np.arange(len(items_ID)))[:, : sum(blocks)]).to(engine.device)
    counted_SI = val.counted_scores(rows, whole_catalogue=True)
    scores = Scores.of(
        torch.from_numpy(val.states(rows)).to(engine.device),
        states_IC,
        blocks,
        vectors_ED[rows] / float(head.text_scale),
        items_ID.float(),
        sent(val.own_items(rows), engine.device),
        torch.from_numpy(val.examples.targets[rows].astype(np.int64)).to(engine.device),
        counted_SI,
    )
    chosen, bias = scores.best_weights(1.0, head.history_bias is not None)
    found = torch.tensor([*chosen, bias], device=engine.device, dtype=torch.float64)
    *chosen, bias = engine.sum(found * (engine.rank == 0)).tolist()
    head.set_weights(blocks, chosen, bias, counted=counted_SI is not None)
    engine.load_trainable(
        engine.trainable_state() | {f"head.{name}": value for name, value in head.state_dict().items()}
    )
    named = {f"weight/block{number}": weight for number, weight in enumerate(chosen[:-1])}
    if counted_SI is not None:
        named = {"weight/counted": named.pop("weight/block0"), **named}
    figures = {**named, "weight/cosine": chosen[-1], "train_seconds": time.perf_counter() - started}
    return figures, torch.cat([items_ID, states_IC[:, head.num_left_out :].to(items_ID.dtype)], dim=1)
