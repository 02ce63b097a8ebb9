"""The model as an object that answers: histories of raw item ids in, lists of items out, in one process without Ray.

    answerer = Answerer.open(package, Path(".cache/laser"))
    [answer] = answerer.recommend([["B001", "B002"]], k=10)

`laser.serving.queries` says what becomes of unknown items, and of empty, long and repeated histories.

Shape suffixes: B histories, I items, D width of what is compared, K items of a list, C recommender width.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laser.errors import UserError
from laser.evaluation.ranking import exact_scores
from laser.evaluation.top_items import top_items
from laser.serving.catalogue import Catalogue, open_catalogue
from laser.serving.package import Package
from laser.serving.queries import Answer, Options, Query
from laser.serving.reader import Reader

Rows = NDArray[np.int32]


class Answerer:
    """Answers queries with one model.

    Args:
        catalogue: the items.
        reader: turns histories into vectors.
        items_ID: vectors of all items.
        max_history: items of a history that the LLM reads.
    """

    def __init__(self, catalogue: Catalogue, reader: Reader, items_ID: Tensor, max_history: int) -> None:
        self.catalogue, self.reader, self.items_ID, self.max_history = catalogue, reader, items_ID, max_history
        self._popular = np.argsort(-catalogue.popularity, kind="stable")

    @staticmethod
    def open(package: Package, cache: Path, new_items: Path | None = None, use_gpu: bool = False) -> "Answerer":
        """Load a package's model and its LLM, and encode new items.

        Args:
            package: an opened one (`laser.serving.package.read_package`).
            cache: the cache of all artifacts; it gets the LLM and the text cache where it lacks them.
            new_items: a table of items that the model was not trained with (`laser.serving.catalogue`).
            use_gpu: answer on a GPU.

        Raises:
            UserError: the LLM is not there, or another one than the model was trained with.
        """
        device = torch.device("cuda" if use_gpu else "cpu")
        cache = cache.expanduser().absolute()
        catalogue = open_catalogue(package, cache, new_items, device)
        reader = Reader.open(package, catalogue, cache, device)
        items_ID = package.item_embeddings().to(device)
        if len(catalogue) > catalogue.num_known:
            new_JD = reader.items(np.arange(catalogue.num_known, len(catalogue)))
            items_ID = torch.cat([items_ID, new_JD.to(items_ID.dtype)])
        return Answerer(catalogue, reader, items_ID, package.config.prompt.max_history_items)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        mask_history: bool = True,
        allowed: Sequence[str] | None = None,
        excluded: Sequence[str] = (),
    ) -> list[Answer]:
        """Recommend a list for each history, in their order. `Options` says what the other arguments mean."""
        options = Options.of(k, mask_history, allowed, excluded)
        return self.answer([Query.of(history, options) for history in histories])

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer queries, in their order.

        Raises:
            UserError: a query allows no item of the catalogue.
        """
        found = [self.catalogue.rows(query.history) for query in queries]
        vectors, bias = self._vectors([rows for rows, _ in found])
        groups: dict[Options, list[int]] = defaultdict(list)
        for number, query in enumerate(queries):
            groups[query.options].append(number)
        answers: dict[int, Answer] = {}
        for options, numbers in groups.items():
            candidates = self._candidates(options)
            known = [number for number in numbers if len(found[number][0])]
            if known:
                histories = [found[number][0] for number in known]
                vector_BD = torch.stack([vectors[rows.tobytes()] for rows in histories])
                lists = self._lists(vector_BD, histories, candidates, options, bias)
                answers |= {n: self._answer(*one, *found[n]) for n, one in zip(known, lists, strict=True)}
            for number in sorted({*numbers} - {*known}):
                popular = self._popular[np.isin(self._popular, candidates)][: options.k]
                answers[number] = self._answer(popular, None, *found[number])
        return [answers[number] for number in range(len(queries))]

    def _vectors(self, histories: Sequence[Rows]) -> tuple[dict[bytes, Tensor], float]:
        """Return the vector of each history that is not empty, by the bytes of its rows, and the history bias."""
        distinct = {rows.tobytes(): rows for rows in histories if len(rows)}
        if not distinct:
            return {}, 0.0
        vector_BD, bias = self.reader.vectors(list(distinct.values()))
        return dict(zip(distinct, vector_BD, strict=True)), bias

    def _candidates(self, options: Options) -> NDArray[np.int64]:
        """Return the internal ids of the items that may be recommended, in order."""
        candidates = np.arange(len(self.catalogue), dtype=np.int64)
        if options.allowed is not None:
            candidates = np.unique(self.catalogue.rows(options.allowed)[0]).astype(np.int64)
        candidates = np.setdiff1d(candidates, self.catalogue.rows(options.excluded)[0])
        if not len(candidates):
            raise UserError("allowed: no item of the catalogue is left to recommend; allow some of its ids")
        return candidates

    def _lists(
        self, vector_BD: Tensor, histories: list[Rows], candidates: NDArray[np.int64], options: Options, bias: float
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Return internal ids and scores of each list: exact, best first, and of equals the lowest id first."""
        whole, masked = len(candidates) == len(self.items_ID), options.mask_history
        items_JD = self.items_ID if whole else self.items_ID[torch.from_numpy(candidates).to(self.items_ID.device)]
        pairs, bias = self.reader.pairs(histories, None if whole else candidates), -math.inf if masked else bias
        # With the history masked, its items are at the end of a list that has no others.
        top_BK = top_items(vector_BD, items_JD, options.k, pairs, bias)
        rows_P, top_P = torch.arange(len(top_BK)).to(top_BK).repeat_interleave(top_BK.shape[1]), top_BK.flatten()
        score_P = exact_scores(vector_BD, items_JD, rows_P, top_P) + pairs.at(pairs.values(bias), rows_P, top_P)
        score_BK = score_P.view(top_BK.shape).cpu().numpy()
        found = zip(top_BK.cpu().numpy(), score_BK, np.isfinite(score_BK), strict=True)
        return [(candidates[top_K[kept_K]], score_K[kept_K]) for top_K, score_K, kept_K in found]

    def _answer(
        self, items: NDArray[np.int64], scores: NDArray[np.float32] | None, history: Rows, unknown: list[str]
    ) -> Answer:
        raw_ids, titles = self.catalogue.raw_ids, self.catalogue.titles
        return Answer(
            items=[raw_ids[item] for item in items],
            titles=[titles[item] for item in items],
            scores=[None] * len(items) if scores is None else scores.tolist(),
            unknown=unknown,
            num_unread=max(0, len(history) - self.max_history),
        )
