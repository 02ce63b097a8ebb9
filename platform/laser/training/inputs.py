"""Opens the artifacts of an experiment."""

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from safetensors.numpy import load_file

from laser.config.schema import Experiment
from laser.data.dataset import Dataset, open_dataset
from laser.data.selected import select_examples
from laser.engine.histories import Histories
from laser.llm.late_text import open_texts
from laser.recommenders.encodings import Encodings
from laser.recommenders.storage import load_recommender
from laser.recommenders.text import TextMeans
from laser.scoring.scored import chosen_in
from laser.training.artifacts import Artifacts

ITEM_EMBEDDINGS = "item_embeddings_IC"
"""Name of the tensor in the file at `Artifacts.item_embeddings`."""
_recommender_once = lru_cache(maxsize=1)(load_recommender)
"""All splits share it. It is loaded where a score needs it, not at the start."""


@dataclass(frozen=True)
class Inputs:
    """Holds the opened artifacts of a run."""

    artifacts: Artifacts
    dataset: Dataset
    train: Histories
    val: Histories
    test: Histories
    items: Histories
    """Each item as a history of one item, in the order of internal ids."""
    prefixes: Histories | None
    """Every prefix of the training sequences of `train`'s users; None without a warm start of the head."""


def open_inputs(config: Experiment, artifacts: Artifacts) -> Inputs:
    """Open the artifacts. This is quick, because the large files are memory-mapped.

    Args:
        config: the experiment.
        artifacts: those of this experiment, or of one with the same histories, prompts and recommender.
    """
    dataset = open_dataset(artifacts.dataset_directory)
    prompts, item_prompts = artifacts.prompts.open(), artifacts.item_prompts.open()
    item_embeddings_IC = np.zeros((dataset.num_items, 0), np.float32)
    if artifacts.item_embeddings is not None:
        item_embeddings_IC = load_file(artifacts.item_embeddings)[ITEM_EMBEDDINGS]
    selected = select_examples(dataset, config, chosen_in(artifacts.users))
    words = {split: item_prompts if split == "items" else prompts for split in selected}
    texts = open_texts(artifacts.texts, selected, words, config)
    means = None if artifacts.text_means is None else TextMeans.read(artifacts.text_means, config.head.text_decay)
    recommender = None if artifacts.recommender is None else partial(_recommender_once, artifacts.recommender)
    opened = {}
    for split, examples in selected.items():
        assert artifacts.digests[split] == examples.digest(), f"the artifacts hold other histories for {split}"
        encodings = Encodings(artifacts.encodings[split]) if artifacts.encodings else None
        embeddings_IC = item_embeddings_IC if split == "items" else None
        lengths = words[split].lengths(examples)
        opened[split] = Histories(
            examples, encodings, words[split], lengths, embeddings_IC, texts.get(split), means, recommender
        )
    return Inputs(
        artifacts=artifacts,
        dataset=dataset,
        train=opened["train"],
        val=opened["val"],
        test=opened["test"],
        items=opened["items"],
        prefixes=opened.get("prefixes"),
    )
