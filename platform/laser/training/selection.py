"""Chooses the training users of an experiment by scores: the effort of all of them, by the untrained model.

Shape suffixes: U training users, I items, H LLM width, C recommender width, D width of what is compared.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from laser.cli.progress import progress
from laser.config.families.selection import AllUsers, ScoredUsers
from laser.config.identity import settings_key
from laser.config.schema import Experiment, TrainingConfig
from laser.data.batches import inference_batches
from laser.data.dataset import Dataset
from laser.engine.plain import PlainEngine
from laser.models.head import ITEMS, USERS
from laser.scoring.choice import choose_users
from laser.scoring.effort import adapter_efforts, check_effort, head_efforts, item_vectors, suffix_efforts
from laser.scoring.scored import Made
from laser.training.extensions.outputs import read_outputs
from laser.training.inputs import Inputs
from laser.training.model import whole_laser
from laser.training.run.transfer import starting_weights

READ = ("data", "prompt", "llm", "recommender", "finetuning", "bituning", "mformer", "head")
READ_OF_TRAINING = (
    "start_from", "temperature", "train_fraction", "train_users", "seed", "use_gpu", "inference_batch_tokens",
    "gradient_checkpointing",
)  # fmt: skip
"""What the effort depends on; it is computed without any other setting."""


def scored_users(config: Experiment, dataset: Dataset, prepare: Callable[[Experiment], Inputs]) -> Path | None:
    """Return the file of the users to train on; None where the selection needs no scores.

    Args:
        config: the experiment.
        dataset: its data.
        prepare: makes and opens the artifacts of an experiment.
    """
    selection, training = config.selection, config.training
    if not isinstance(selection, ScoredUsers):
        return None
    everyone = _everyone(config)
    known = dataset.trained_on(training.train_fraction, training.seed)
    users = np.unique(known.examples("train").sample_users(training.train_users, training.seed).users)
    cache = Path(config.cache_dir).expanduser().absolute()
    effort_key = f"{selection.effort} {settings_key(everyone, dataset.fingerprint)}"

    def make_effort() -> Made:
        return efforts(everyone, prepare(everyone), selection.effort)

    return choose_users(selection, known, users, training.seed, cache, effort_key, make_effort)


def _everyone(config: Experiment) -> Experiment:
    """Return the experiment with all users, one example of each, and no setting that the effort does not depend on."""
    read = {name: getattr(config.training, name) for name in READ_OF_TRAINING}
    unread = {name: field.default for name, field in Experiment.model_fields.items() if name not in READ}
    kept = {"cache_dir": config.cache_dir, "selection": AllUsers()}
    return config.model_copy(update={**unread, **kept, "training": TrainingConfig(**read)})


def efforts(config: Experiment, inputs: Inputs, kind: str) -> Made:
    """Return the effort of each training user by the weights that the training starts from, and the seconds it took."""
    started = time.perf_counter()
    device = torch.device("cuda" if config.training.use_gpu else "cpu")
    laser = whole_laser(config, inputs.artifacts, device)
    engine = PlainEngine(laser, config.training, device)
    check_effort(laser, kind)
    if config.training.start_from is not None:
        engine.load_trainable(starting_weights(config.training.start_from, laser))
    tokens = config.training.inference_batch_tokens
    items_IH, users_UH = read_outputs(engine, inputs.items, tokens).to(device), None
    if kind == "head" or config.head.standardise:
        users_UH = read_outputs(engine, inputs.train, tokens).to(device)
    if config.head.standardise:
        assert laser.head is not None and users_UH is not None
        laser.head.standardise(users_UH, USERS)
        laser.head.standardise(items_IH, ITEMS)
    states_IC = torch.from_numpy(inputs.items.states(np.arange(len(inputs.items)))).to(device)
    items_ID, temperature = item_vectors(laser, items_IH, states_IC), config.training.temperature
    found_U = np.zeros(len(inputs.train))
    costs = inputs.train.costs(laser.num_added_tokens)
    batches = inference_batches(costs, tokens)
    with progress(batches, f"effort ({kind})", "batch") as steps:
        for indices in steps:
            batch = inputs.train.batch(indices, [1.0] * len(indices), device)
            if kind == "head":
                assert laser.head is not None and users_UH is not None
                found_B = head_efforts(laser.head, batch, users_UH[indices], items_ID, temperature)
            else:
                of = suffix_efforts if kind == "suffix" else adapter_efforts
                found_B = of(laser, batch, items_ID, temperature)
            found_U[indices] = found_B.double().cpu().numpy()
    return found_U, {"seconds": time.perf_counter() - started}
