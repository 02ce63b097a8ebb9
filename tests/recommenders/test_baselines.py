"""Baselines: text features, families made by the same function, the choice on validation, files, a second call."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    GPT2Config,
)

from laser.config.compose import load_config
from laser.config.families.recommenders import (
    BASELINES,
    FAMILIES,
    EASEConfig,
    GRU4RecConfig,
    HybridConfig,
    ItemKNNConfig,
    SASRecConfig,
    StackConfig,
    TextSASRecConfig,
)
from laser.config.jobs import ReferencesJob
from laser.config.schema import DataConfig, TrackingConfig
from laser.data.dataset import Dataset
from laser.data.prompts import item_texts
from laser.errors import UserError
from laser.evaluation.user_ranks import read_ranks
from laser.recommenders.baselines import _grid, best_baseline, chosen_families, drawn_points, table
from laser.recommenders.pretraining import pretrained_recommender
from laser.recommenders.text_features import item_features
from laser.sources.prepare import prepare_dataset
from laser.tracking.runs import open_tracking

NUM_ITEMS = 24
CPU = torch.device("cpu")
SMALL_BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 20}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk a circle of items, and items whose titles are as long as their ids are high."""
    folder = tmp_path_factory.mktemp("circle")
    random = np.random.default_rng(0)
    rows = [
        f"u{user},i{(start + step) % NUM_ITEMS},{step}"
        for user, start in enumerate(random.integers(0, NUM_ITEMS, 80))
        for step in range(random.integers(4, 9))
    ]
    (folder / "interactions.csv").write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    items = [f"i{item},{'very ' * item}nice" for item in range(NUM_ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item,title", *items]) + "\n")
    return folder


@pytest.fixture
def job(raw: Path, tmp_path: Path) -> ReferencesJob:
    return ReferencesJob(
        data=DataConfig(path=str(raw)), cache_dir=str(tmp_path / "cache"), output_dir=str(tmp_path / "runs")
    )


@pytest.fixture
def dataset(job: ReferencesJob) -> Dataset:
    return prepare_dataset(job.data, Path(job.cache_dir))


def test_item_features_are_mean_states_of_each_text_by_itself(dataset, tiny_llm, tmp_path):
    features_IH = item_features(str(tiny_llm), None, dataset, tmp_path, CPU)
    assert features_IH.shape == (NUM_ITEMS, 32) and features_IH.dtype == np.float32
    assert np.array_equal(item_features(str(tiny_llm), None, dataset, tmp_path, CPU), features_IH)
    assert len(list((tmp_path / "features").glob("*.safetensors"))) == 1
    llm, tokenizer = AutoModel.from_pretrained(tiny_llm).eval(), AutoTokenizer.from_pretrained(tiny_llm)
    for item in (0, 7, NUM_ITEMS - 1):
        text = item_texts(dataset.items, ())[item] + "\n"
        with torch.inference_mode():
            states_TH = llm(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        # bf16 where the hardware has it: 8 bits of states of order 1.
        np.testing.assert_allclose(features_IH[item], states_TH.float().mean(dim=0).numpy(), atol=0.05)


def test_a_sentence_encoder_gives_item_features_by_its_own_pooling(dataset, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "very", "nice"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer, folder = BertTokenizerFast(str(tmp_path / "vocab.txt")), tmp_path / "encoder"
    encoder = BertModel(BertConfig(vocab_size=len(words), **SMALL_BERT)).eval()
    for part in (tokenizer, encoder):
        part.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text('{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}')
    features_IH = item_features(str(folder), None, dataset, tmp_path, CPU)
    for item in (0, 7, NUM_ITEMS - 1):  # the last has 24 words, and the encoder 20 places
        read = tokenizer(item_texts(dataset.items, ())[item], return_tensors="pt", truncation=True, max_length=20)
        with torch.inference_mode():
            mean_H = encoder(**read).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(features_IH[item], mean_H.numpy(), atol=1e-5)
    pooling.write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(UserError, match="text_source: .*encoder pools by pooling_mode_cls_token, wanted"):
        item_features(str(folder), 1, dataset, tmp_path, CPU)


def test_new_weights_in_the_same_folder_give_new_features_and_a_new_recommender(dataset, tiny_llm, tmp_path):
    llm = Path(shutil.copytree(tiny_llm, tmp_path / "llm"))
    config = HybridConfig(hidden_size=12, text_width=8, text_source=str(llm), text_num_layers=1)
    before = item_features(str(llm), None, dataset, tmp_path, CPU)
    made = pretrained_recommender(config, dataset, tmp_path)
    weights = load_file(llm / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    save_file({**weights, name: 2 * weights[name]}, llm / "model.safetensors", metadata={"format": "pt"})
    assert not np.allclose(item_features(str(llm), None, dataset, tmp_path, CPU), before, atol=0.05)
    again = pretrained_recommender(config, dataset, tmp_path)
    assert not again.reused and again.directory != made.directory
    elsewhere = config.model_copy(update={"text_source": str(shutil.copytree(llm, tmp_path / "elsewhere"))})
    assert pretrained_recommender(elsewhere, dataset, tmp_path).directory == again.directory


def test_an_llm_that_cannot_read_the_items_is_refused_under_its_own_setting(dataset, tiny_llm, tmp_path):
    gpt2 = GPT2Config(vocab_size=304, n_embd=32, n_layer=1, n_head=4, n_positions=16)
    AutoModelForCausalLM.from_config(gpt2).save_pretrained(tmp_path / "llm")
    with pytest.raises(UserError, match=r"^recommender\.text_source: .* has no tokenizer"):
        item_features(str(tmp_path / "llm"), None, dataset, tmp_path, CPU)
    AutoTokenizer.from_pretrained(tiny_llm).save_pretrained(tmp_path / "llm")
    with pytest.raises(
        UserError, match=r"text_source: .*llm has 16 positions, and the longest item text takes \d+ tok"
    ):
        item_features(str(tmp_path / "llm"), None, dataset, tmp_path, CPU)


@pytest.mark.parametrize(
    "config",
    [
        HybridConfig(hidden_size=12, text_width=8),
        TextSASRecConfig(hidden_size=16, num_layers=1, text_width=8, max_epochs=8, batch_size=16, dropout=0.0),
        ItemKNNConfig(hidden_size=4),
        StackConfig(
            fitted=ItemKNNConfig(hidden_size=4),
            trained=SASRecConfig(hidden_size=16, num_layers=1, max_epochs=8, batch_size=16, dropout=0.0),
        ),
    ],
    ids=lambda config: config.type,
)
def test_every_kind_is_made_once_by_one_function(config, dataset, tiny_llm, tmp_path):
    if "text_source" in type(config).model_fields:
        config = config.model_copy(update={"text_source": str(tiny_llm), "text_num_layers": None})
    made = pretrained_recommender(config, dataset, tmp_path)
    assert not made.model.training and made.result.val["ndcg@10_masked"] > 0.25  # chance is some 0.17
    assert read_ranks(made.directory / "ranks" / "test.parquet").metrics() == made.test
    assert (made.result.statistics > 0) == (config.type != "text_sasrec")
    assert (made.result.trainable_parameters > 0) == (config.type in ("text_sasrec", "stack"))
    again = pretrained_recommender(config, dataset, tmp_path)
    assert again.summary() == {**made.summary(), "reused": True} and again.result == made.result


def test_the_best_on_validation_is_taken_and_a_second_call_makes_nothing(job, dataset, tmp_path, monkeypatch, capsys):
    # A decay of .01 looks at the last item alone; one of 1 at the whole history alike.
    monkeypatch.setattr(ItemKNNConfig, "search", {"history_decay": [1.0, 0.01], "degree_exponent": [0.0, 0.5]})
    baseline = best_baseline(job, "item_knn", dataset)
    scores = [one["val"]["ndcg@10"] for one in baseline.tries]
    assert "search item_knn: 4/4 point" in capsys.readouterr().err
    assert len(scores) == 4 and scores == sorted(scores, reverse=True)
    assert baseline.pretrained.result.val == baseline.tries[0]["val"]
    chosen = baseline.tries[0]["settings"]
    assert {name: getattr(baseline.experiment.recommender, name) for name in chosen} == chosen

    baseline.write(tmp_path / "item_knn", {"commit": "abc"})
    content = json.loads((tmp_path / "item_knn" / "result.json").read_text())
    assert content["environment"] == {"commit": "abc"} and content["config"]["type"] == "item_knn"
    ranks = read_ranks(tmp_path / "item_knn" / "ranks" / "test.parquet")
    assert ranks.metrics() == content["test"] == baseline.pretrained.test

    points = [json.loads(path.read_text()) for path in (tmp_path / "cache" / "recommenders").glob("*/result.json")]
    assert len(points) == 4 and [point["val"] for point in points if "test" in point] == [
        baseline.pretrained.result.val
    ]

    made = sorted((tmp_path / "cache" / "recommenders").iterdir())
    again = best_baseline(job, "item_knn", dataset)
    assert again.tries == baseline.tries and sorted((tmp_path / "cache" / "recommenders").iterdir()) == made
    popularity = best_baseline(job, "popularity", dataset)
    lines = table([popularity, baseline]).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["baseline", "-" * 10, "item_knn", "popularity"]
    assert f"{baseline.pretrained.test['coverage@10']:.4f}" in lines[2]
    assert f"{baseline.pretrained.test['ndcg@10_masked']:.4f}" in lines[2]


def test_what_the_data_do_not_allow_is_left_out_or_where_it_is_named_refused(job, dataset, monkeypatch):
    assert set(BASELINES) - set(chosen_families(job, dataset)) == {"recent_popularity"}  # its times are 0 to 8
    monkeypatch.setattr(EASEConfig, "max_items", NUM_ITEMS - 1)
    assert set(BASELINES) - set(chosen_families(job, dataset)) == {"recent_popularity", "ease"}
    few = job.model_copy(update={"families": ("popularity", "ease", "item_knn")})
    with pytest.raises(UserError, match=r"families: ease takes at most 23 items .* 24; .*\[popularity,item_knn\]"):
        chosen_families(few, dataset)
    recent = job.model_copy(update={"families": ("recent_popularity", "ease", "item_knn")})
    with pytest.raises(UserError, match=r"families: recent_popularity needs the dates of interactions, and circle"):
        chosen_families(recent, dataset)
    assert chosen_families(job.model_copy(update={"families": ("popularity",)}), dataset) == ("popularity",)


def test_every_point_of_the_searches_is_a_valid_setting(job):
    fitted = "popularity recent_popularity item_knn ease hybrid"
    trained = "sasrec bert4rec text_sasrec gsasrec esasrec hstu gru4rec fdsa unisrec"
    assert BASELINES == (*fitted.split(), *trained.split(), "stack")
    for family in BASELINES:
        for settings in _grid(FAMILIES[family].search):
            assert job.experiment(family, settings).recommender.type == family


def test_a_budget_of_points_is_the_same_for_grids_of_a_size_and_never_more_than_a_grid():
    grids = [list(_grid(section.search)) for family in BASELINES if (section := FAMILIES[family]).search]
    for number in (1, 2, 12):
        drawn = [drawn_points(FAMILIES[family].search, number) for family in BASELINES if FAMILIES[family].search]
        places = {len(grid): [grid.index(point) for point in points] for grid, points in zip(grids, drawn, strict=True)}
        for grid, points in zip(grids, drawn, strict=True):
            assert len(points) == min(number, len(grid))
            assert [grid.index(point) for point in points] == places[len(grid)]
    search = FAMILIES["item_knn"].search
    assert search is not None and drawn_points(search, None) == list(_grid(search))


def test_the_jobs_settings_of_training_reach_what_is_trained_by_gradient_and_nothing_else(job):
    job = job.model_copy(update={"max_epochs": 7, "seed": 3, "use_gpu": True})
    trained = {"max_epochs": 7, "seed": 3}
    assert trained.items() <= job.experiment("bert4rec", {"dropout": 0.4}).recommender.model_dump().items()
    stack = job.experiment("stack", {"trained": {"type": "sasrec", "dropout": 0.4}}).recommender
    assert stack.trained == SASRecConfig(dropout=0.4, **trained) and stack.fitted == HybridConfig()
    assert job.experiment("ease", {}).recommender == EASEConfig() and job.experiment("ease", {}).training.use_gpu


def test_another_seed_has_a_run_and_a_folder_of_its_own_and_the_same_one_goes_on(job, tmp_path, monkeypatch, repo):
    monkeypatch.setattr(GRU4RecConfig, "search", {"hidden_size": [8]})
    store = TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    job = job.model_copy(update={"families": ("gru4rec",), "max_epochs": 1, "tracking": store})
    main = runpy.run_path(str(repo / "jobs/references.py"))["main"]
    made = [main(job.model_copy(update={"seed": seed}))["references"]["gru4rec"] for seed in (0, 1, 1)]
    runs = [open_tracking(store).find(one["run_id"]) for one in made]
    assert runs[0].run_id != runs[1].run_id == runs[2].run_id
    assert [run.settings()["recommender.seed"] for run in runs] == ["0", "1", "1"]
    assert len(list((tmp_path / "runs").glob("references-*/gru4rec-*/result.json"))) == 2


def test_a_family_that_is_no_baseline_is_refused(raw):
    with pytest.raises(UserError, match=r"families\.0: \"none\"; should be 'popularity', 'recent_popularity'"):
        load_config(ReferencesJob, [f"data={raw}", "families=[none]"], None)
