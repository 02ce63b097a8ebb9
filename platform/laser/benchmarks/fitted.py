"""Suite fitted: counting, ranks and encodings of the fitted recommenders, beside scipy's plain sparse product.

    python jobs/benchmark.py suite=fitted

The yardstick is what anybody would write: the users' weighted histories, a sparse matrix, times the sparse counts of
pairs, by scipy in blocks of users, without looking at the scores. The goal for each contestant that counts is twice its
time. EASE, the hybrid and the stack multiply dense matrices, for some of the users. Their yardsticks are these
products, and for the stack the work of its two parts. EASE ranks with random weights: its inverse takes minutes at
these sizes, and the weights do not change the speed. Its fit is measured on fewer items, beside numpy's inverse of the
same matrix.

Shape suffixes: B users, I items, C recommender width.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array

from laser.benchmarks.generated import histories
from laser.benchmarks.measure import Timing, Work, peak_mib, ratio, take_turns
from laser.benchmarks.suites import BenchmarkResult
from laser.config.families.recommenders import (
    EASEConfig,
    FamilySection,
    HybridConfig,
    ItemKNNConfig,
    PopularityConfig,
    StackConfig,
)
from laser.config.jobs import BenchmarkConfig, BenchmarkJob
from laser.data.examples import Examples
from laser.errors import UserError
from laser.families.item_knn import ItemKNN
from laser.recommenders.base import FittedRecommender, SequentialRecommender
from laser.recommenders.encodings import make_encodings
from laser.recommenders.ranks import recommender_ranks
from laser.recommenders.registry import build_recommender

BLOCK_USERS = 1024
"""Users of a block of the plain product. With fewer or more it is not faster."""
FIRST_DATASET_ROUNDS = 5
"""Rounds of the first dataset for one of a later one."""
MAX_DENSE_SCORES = 2**30
"""Users times items up to which scipy's product is also ranked, as a dense matrix."""
DENSE_USERS = 4096
"""Users that EASE, the hybrid and the stack rank and encode."""
EASE_FIT_ITEMS = 3000
"""Items of the data that EASE is fitted to; its time grows with their cube."""
EASE_USERS = 512
"""Users that EASE encodes without themselves; each takes a product with as many rows of its matrix as it has items."""
PRODUCT, EASE_PRODUCT, TEXT_PRODUCT = "scipy: product", "scipy: product, dense matrix", "torch: product of texts"
INVERSE, STACK_PARTS = "numpy: inverse", "parts of the stack: ranks"
MEMORY_OF = (
    "item_knn: ranks", "item_knn: encodings without the own user", "popularity: ranks", "hybrid: ranks", "ease: ranks",
    "stack: ranks",
)  # fmt: skip
"""Contestants whose peak of memory is measured, in a call of its own."""
YARDSTICKS = {"ease: fit": INVERSE, "ease": EASE_PRODUCT, "hybrid": TEXT_PRODUCT, "stack": STACK_PARTS}
"""First words of a contestant → the one that it is compared with; all others are compared with the sparse product."""


@dataclass(frozen=True)
class Data:
    """Generated users, whose last item is the one to rank."""

    train: list[NDArray[np.int32]]
    """All but the last item of each user."""
    val: Examples
    prefixes: Examples
    """Training examples: all but the last item of `train`."""

    @property
    def num_users(self) -> int:
        return len(self.train)

    def own(self, user: int) -> NDArray[np.int32]:
        """Return the training items of a user."""
        return self.train[user]


def run(job: BenchmarkJob) -> BenchmarkResult:
    """Measure each dataset by itself, and put the figures of all into one table."""
    settings = job.benchmark
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "goal": "at most twice the yardstick's seconds"}
    rows: list[Mapping[str, Any]] = []
    for number, (users, items) in enumerate(zip(settings.fitted_users, settings.fitted_items, strict=True)):
        figures[f"{users} x {items}"], more = _measure(settings, users, items, first=number == 0)
        rows += more
    return BenchmarkResult(figures, rows)


def generate(num_users: int, num_items: int) -> Data:
    """Generate users, and split off the last item of each."""
    sequences = histories(num_users, num_items)
    item_ids = np.concatenate(sequences)
    ends = np.cumsum([len(sequence) for sequence in sequences])
    starts = ends - [len(sequence) for sequence in sequences]
    users = np.arange(num_users, dtype=np.int32)
    val, prefixes = (Examples(item_ids, users, starts, ends - back, item_ids[ends - back]) for back in (1, 2))
    return Data([sequence[:-1] for sequence in sequences], val, prefixes)


