"""Everything that a run reads and shares with other runs: dataset, frozen LLM's files, recommender, encodings, prompts.

Each stage is cached under a key made of its own settings and inputs, so a sweep over K and L pays for it once; opening
what is cached takes a moment, and each worker does it for itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.config.identity import stage_key
from laser.config.schema import Experiment
from laser.data.batches import pad_right
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.data.prepare import prepare_dataset
from laser.data.prompts import Prompts
from laser.data.selectors.registry import select
from laser.engine.base import Batch
from laser.errors import UserError
from laser.models.head import ITEMS, USERS, Side
from laser.models.llm import embedding_std, eos_embedding, eos_token_id, llm_config, load_tokenizer
from laser.models.llm_source import resolve_llm
from laser.recommenders.encodings import Encodings, user_encodings
from laser.recommenders.pretraining import pretrained_recommender, pretraining_device
from laser.recommenders.storage import load_recommender, weights_hash
from laser.training.artifacts import SharedStages


@dataclass(frozen=True)
class Histories:
    """Examples as the model reads them: text tokens and recommender encodings, made into batches on demand."""

    examples: Examples
    encodings: Encodings | None
    """None where nothing reads a recommender."""
    prompts: Prompts
    lengths: NDArray[np.int64]
    """Text tokens of each example."""
    item_vectors_IC: NDArray[np.float32] | None = None
    """The recommender's vectors of the items, where the examples are the items themselves."""

    def __len__(self) -> int:
        return len(self.examples)

    def batch(
        self, indices: Sequence[int] | NDArray[np.int64], weights: Sequence[float], device: torch.device
    ) -> Batch:
        """Right-padded tensors of the examples; `weights` is 1 for real ones and 0 for those that fill a share."""
        indices = np.asarray(indices)
        token_ids, token_mask = pad_right([self.prompts.tokens(self.examples.history(int(i))) for i in indices], 0)
        if self.encodings is None:  # one item of width 0 stands for each history's
            encoding, encoding_mask = np.zeros((len(indices), 1, 0), np.float32), np.ones((len(indices), 1), np.bool_)
        else:
            encoding, encoding_mask = self.encodings.batch(indices)
        real = np.asarray(weights) > 0
        return Batch(
            token_ids_BT=torch.from_numpy(token_ids).to(device),
            token_mask_BT=torch.from_numpy(token_mask).to(device),
            encoding_BNC=torch.from_numpy(encoding).to(device),
            encoding_mask_BN=torch.from_numpy(encoding_mask).to(device),
            targets_B=torch.from_numpy(self.examples.targets[indices].astype(np.int64)).to(device),
            weights_B=torch.tensor(weights, dtype=torch.float32, device=device),
            num_tokens=int(self.lengths[indices][real].sum()),
            of=Side(self.side, torch.from_numpy(self.states(indices)).to(device)),
            own_items=self.own_items(indices, device),
        )

    @property
    def side(self) -> int:
        """USERS or ITEMS."""
        return USERS if self.item_vectors_IC is None else ITEMS

    def states(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """The recommender's last hidden state of each history, or its vectors of the items: float32 states_BC."""
        if self.item_vectors_IC is not None:
            return self.item_vectors_IC[self.examples.targets[indices]]
        if self.encodings is None:
            return np.zeros((len(indices), 0), np.float32)
        return np.stack([self.encodings.history(int(index))[-1] for index in indices])

    def own_items(self, indices: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and id of each item of the whole histories, each once a row, int64."""
        own = [np.unique(self.examples.whole_history(int(index))) for index in indices]
        rows_P = np.repeat(np.arange(len(own)), [len(items) for items in own])
        items_P = np.concatenate(own).astype(np.int64)
        return torch.from_numpy(rows_P).to(device), torch.from_numpy(items_P).to(device)


@dataclass(frozen=True)
class Inputs:
    """The shared stages of a run, opened."""

    dataset: Dataset
    llm_directory: Path
    recommender_directory: Path | None
    """None where nothing reads a recommender."""
    recommender_width: int
    """C; 0 without recommender."""
    recommender_blocks: tuple[int, ...]
    """Parts of it that have units of their own."""
    embedding_std: float
    """Standard deviation of the LLM's input embeddings: the scale of the virtual tokens."""
    first_token_H: Tensor | None
    """What every virtual token is before training; None where they are random."""
    train: Histories
    val: Histories
    test: Histories
    items: Histories
    """Each item as a history of one item, in the order of internal ids."""
    prefixes: Histories | None
    """Every prefix of the training sequences of the users of `train`; None without warm start."""

    @property
    def stages(self) -> SharedStages:
        """What there is to know of them without opening them."""
        return SharedStages(self.dataset.name, self.dataset.fingerprint, self.recommender_directory)


def prepare_inputs(config: Experiment, recommender_directory: Path | None = None) -> Inputs:
    """Open the shared stages; make the ones that are missing.

    Args:
        config: the experiment.
        recommender_directory: a trained recommender to use in place of the one of `config.recommender`.

    Raises:
        UserError: bad data, settings or LLM source, or a dataset that leaves nothing to train or validate on.
    """
    cache = Path(config.cache_dir).expanduser()
    dataset = prepare_dataset(config.data, cache)
    llm_directory = resolve_llm(config.llm.source, cache)
    llm = llm_config(llm_directory, config.llm.num_layers, config.llm.trust_remote_code)  # a wrong depth shows here
    if config.bituning.representation == "eos":
        eos_token_id(llm)
    starts_at_eos = config.bituning.init == "eos"
    first_token_H = eos_embedding(llm_directory, config.llm.trust_remote_code) if starts_at_eos else None
    recommender = None
    if config.uses_recommender and recommender_directory is None:
        device = pretraining_device(config.training.use_gpu)
        pretrained = pretrained_recommender(config.recommender, dataset, cache, test=False, device=device)
        recommender, recommender_directory = pretrained.model, pretrained.directory
    elif recommender_directory is not None:
        recommender = load_recommender(recommender_directory)
    weights = weights_hash(recommender_directory) if recommender_directory is not None else ""
    tokenizer = load_tokenizer(llm_directory)
    prompts = item_prompts = Prompts.build(dataset, config.prompt, tokenizer, cache)
    if config.prompt.item_instruction is not None:
        item_prompts = prompts.with_instruction(config.prompt.item_instruction, tokenizer)
    training, longest = config.training, config.prompt.max_history_items

    vectors_IC = np.zeros((dataset.num_items, 0), np.float32) if recommender is None else recommender.item_embeddings()

    def histories(split: str, examples: Examples) -> Histories:
        examples = examples.last(longest)
        encodings = None
        if recommender is not None:
            key = stage_key("encodings", 3, weights, dataset.fingerprint, split, examples.digest())
            own_sequence = dataset.train_items if split in ("train", "prefixes") else None
            encodings = user_encodings(recommender, examples, cache / "encodings", key, own_sequence)
        words = item_prompts if split == "items" else prompts
        return Histories(examples, encodings, words, words.lengths(examples), vectors_IC if split == "items" else None)

    def sampled(examples: Examples, num_users: int | None) -> Examples:
        return examples if num_users is None else examples.sample_users(num_users, training.seed)

    train = dataset.examples("train", training.every_prefix).share_of_users(training.train_fraction, training.seed)
    train = select(dataset, sampled(train, training.train_users), config.selection, training.seed)
    prefixes = None
    if config.warms_up_head:
        every = dataset.examples("train", every_prefix=True)
        prefixes = histories("prefixes", every.take(np.flatnonzero(np.isin(every.users, train.users))))
    inputs = Inputs(
        dataset=dataset,
        llm_directory=llm_directory,
        recommender_directory=recommender_directory,
        recommender_width=0 if recommender is None else recommender.hidden_size,
        recommender_blocks=() if recommender is None else recommender.blocks,
        embedding_std=embedding_std(llm_directory, config.llm.trust_remote_code),
        first_token_H=first_token_H,
        train=histories("train", train),
        val=histories("val", sampled(dataset.examples("val"), training.validation_users)),
        test=histories("test", dataset.examples("test")),
        items=histories("items", Examples.of_items(dataset.num_items)),
        prefixes=prefixes,
    )
    for split, examples in (("training", inputs.train), ("validation", inputs.val)):
        if not len(examples):
            raise UserError(
                f"data.path: {config.data.path} has no {split} example: users need at least 3 interactions "
                "(4 to train on); lower data.k_core or data.min_rating, or take more data"
            )
    return inputs
