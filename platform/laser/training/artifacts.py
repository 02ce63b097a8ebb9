"""Describes the artifacts of an experiment, which it may share with other experiments: where each file lies.

The driver makes the artifacts (`laser.training.prepare`) and hands the description on. Workers and trials open them
(`laser.training.inputs`) and never make one themselves.
"""

from dataclasses import dataclass, field
from pathlib import Path

from laser.data.prompts import PromptFiles
from laser.llm.text_files import TextFiles


@dataclass(frozen=True)
class Artifacts:
    """Holds the paths of an experiment's artifacts and the few numbers known about them. It can be pickled."""

    dataset: str
    """Name of the dataset."""
    fingerprint: str
    """Content hash of the dataset."""
    dataset_directory: Path
    num_items: int
    """I, items of the catalogue."""
    llm_directory: Path
    llm_content: str
    """Names the LLM's weights and tokenizer, wherever they lie (`laser.config.identity.llm_content`)."""
    prompts: PromptFiles
    item_prompts: PromptFiles
    """The prompts of the items themselves, which begin with the instruction for items."""
    embedding_std: float
    """Std of the LLM's input embeddings; virtual tokens start at this scale."""
    first_token: tuple[float, ...] | None
    """The H numbers that every virtual token holds before training; None where they are random."""
    recommender: Path | None
    """Directory of the trained ID-based recommender; None if the experiment reads none."""
    recommender_width: int = 0
    """C; 0 without a recommender."""
    recommender_blocks: tuple[int, ...] = ()
    """Sizes of the recommender's blocks of dimensions; each block has a scale of its own."""
    item_embeddings: Path | None = None
    """The recommender's embeddings of the items; None without a recommender."""
    encodings: dict[str, Path] = field(default_factory=dict)
    """Split → file of the recommender's encodings of its histories; empty without a recommender."""
    text_means: Path | None = None
    """The items' text features that a head reads (`laser.recommenders.text`); None if it reads none."""
    texts: TextFiles | None = None
    """Keys and values of the texts that a late prefix reads; None if they are not cached."""
    users: Path | None = None
    """The users to train on, where they were chosen by scores (`laser.scoring.scored`)."""
    digests: dict[str, str] = field(default_factory=dict)
    """Split → hash that identifies its histories."""
    checkpoint_bytes: int = 0
    """Size of a checkpoint of the experiment's model; 0 if it has not been counted."""
