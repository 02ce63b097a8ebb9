"""Turns histories that nobody has prepared into vectors, by the model of a package.

Training reads histories whose encodings lie in files. Here they come one request at a time and are encoded in memory.
With `prompt.item_attention=own`, the keys and values of each item's text come from the text cache, so that a history
costs its virtual tokens alone.

Shape suffixes: B histories, D width of what is compared, C recommender width, I items, J new items.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.config.compose import with_overrides
from laser.config.identity import same_llm
from laser.config.schema import Experiment
from laser.data.batches import inference_batches
from laser.data.examples import Examples
from laser.data.prompts import PromptFiles, Prompts
from laser.engine.histories import Histories
from laser.engine.plain import PlainEngine
from laser.errors import UserError
from laser.evaluation.pair_scores import PairScores
from laser.llm.late_text import make_texts, open_texts
from laser.llm.loading import embedding_std, llm_config, load_tokenizer
from laser.llm.text_files import TextFiles
from laser.models.laser import Laser
from laser.models.llm_probe import open_llm
from laser.recommenders.base import SequentialRecommender
from laser.recommenders.encodings import HeldEncodings
from laser.recommenders.ranks import counted_scores
from laser.recommenders.storage import load_recommender
from laser.recommenders.text import TextMeans
from laser.recommenders.text_features import features_of
from laser.serving.catalogue import Catalogue
from laser.serving.package import Package
from laser.training.artifacts import Artifacts
from laser.training.model import whole_laser

USERS, ITEMS = "train", "items"
"""Splits by which the text cache tells the words of users from those of items."""


class Reader:
    """Reads histories of internal ids.

    Args:
        laser: with its trained weights.
        config: the experiment.
        catalogue: the items.
        recommender: frozen; None if the model reads none.
        prompts: words of users' histories.
        item_prompts: words of items.
        texts: where the cached texts lie; None if texts are read anew.
        means: text features of the items, new ones last; None if the head reads none.
        device: of the model.
    """

    def __init__(
        self,
        laser: Laser,
        config: Experiment,
        catalogue: Catalogue,
        recommender: SequentialRecommender | None,
        prompts: Prompts,
        item_prompts: Prompts,
        texts: TextFiles | None,
        means: TextMeans | None,
        device: torch.device,
    ) -> None:
        self.laser, self.config, self.catalogue, self.recommender = laser.eval(), config, catalogue, recommender
        self.words = {USERS: prompts, ITEMS: item_prompts}
        self.texts, self.means, self.device = texts, means, device
        self._opened = open_texts(texts, _splits(len(catalogue)), self.words, config)

    @staticmethod
    def open(package: Package, catalogue: Catalogue, cache: Path, device: torch.device) -> "Reader":
        """Load the LLM and the trained weights.

        Raises:
            UserError: the LLM is not there, or is another one than the model was trained with.
        """
        config = with_overrides(package.config, {"cache_dir": str(cache)})
        opened = open_llm(config.loaded_llm, cache)
        if not same_llm(package.identity.llm_content, opened.content):
            raise UserError(
                f"llm.source: {config.llm.source} holds {opened.content}, and the model was trained on "
                f"{package.identity.llm_content}; put that LLM back"
            )
        tokenizer = load_tokenizer(opened.directory)
        files = item_files = PromptFiles.make(catalogue.dataset, config.prompt, tokenizer, cache)
        if config.prompt.item_instruction is not None:
            item_files = files.with_instruction(config.prompt.item_instruction, tokenizer)
        recommender = None if package.recommender is None else load_recommender(package.recommender)
        artifacts = Artifacts(
            dataset=catalogue.dataset.name,
            fingerprint=catalogue.dataset.fingerprint,
            dataset_directory=catalogue.dataset.path,
            num_items=len(catalogue),
            llm_directory=opened.directory,
            llm_content=opened.content,
            prompts=files,
            item_prompts=item_files,
            embedding_std=embedding_std(opened.directory, config.llm.trust_remote_code),
            first_token=None,
            recommender=package.recommender,
            recommender_width=0 if recommender is None else recommender.hidden_size,
            recommender_blocks=() if recommender is None else recommender.blocks,
        )
        engine = PlainEngine(whole_laser(config, artifacts, device), config.training, device)
        engine.load_trainable(package.weights())
        prompts, item_prompts, texts = files.open(), item_files.open(), None
        if config.prompt.item_attention == "own":
            decoder = llm_config(opened.directory, config.llm.num_layers, config.llm.trust_remote_code)
            words = {USERS: prompts, ITEMS: item_prompts}
            texts = make_texts(
                config, decoder, opened.directory, opened.content, _splits(len(catalogue)), words, device
            )
        means, num_new = package.text_means, len(catalogue) - catalogue.num_known
        if means is not None and num_new:
            means = means.with_new(features_of(config, catalogue.dataset, cache, device)[-num_new:])
        return Reader(engine.laser, config, catalogue, recommender, prompts, item_prompts, texts, means, device)

    def vectors(self, histories: Sequence[NDArray[np.int32]]) -> tuple[Tensor, float]:
        """Return the vectors of users with these histories, vector_BD, and the bias on the items of their own.

        Args:
            histories: internal ids, the oldest first, at least one in each.
        """
        examples = _examples(histories).last(self.config.prompt.max_history_items)
        return self._read(self._histories(USERS, examples, self._encodings(examples), None))

    def pairs(self, histories: Sequence[NDArray[np.int32]], candidates: NDArray[np.int64] | None = None) -> PairScores:
        """Return what users' scores hold beside the products of vectors.

        Args:
            histories: internal ids, the oldest first, at least one in each.
            candidates: the items that are ranked, sorted; None for the whole catalogue.
        """
        num_items = len(self.catalogue) if candidates is None else len(candidates)
        weight, counted_BI, own = self.laser.counted_weight, None, list[NDArray[Any]](histories)
        if weight and self.recommender is not None:
            examples = self._known(_examples(histories).last(self.config.prompt.max_history_items))
            counted_BI = counted_scores(self.recommender, examples, np.arange(len(histories)))
            assert counted_BI is not None
            counted_BI = self.catalogue.neighbours.counted_scores(counted_BI)
        if candidates is not None:
            own = [np.flatnonzero(np.isin(candidates, history)) for history in histories]
            counted_BI = None if counted_BI is None else counted_BI[:, candidates]
        return PairScores.of(own, num_items, self.device, counted_BI, weight)

    def items(self, items: NDArray[np.int64]) -> Tensor:
        """Return the vectors of some items, vector_JD, by the weights of the package.

        The package's embeddings of known items are these, unless its weights come from stage 2. That stage keeps the
        embeddings of the weights that it began with.
        """
        examples = Examples.of_items(len(self.catalogue)).take(items)
        embeddings_IC = np.zeros((len(self.catalogue), 0), np.float32)
        if self.recommender is not None:
            known_IC = self.recommender.item_embeddings()
            new_JC = self.catalogue.neighbours.embeddings(known_IC, self.recommender.blocks)
            embeddings_IC = np.concatenate([known_IC, new_JC])
        return self._read(self._histories(ITEMS, examples, self._encodings(examples), embeddings_IC))[0]

    def _histories(
        self, split: str, examples: Examples, encodings: HeldEncodings | None, embeddings_IC: NDArray[np.float32] | None
    ) -> Histories:
        words, text = self.words[split], self._opened.get(split)
        if text is not None:
            text = replace(text, examples=examples)
        return Histories(examples, encodings, words, words.lengths(examples), embeddings_IC, text, self.means)

    def _encodings(self, examples: Examples) -> HeldEncodings | None:
        """Encode histories with the recommender, which takes a new item for its stand-in."""
        if self.recommender is None:
            return None
        return HeldEncodings(self.recommender, self._known(examples))

    def _known(self, examples: Examples) -> Examples:
        return replace(examples, item_ids=self.catalogue.stand_ins[examples.item_ids])

    def _read(self, histories: Histories) -> tuple[Tensor, float]:
        costs = histories.costs(self.laser.num_added_tokens)
        vector_BD = torch.empty(len(histories), self.laser.vector_width, device=self.device)
        bias = 0.0
        with torch.inference_mode():
            for indices in inference_batches(costs, self.config.training.inference_batch_tokens):
                output = self.laser(histories.batch(indices, [1.0] * len(indices), self.device))
                vector_BD[torch.from_numpy(indices).to(self.device)] = output.vector_BD
                bias = 0.0 if output.history_bias is None else float(output.history_bias)
        return vector_BD, bias


def _examples(histories: Sequence[NDArray[np.int32]]) -> Examples:
    """Return histories as examples without targets."""
    lengths = np.array([len(history) for history in histories], np.int64)
    ends = lengths.cumsum()
    users = np.arange(len(histories), dtype=np.int32)
    return Examples(np.concatenate(histories), users, ends - lengths, ends, np.zeros(len(histories), np.int32))


def _splits(num_items: int) -> dict[str, Examples]:
    """Return what stands for the splits in the text cache: no user, and all items."""
    items = Examples.of_items(num_items)
    return {USERS: items.take(np.zeros(0, np.int64)), ITEMS: items}
