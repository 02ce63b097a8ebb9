"""What every family keeps to. The cases are taken from the union in `laser.config.families.recommenders`."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from laser import families
from laser.config.compose import load_config
from laser.config.families.recommenders import (
    FAMILIES,
    FamilySection,
    NoRecommenderConfig,
    OwnConfig,
    TextSection,
    TrainedSection,
)
from laser.config.schema import DataConfig, Experiment
from laser.data.dataset import Dataset
from laser.errors import UserError
from laser.evaluation.user_ranks import read_ranks
from laser.families.item_knn import PairCounts
from laser.recommenders.base import FittedRecommender, ReadsDays, SequentialRecommender, TrainedRecommender, last_state
from laser.recommenders.pretraining import pretrained_recommender
from laser.recommenders.registry import ALLOW_CODE, build_recommender
from laser.recommenders.storage import load_recommender, save_recommender
from laser.recommenders.text import ReadsText
from laser.sources.prepare import prepare_dataset

NUM_ITEMS = 12
HISTORIES = [[3, 7, 1, 9, 4, 4], [0], [11, 0, 5]]
SMALL = {"hidden_size": 16, "text_width": 8, "num_layers": 1, "max_history": 6, "max_epochs": 2, "batch_size": 16}

every_family = pytest.mark.parametrize("family", FAMILIES)


def small(section: FamilySection, **more: Any) -> FamilySection:
    """The section with small settings, as far as it has them, in itself and in its parts."""
    changes = {name: value for name, value in (SMALL | more).items() if name in type(section).model_fields}
    return section.model_copy(update=changes | {name: small(part, **more) for name, part in section.parts.items()})


def sequences() -> list[np.ndarray]:
    """Training sequences with repeated items, a user of one item, and items 10 and 11, which only the last user has."""
    random = np.random.default_rng(0)
    found = [random.integers(0, 10, length).astype(np.int32) for length in (5, 3, 1, 6, 4, 6, 2)]
    return [*found, np.array([10, 2, 11, 10], dtype=np.int32)]


def ready(config: FamilySection, data: list[np.ndarray]) -> SequentialRecommender:
    """A model in eval mode that has read its text, is fitted, and whose trained weights are far from their start."""
    torch.manual_seed(3)
    model = build_recommender(config, NUM_ITEMS)
    for part in model.modules():
        if isinstance(part, ReadsText):
            part.read_text(np.random.default_rng(1).normal(size=(NUM_ITEMS, 9)).astype(np.float32))
    if isinstance(model, ReadsDays):
        model.read_days([np.arange(len(sequence), dtype=np.float64) for sequence in data])
    if isinstance(model, FittedRecommender):
        model.fit(data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def batch(histories: list[list[int]], extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, histories)) + extra
    item_ids = torch.tensor([history + [8] * (length - len(history)) for history in histories])
    return item_ids, torch.arange(length) < torch.tensor([[len(history)] for history in histories])


@pytest.fixture(params=FAMILIES)
def config(request: pytest.FixtureRequest) -> FamilySection:
    return small(FAMILIES[request.param]())


def test_each_family_has_a_module_and_each_module_is_in_the_union():
    modules = [
        part.name for part in pkgutil.walk_packages(families.__path__, f"{families.__name__}.") if not part.ispkg
    ]
    assert {module.rpartition(".")[2]: ".text." in module for module in modules} == {
        family: issubclass(section, TextSection) for family, section in FAMILIES.items()
    }
    assert all(callable(importlib.import_module(module).build) for module in modules)
    for family, section in FAMILIES.items():
        assert section().type == family and section.__doc__


def test_a_family_that_is_not_used_is_not_imported():
    code = (
        "import sys\n"
        "from laser.config.families.recommenders import PopularityConfig\n"
        "from laser.recommenders import registry\n"
        "registry.build_recommender(PopularityConfig(), 3)\n"
        f"print(sorted(name for name in sys.modules if name.startswith('{families.__name__}.')))"
    )
    environment = {"PYTHONPATH": str(Path(families.__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert ran.stdout.strip() == f"['{families.__name__}.popularity']"


def test_no_recommender_builds_nothing():
    with pytest.raises(UserError, match=r'recommender\.type: "none"; there is nothing to train'):
        build_recommender(NoRecommenderConfig(), NUM_ITEMS)


def test_it_is_of_the_kind_that_its_section_says(config):
    model = build_recommender(config, NUM_ITEMS)
    assert model.training and isinstance(model, FittedRecommender | TrainedRecommender)
    assert isinstance(model, TrainedRecommender) == isinstance(config, TrainedSection)
    assert isinstance(model, ReadsText) == isinstance(config, TextSection)
    assert all(isinstance(getattr(model, name), SequentialRecommender) for name in config.parts)


def test_it_encodes_and_scores_and_padding_changes_no_row(config):
    model = ready(config, sequences())
    item_ids, mask = batch(HISTORIES[1:], extra=2)
    encoding_BNC, scores_BI = model.encode(item_ids, mask), model.scores(item_ids, mask)
    assert encoding_BNC.shape == (2, 5, model.hidden_size) and encoding_BNC.dtype == torch.float32
    assert scores_BI.shape == (2, NUM_ITEMS) and scores_BI.isfinite().all() and encoding_BNC.isfinite().all()
    assert not encoding_BNC[~mask].any(), "zero at the padding"
    for row, history in enumerate(HISTORIES[1:]):
        # Worst over 20 seeds: 1.7e-6 on encodings up to 4.5, 2.1e-6 on scores up to 5.0 (order of summation).
        alone = batch([history])
        torch.testing.assert_close(encoding_BNC[row, : len(history)], model.encode(*alone)[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(scores_BI[row], model.scores(*alone)[0], rtol=0, atol=1e-5)


def test_its_item_embeddings_and_blocks_fit_its_states(config):
    model = ready(config, sequences())
    embeddings_IC = model.item_embeddings()
    assert embeddings_IC.shape == (NUM_ITEMS, model.hidden_size) and embeddings_IC.dtype == np.float32
    assert np.isfinite(embeddings_IC).all() and sum(model.blocks) == model.hidden_size


def test_counted_scores_are_those_that_the_first_block_gives_nearly(config):
    """The first block has as many dimensions here as there are items, so nearly is up to rounding and its unit."""
    model = ready(small(config, hidden_size=NUM_ITEMS + SMALL["text_width"]), sequences())
    item_ids, mask = batch(HISTORIES)
    counted_BI, width = model.counted_scores(item_ids, mask), model.blocks[0]
    parts = [model, *(getattr(model, name) for name in config.parts)]
    assert (counted_BI is not None) == any(isinstance(part, PairCounts) for part in parts)
    if counted_BI is not None:
        states_BC = last_state(model.encode(item_ids, mask), mask)[:, :width]
        products_BI = states_BC @ torch.from_numpy(model.item_embeddings()[:, :width]).T
        assert counted_BI.dtype == np.float32 and counted_BI.nnz
        unit = products_BI.max() / counted_BI.max()
        np.testing.assert_allclose(unit * counted_BI.toarray(), products_BI, rtol=0, atol=1e-4)


def test_it_comes_back_from_disk_with_the_same_bits(config, tmp_path: Path):
    model = ready(config, sequences())
    save_recommender(model, config, NUM_ITEMS, tmp_path)
    loaded = load_recommender(tmp_path)
    assert type(loaded) is type(model) and not loaded.training
    assert torch.equal(loaded.encode(*batch(HISTORIES)), model.encode(*batch(HISTORIES)))
    assert torch.equal(loaded.scores(*batch(HISTORIES)), model.scores(*batch(HISTORIES)))
    assert np.array_equal(loaded.item_embeddings(), model.item_embeddings())


def test_a_fitted_one_leaves_a_user_out_as_if_never_fitted(config):
    data = sequences()
    model = ready(config, data)
    if not isinstance(model, FittedRecommender):
        pytest.skip("not fitted")
    if isinstance(model, ReadsDays):
        with pytest.raises(UserError, match=rf"recommender\.type: {config.type} ranks by itself alone"):
            model.encode_without(*batch([[0]]), [data[-1]])
        return
    own, without = data[-1], ready(config, data[:-1])
    assert model.num_statistics > 0
    # Nobody else has items 10 and 11, so that without the user they are items that were never seen.
    only_theirs = batch([[10, 11], [11]])
    left_out = model.encode_without(*only_theirs, [own, own])
    torch.testing.assert_close(left_out, without.encode(*only_theirs), rtol=0, atol=1e-5)
    assert (left_out - model.encode(*only_theirs)).abs().max() > 1e-3
    # Items that the user does not have are described as for everybody.
    others = batch([[0, 1, 3], [9]])
    torch.testing.assert_close(model.encode_without(*others, [own, own]), model.encode(*others), rtol=0, atol=1e-6)


def test_a_trained_one_has_a_finite_loss_that_reaches_every_weight(config):
    model = ready(config, sequences()).requires_grad_(True).train()
    if not isinstance(model, TrainedRecommender):
        pytest.skip("not trained by gradient")
    item_ids = torch.arange(NUM_ITEMS).reshape(-1, 4)
    loss = model.loss(item_ids, torch.ones_like(item_ids, dtype=torch.bool), torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users who walk a circle of items."""
    folder, random = tmp_path_factory.mktemp("walks"), np.random.default_rng(0)
    rows = [
        f"u{user},i{(start + step) % NUM_ITEMS},{1_500_000_000 + 86_400 * step}"
        for user, start in enumerate(random.integers(0, NUM_ITEMS, 30))
        for step in range(random.integers(4, 9))
    ]
    (folder / "interactions.csv").write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    titles = [f"i{item},Item {item}" for item in range(NUM_ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item,title", *titles]) + "\n")
    return prepare_dataset(DataConfig(path=str(folder)), folder / "cache")


OWN = """
from laser.families.sasrec import SASRec

class Mine(SASRec):
    pass

class Other:
    pass
"""


def test_a_recommender_of_ones_own_runs_where_it_is_allowed_and_counts_by_its_content(walks, tmp_path, monkeypatch):
    (tmp_path / "hers").mkdir()
    file = tmp_path / "hers" / "mine.py"
    file.write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(ALLOW_CODE, raising=False)
    config = load_config(Experiment, ["recommender.type=hers.mine:Mine"], None).recommender
    assert isinstance(config, OwnConfig) and load_config(Experiment, ["recommender=hers.mine:Mine"], None)
    with pytest.raises(
        UserError, match=r"hers\.mine:Mine is code that would run here; if you trust it, set LASER_ALLOW_CODE="
    ):
        build_recommender(config, NUM_ITEMS)
    assert "hers.mine" not in sys.modules, "refused before it is imported"
    monkeypatch.setenv(ALLOW_CODE, "hers.mine:Gone,hers.mine:Other,hers.mine:Mine")
    made = pretrained_recommender(small(config), walks, tmp_path)
    assert made.result.trainable_parameters > 0
    assert type(load_recommender(made.directory)).__name__ == "Mine"
    file.write_text(OWN + "# changed")
    assert pretrained_recommender(small(config), walks, tmp_path).directory != made.directory
    for code, message in {"hers.mine:Gone": "no attribute", "hers.mine:Other": "is no TrainedRecommender"}.items():
        with pytest.raises(UserError, match=message):
            build_recommender(OwnConfig(code=code), NUM_ITEMS)
    with pytest.raises(UserError, match="name your class"):
        build_recommender(OwnConfig(), NUM_ITEMS)


@every_family
def test_it_is_made_once_and_ranks(family, walks, tiny_llm, tmp_path: Path):
    config = small(FAMILIES[family](), text_source=str(tiny_llm), text_num_layers=None)
    made = pretrained_recommender(config, walks, tmp_path)
    assert read_ranks(made.directory / "ranks" / "test.parquet").metrics() == made.test
    assert made.result.statistics + made.result.trainable_parameters > 0
    again = pretrained_recommender(config, walks, tmp_path)
    assert again.reused and again.result == made.result
    assert torch.equal(again.model.scores(*batch(HISTORIES)), made.model.scores(*batch(HISTORIES)))