def _measure(
    settings: BenchmarkConfig, num_users: int, num_items: int, first: bool
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    data = generate(num_users, num_items)
    knn, popularity = build_recommender(ItemKNNConfig(), num_items), build_recommender(PopularityConfig(), num_items)
    assert isinstance(knn, ItemKNN) and isinstance(popularity, FittedRecommender)
    knn.fit(data.train)
    popularity.fit(data.train)
    counts_II, weights_BI = plain_matrices(knn, data)
    contestants: dict[str, Work] = {
        PRODUCT: lambda: product(weights_BI, counts_II),
        "scipy: co-occurrences": lambda: co_occurrences(data.train, num_items),
        "item_knn: count": lambda: knn.count(data.train),
    }
    if num_users * num_items <= MAX_DENSE_SCORES:
        contestants["scipy: product and ranks"] = lambda: plain_ranks(weights_BI, counts_II, data.val.targets)
    contestants |= fitted_work("item_knn", knn, data) | fitted_work("popularity", popularity, data)
    if first:
        contestants["item_knn: ranks and lists"] = lambda: recommender_ranks(knn, data.val, lists=True)
        contestants |= fit_work(num_users, num_items)
    contestants |= dense_work(knn, data)
    refused = {}
    try:
        contestants |= ease_work(data, weights_BI)
    except UserError as error:
        refused["ease"] = str(error)
    rounds = settings.rounds if first else -(-settings.rounds // FIRST_DATASET_ROUNDS)
    timings = take_turns(contestants, rounds, settings.warmup_rounds if first else 0)
    peaks = {name: peak_mib(contestants[name]) for name in MEMORY_OF if name in contestants}
    agreement = check_agreement(knn, data, weights_BI, counts_II)
    figures, rows = summarise(data, knn, timings, peaks, agreement)
    return figures | {"refused": refused}, rows


def plain_matrices(knn: ItemKNN, data: Data) -> tuple[csr_array, csr_array]:
    """Return the counts and the weighted histories as scipy's matrices, made without our code for scoring."""
    size = (knn.num_items, knn.num_items)
    counts_II = csr_array((knn.counts_P.numpy(), knn.columns_P.numpy(), knn.row_offsets.numpy()), shape=size)
    last = [sequence[-knn.max_history :] for sequence in data.train]
    weights = [knn.history_decay ** np.arange(len(sequence) - 1, -1, -1, dtype=np.float32) for sequence in last]
    rows = np.repeat(np.arange(len(last)), [len(sequence) for sequence in last])
    entries = (np.concatenate(weights).astype(np.float32), (rows, np.concatenate(last)))
    return _narrow(counts_II), _narrow(csr_array(entries, shape=(len(last), knn.num_items)))


def _narrow(matrix: csr_array) -> csr_array:
    """Return the matrix with int32 indices, which scipy multiplies fastest."""
    parts = (matrix.data, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32))
    return csr_array(parts, shape=matrix.shape)


def product(weights_BI: csr_array, matrix_II: csr_array | NDArray[np.float32]) -> None:
    """Multiply block by block, and keep nothing."""
    for start in range(0, weights_BI.shape[0], BLOCK_USERS):
        weights_BI[start : start + BLOCK_USERS] @ matrix_II


def plain_ranks(weights_BI: csr_array, counts_II: csr_array, targets: NDArray[np.int32]) -> NDArray[np.int64]:
    """Rank the targets by the products, each block as a dense matrix."""
    ranks = []
    for start in range(0, weights_BI.shape[0], BLOCK_USERS):
        scores_BI = (weights_BI[start : start + BLOCK_USERS] @ counts_II).toarray()
        wanted_B = scores_BI[np.arange(len(scores_BI)), targets[start : start + BLOCK_USERS]]
        ranks.append((scores_BI >= wanted_B[:, None]).sum(axis=1))
    return np.concatenate(ranks)


def co_occurrences(sequences: Sequence[NDArray[np.int32]], num_items: int) -> csr_array:
    """Count in how many histories two items are together: the plain form of what item-kNN counts."""
    users = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    entries = (np.ones(len(users), dtype=np.float32), (users, np.concatenate(sequences)))
    taken_UI = csr_array(entries, shape=(len(sequences), num_items))
    return taken_UI.T @ taken_UI


def fitted_work(family: str, model: SequentialRecommender, data: Data) -> dict[str, Work]:
    """Return the work that references and a training ask of a fitted recommender."""
    model.eval()
    return {
        f"{family}: ranks": lambda: recommender_ranks(model, data.val),
        f"{family}: encodings": lambda: encode(model, data.val, None),
        f"{family}: encodings without the own user": lambda: encode(model, data.prefixes, data.own),
    }


def encode(model: SequentialRecommender, examples: Examples, own: Callable[[int], NDArray[np.int32]] | None) -> None:
    """Write the encodings into a folder that is deleted."""
    with tempfile.TemporaryDirectory() as folder:
        make_encodings(model, examples, Path(folder), "encodings", own)


def dense_work(knn: ItemKNN, data: Data) -> dict[str, Work]:
    """Return the work of the hybrid, and of the stack of that hybrid and a trained encoder, and their yardsticks."""
    hybrid = hybrid_of(knn)
    stack = _frozen(StackConfig(), knn.num_items)
    stack.fitted = hybrid
    some = np.arange(min(DENSE_USERS, data.num_users))
    ranked, prefixes = data.val.take(some), data.prefixes.take(some)
    contestants: dict[str, Work] = {
        TEXT_PRODUCT: lambda: product_of_texts(hybrid.text_IW, len(ranked)),
        STACK_PARTS: lambda: (recommender_ranks(hybrid, ranked), recommender_ranks(stack.trained, ranked)),
        "stack: ranks": lambda: recommender_ranks(stack, ranked),
        "hybrid: ranks": lambda: recommender_ranks(hybrid, ranked),
        "hybrid: encodings": lambda: encode(hybrid, ranked, None),
        "hybrid: encodings without the own user": lambda: encode(hybrid, prefixes, data.own),
    }
    return contestants


def ease_work(data: Data, weights_BI: csr_array) -> dict[str, Work]:
    """Return the work of EASE and its yardstick.

    Raises:
        UserError: there are too many items for its inverse.
    """
    ease = random_ease(weights_BI.shape[1])
    ranked = data.val.take(np.arange(min(DENSE_USERS, data.num_users)))
    some = data.prefixes.take(np.arange(min(EASE_USERS, data.num_users)))
    return {
        EASE_PRODUCT: lambda: product(weights_BI[: len(ranked)], ease.weights_II.numpy()),
        "ease: ranks": lambda: recommender_ranks(ease, ranked),
        "ease: encodings": lambda: encode(ease, ranked, None),
        f"ease: encodings without the own user, {len(some)} users": lambda: encode(ease, some, data.own),
    }


def fit_work(num_users: int, num_items: int) -> dict[str, Work]:
    """Return EASE's fit to data with fewer items, and the inverse of the matrix that it inverts."""
    num_items = min(num_items, EASE_FIT_ITEMS)
    train = generate(num_users, num_items).train
    ease = _frozen(EASEConfig(), num_items)
    gram_II = ease.gram(train)
    return {INVERSE: lambda: np.linalg.inv(gram_II), f"ease: fit, {num_items} items": lambda: ease.fit(train)}


def hybrid_of(knn: ItemKNN) -> Any:
    """Return a hybrid with the statistics of an item-kNN and random texts."""
    config = HybridConfig(hidden_size=knn.hidden_size + HybridConfig().text_width)
    hybrid = _frozen(config, knn.num_items)
    texts_IW = torch.randn(hybrid.text_IW.shape, generator=torch.Generator().manual_seed(0))
    hybrid.load_state_dict(knn.state_dict() | {"text_IW": F.normalize(texts_IW, dim=1)})
    return hybrid


def random_ease(num_items: int) -> Any:
    """Return an EASE whose weights are small random numbers."""
    ease = _frozen(EASEConfig(), num_items)
    generator = torch.Generator().manual_seed(0)
    ease.weights_II.copy_(1e-4 * torch.rand(ease.weights_II.shape, generator=generator))
    ease.inverse_diagonal_I.fill_(1e-2)
    ease.projection_IC.copy_(torch.randn(ease.projection_IC.shape, generator=generator))
    return ease


def _frozen(config: FamilySection, num_items: int) -> Any:
    return build_recommender(config, num_items).eval().requires_grad_(False)


def product_of_texts(text_IW: torch.Tensor, num_users: int) -> None:
    """Multiply as many texts as there are users with those of all items, block by block, and keep nothing."""
    for start in range(0, num_users, BLOCK_USERS):
        users = min(BLOCK_USERS, num_users - start)
        torch.mm(text_IW[torch.arange(users) % len(text_IW)], text_IW.T)


def check_agreement(knn: ItemKNN, data: Data, weights_BI: csr_array, counts_II: csr_array) -> float:
    """Return the part of users, of one block, whom both rank alike.

    Raises:
        ArithmeticError: it is less than 0.999. Products that are summed in another order may tie or not.
    """
    some = data.val.take(np.arange(min(BLOCK_USERS, data.num_users)))
    expected = plain_ranks(weights_BI[: len(some)], counts_II, some.targets)
    alike = float((recommender_ranks(knn, some).ranks == expected).mean())
    if alike < 0.999:
        raise ArithmeticError(f"only {alike:.4f} of the users have the same rank by scipy's product and by ours")
    return alike


def summarise(
    data: Data, knn: ItemKNN, timings: Mapping[str, Timing], peaks: Mapping[str, float], agreement: float
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """Compute how many times a yardstick's seconds each contestant takes."""
    times = {name: ratio(timing, timings[_yardstick(name)]) for name, timing in timings.items()}
    size = f"{data.num_users} x {knn.num_items}"
    figures: dict[str, Any] = {
        "num_interactions": len(data.val.item_ids),
        "num_counts": knn.num_statistics,
        "same_ranks": agreement,
        "seconds": {name: timing.as_figures() for name, timing in timings.items()},
        "times_the_yardstick": times,
        "peak_mib": {name: round(value, 1) for name, value in peaks.items()},
    }
    rows: list[Mapping[str, Any]] = [
        {
            "contestant": name,
            "users x items": size,
            "seconds": timing.median,
            "times the yardstick": times[name]["median"],
            "peak_mib": peaks.get(name, float("nan")),
        }
        for name, timing in timings.items()
    ]
    return figures, rows


def _yardstick(contestant: str) -> str:
    return next((other for words, other in YARDSTICKS.items() if contestant.startswith(words)), PRODUCT)
