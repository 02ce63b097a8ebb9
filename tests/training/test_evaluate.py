"""A run is evaluated on its own data and with its own LLM, or not at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from laser.engine.plain import PlainEngine
from laser.errors import UserError
from laser.training.evaluate import check_same_content
from laser.training.loop import encode_items, evaluate
from laser.training.model import whole_laser
from laser.training.train import run_tags


def test_changed_data_or_weights_are_refused(experiment, inputs):
    artifacts = inputs.artifacts
    tags = {name: str(value) for name, value in run_tags(experiment, artifacts).items()}
    check_same_content(experiment, artifacts, tags)
    older = {name: value for name, value in tags.items() if name != "llm_content"}
    changed = replace(artifacts, llm_content="folder:0")
    check_same_content(experiment, changed, older)
    with pytest.raises(UserError, match=r"llm\.source: .* has changed since the run: it holds folder:0, then folder:"):
        check_same_content(experiment, changed, tags)
    with pytest.raises(UserError, match=r"data\.path: .* has changed since the run: fingerprint other, then "):
        check_same_content(experiment, replace(artifacts, fingerprint="other"), tags)


def test_some_items_alone_are_ranked_where_they_are_the_candidates(experiment, inputs):
    device = torch.device("cpu")
    engine = PlainEngine(whole_laser(experiment, inputs.artifacts, device), experiment.training, device)
    items_ID = encode_items(engine, inputs.items, experiment.training)
    whole = evaluate(engine, inputs.val, items_ID, experiment.training, "all", lists=True)
    every_third = np.arange(0, len(items_ID), 3)
    candidates = np.union1d(every_third, inputs.val.examples.targets).astype(np.int64)
    among = replace(inputs.val, examples=replace(inputs.val.examples, candidates=candidates))
    found = evaluate(engine, among, items_ID, experiment.training, "some", lists=True)
    assert (found.ranks <= whole.ranks).all() and (found.ranks < whole.ranks).any()
    assert found.num_items == len(candidates) and whole.lists_EK is not None and found.lists_EK is not None
    for everything, some, rank, target in zip(whole.lists_EK, found.lists_EK, found.ranks, found.targets, strict=True):
        kept = [item for item in everything.tolist() if item in candidates]
        assert some[: len(kept)].tolist() == kept  # the same order, without the others
        assert rank > 10 or some[rank - 1] == target
