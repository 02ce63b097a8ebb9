"""Tests the warm start on real interactions: cached outputs equal the model's, and the trained head ranks better."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from laser.config.compose import with_overrides
from laser.config.schema import Experiment
from laser.engine.plain import PlainEngine
from laser.errors import UserError
from laser.training.extensions.outputs import cached_outputs
from laser.training.extensions.warm_start import _Fit, warm_start
from laser.training.loop import encode_items, evaluate, outputs
from laser.training.model import whole_laser
from laser.training.prepare import make_artifacts, prepare_inputs
from laser.training.run.checkpoint import read_checkpoint
from laser.training.train import preflight
from tiny.training import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tiny_llm, movielens, cache, tmp_path_factory) -> Experiment:
    del movielens  # prepared
    return with_overrides(
        Experiment(),
        {
            "cache_dir": str(cache),
            "data.k_core": 50,
            "prompt.instruction": "Sum up",
            "prompt.max_history_items": 6,
            "prompt.max_item_tokens": 8,
            "llm.source": str(tiny_llm),
            "llm.dtype": "fp32",
            "llm.compile": False,
            "recommender.type": "item_knn",
            "recommender.hidden_size": 16,
            "bituning.init": "eos",
            "mformer.num_experts": 2,
            "mformer.num_virtual_tokens": 3,
            "mformer.num_layers": 2,
            "mformer.hidden_size": 32,
            "mformer.num_heads": 4,
            "head.width": 16,
            "head.shared": False,
            "head.standardise": True,
            "head.dropout": 0.1,
            "head.collaborative": True,
            "head.history_bias": True,
            "warm_start.epochs": 2,
            "training.num_workers": 0,
            "training.train_users": 40,
            "training.validation_users": 50,
            "training.stage1_epochs": 1,
            "training.stage2_epochs": 1,
            "training.test": False,
        },
    )


def test_cached_outputs_are_what_the_model_gives(config, tmp_path):
    config = with_overrides(config, {"cache_dir": str(tmp_path), "recommender.type": "popularity"})
    config = with_overrides(config, {"bituning.prefix": "projection"})  # tests below have the M-Former's
    inputs = prepare_inputs(config)
    engine = PlainEngine(whole_laser(config, inputs.artifacts, CPU), config.training, CPU)
    found, again = cached_outputs(engine, inputs, config), cached_outputs(engine, inputs, config)
    for part, values in (
        (inputs.prefixes, found.prefixes_EH),
        (inputs.val, found.val_EH),
        (inputs.items, found.items_IH),
    ):
        assert len(part) == len(values)
        for rows, output in outputs(engine, part, 2048, "test"):
            # measured, of the largest value: 2e-6
            torch.testing.assert_close(
                values[rows], output.representation_BH, rtol=0, atol=1e-5 * float(values.abs().max())
            )
    assert found.name == again.name
    for name in ("prefixes_EH", "val_EH", "items_IH"):
        assert torch.equal(getattr(found, name), getattr(again, name))
    assert len(list((tmp_path / "outputs").glob("*.arrow"))) == 1


@pytest.mark.parametrize("changes", [{}, {"bituning.prefix_position": "after", "prompt.item_attention": "own"}])
def test_an_interrupted_reading_goes_on_after_its_last_piece(changes, config, tmp_path, monkeypatch):
    config = with_overrides(config, {"recommender.type": "popularity", "training.inference_batch_tokens": 512})
    config = with_overrides(
        config, {"cache_dir": str(tmp_path), "data.k_core": 80, "training.train_users": 20, **changes}
    )
    inputs = prepare_inputs(config)
    engine = PlainEngine(whole_laser(config, inputs.artifacts, CPU), config.training, CPU)
    passes: list[int] = []
    engine.laser.llm.register_forward_pre_hook(lambda *_: passes.append(1))
    whole = cached_outputs(engine, inputs, config)
    num_passes = len(passes)
    [path] = (tmp_path / "outputs").glob("*.arrow")
    path.unlink()
    monkeypatch.setattr("laser.training.extensions.outputs.PIECE_BATCHES", 3)
    passes.clear()

    def interrupt(*_: object) -> None:
        if len(passes) == 8:  # in the third piece
            raise KeyboardInterrupt

    interruption = engine.laser.llm.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        cached_outputs(engine, inputs, config)
    interruption.remove()
    unfinished = path.with_suffix(".unfinished")
    assert len(list(unfinished.rglob("*.safetensors"))) == 2
    passes.clear()
    again = cached_outputs(engine, inputs, config)
    assert len(passes) == num_passes - 6
    for name in ("prefixes_EH", "val_EH", "items_IH"):
        assert torch.equal(getattr(again, name), getattr(whole, name))
    assert not unfinished.exists() and path.is_file()


@pytest.mark.parametrize("position", ["before", "after"])
def test_a_tuned_llm_starts_from_the_head_of_the_frozen_one(config, tmp_path, position):
    """In float32 its outputs are those of the frozen LLM, whichever of the two has read them."""
    prefix = {"bituning.prefix": "free", "bituning.prefix_position": position, "head.collaborative": False}
    config = with_overrides(config, {**prefix, "data.k_core": 80, "prompt.max_history_items": 2})
    heads, starts = [], []
    for method, cache in (("none", "a"), ("lora", "a"), ("peso", "b"), ("full", "c")):
        tuned = with_overrides(config, {"finetuning.type": method, "cache_dir": str(tmp_path / cache)})
        inputs = prepare_inputs(tuned)
        engine = PlainEngine(whole_laser(tuned, inputs.artifacts, CPU), tuned.training, CPU)
        starts.append(warm_start(engine, inputs, tuned))
        heads.append({k: v for k, v in engine.trainable_state().items() if k.startswith("head.")})
        assert len(list((tmp_path / cache / "heads").glob("*.safetensors"))) == 1
    assert starts[0].val["ndcg@10"] > starts[0].untrained_val["ndcg@10"]
    for head, start in zip(heads, starts, strict=True):
        for name, weight in head.items():
            # measured after two epochs, of weights up to 2: 3e-7
            torch.testing.assert_close(weight, heads[0][name], rtol=0, atol=1e-5)
        assert start.val == pytest.approx(starts[0].val, abs=1e-3)


def test_in_bf16_a_tuned_llm_has_outputs_of_its_own(config, tmp_path):
    """Another decoder rounds otherwise, and a head on the outputs of one ranks worse on those of the other."""
    settings = {"cache_dir": str(tmp_path), "bituning.prefix": "none", "head.collaborative": False, "data.k_core": 80}
    config = with_overrides(config, {**settings, "prompt.max_history_items": 1, "llm.dtype": "bf16"})
    for number, method in enumerate(("none", "lora", "peso")):
        tuned = with_overrides(config, {"finetuning.type": method})
        inputs = prepare_inputs(tuned)
        engine = PlainEngine(whole_laser(tuned, inputs.artifacts, CPU), tuned.training, CPU)
        found = cached_outputs(engine, inputs, tuned)
        assert len(list((tmp_path / "outputs").glob("*.arrow"))) == min(number + 1, 2)
        for rows, output in outputs(engine, inputs.val, 2048, "test"):
            assert torch.equal(found.val_EH[rows], output.representation_BH) or method == "none"


def test_new_weights_in_the_same_folder_give_new_outputs(config, tiny_llm, tmp_path):
    llm = shutil.copytree(tiny_llm, tmp_path / "llm")
    config = with_overrides(config, {"cache_dir": str(tmp_path), "recommender.type": "popularity"})
    config = with_overrides(config, {"llm.source": str(llm), "data.k_core": 80, "prompt.max_history_items": 2})

    def cached() -> torch.Tensor:
        inputs = prepare_inputs(config)
        engine = PlainEngine(whole_laser(config, inputs.artifacts, CPU), config.training, CPU)
        return cached_outputs(engine, inputs, config).items_IH

    before, weights = cached(), load_file(llm / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"  # the virtual tokens stay the same
    save_file({**weights, name: 2 * weights[name]}, llm / "model.safetensors", metadata={"format": "pt"})
    assert not torch.allclose(cached(), before, atol=1e-2)
    assert len(list((tmp_path / "outputs").glob("*.arrow"))) == 2


def test_the_head_ranks_and_the_model_has_it(config):
    inputs = prepare_inputs(config)
    engine = PlainEngine(whole_laser(config, inputs.artifacts, CPU), config.training, CPU)
    found = warm_start(engine, inputs, config)
    assert found.val["ndcg@10"] >= found.untrained_val["ndcg@10"]
    # measured, of vectors of length 3 to 30: 2e-5
    torch.testing.assert_close(
        encode_items(engine, inputs.items, config.training), found.items_ID, rtol=1e-4, atol=1e-4
    )
    ranks = evaluate(engine, inputs.val, found.items_ID, config.training, "test")
    assert ranks.metrics() == pytest.approx(found.val, abs=1e-3)


def test_equal_starts_share_a_head_and_others_do_not(config, tmp_path, caplog):
    """The number of experts changes no start. The temperature changes the loss, the recommender what the head reads."""
    caplog.set_level("INFO")
    settings = {"cache_dir": str(tmp_path), "data.k_core": 80, "prompt.max_history_items": 1, "warm_start.epochs": 1}
    config = with_overrides(config, {**settings, "recommender.type": "popularity"})
    found = []
    for changes in ({}, {"mformer.num_experts": 1}, {"training.temperature": 0.5}, {"recommender.type": "item_knn"}):
        config = with_overrides(config, changes)
        inputs = prepare_inputs(config)
        engine = PlainEngine(whole_laser(config, inputs.artifacts, CPU), config.training, CPU)
        found.append(warm_start(engine, inputs, config))
        assert len(list((tmp_path / "heads").glob("*.safetensors"))) == max(1, len(found) - 1)
    assert caplog.messages.count("warm start: the head is in the cache") == 1
    first, second = found[:2]
    assert (first.untrained_val, first.val, first.loss) == (second.untrained_val, second.val, second.loss)
    assert torch.equal(first.items_ID, second.items_ID)


def test_a_head_that_the_recommender_joins_later_is_shared_whatever_that_is(config, tmp_path):
    settings = {"cache_dir": str(tmp_path), "data.k_core": 80, "prompt.max_history_items": 1, "warm_start.epochs": 1}
    found = []
    for decay in (0.5, 0.9):
        changed = with_overrides(config, {**settings, "recommender.type": "item_knn", "head.joins": "after"})
        changed = with_overrides(changed, {"recommender.history_decay": decay})
        inputs = prepare_inputs(changed)
        engine = PlainEngine(whole_laser(changed, inputs.artifacts, CPU), changed.training, CPU)
        found.append(warm_start(engine, inputs, changed))
    assert len(list((tmp_path / "heads").glob("*.safetensors"))) == 1
    assert torch.equal(found[0].items_ID, found[1].items_ID)


def test_it_counts_as_the_first_epoch_and_a_run_resumes_after_it(config, tmp_path):
    reported: list[int] = []
    whole = train(config, tmp_path / "whole", lambda metrics, epoch: reported.append(epoch))
    assert reported == [0, 1, 2, 3] and whole.epochs == 3
    part = with_overrides(config, {"training.stage1_epochs": 0, "training.stage2_epochs": 0})
    train(part, tmp_path / "part", lambda metrics, epoch: None)
    resumed = train(config, tmp_path / "part", lambda metrics, epoch: None)
    assert resumed.val == whole.val and resumed.selected == whole.selected


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"bituning.init": "random"}, "the prefix differs from user to user; set bituning.init to eos"),
        ({"bituning.init": "random", "bituning.prefix": "projection"}, "the prefix differs from user to user; set"),
        ({"llm.implementation": "transformers"}, "cannot be read packed"),
        (
            {"bituning.representation": "mean"},
            r'warm_start\.epochs: .*"mean" has no suffix to read at: set it to suffix',
        ),
        ({"bituning.representation": "eos", "warm_start.epochs": 0}, r'head\.standardise: .*"eos" has no suffix'),
    ],
)
def test_what_it_cannot_do_is_said_in_one_line_before_anything_is_trained(config, overrides, complaint, tmp_path):
    with pytest.raises(UserError, match=complaint):
        make_artifacts(with_overrides(config, {"cache_dir": str(tmp_path), **overrides}))
    assert not (tmp_path / "recommenders").exists()


def test_an_llm_that_does_not_run_packed_is_refused_before_anything_is_trained(config, tiny_llm, tmp_path):
    shutil.copytree(tiny_llm, tmp_path / "llm")
    settings = tmp_path / "llm" / "config.json"
    rotation = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"rope_parameters": rotation}))
    config = with_overrides(config, {"llm.source": str(tmp_path / "llm"), "cache_dir": str(tmp_path / "cache")})
    with pytest.raises(UserError, match=r"this llama cannot be read packed \(it has no rope_type dynamic\)"):
        make_artifacts(config)
    assert not (tmp_path / "cache" / "recommenders").exists()


def test_one_map_for_both_sides_is_made_ready_too(config):
    config = with_overrides(config, {"head.shared": True, "warm_start.epochs": 1})
    inputs = prepare_inputs(config)
    engine = PlainEngine(whole_laser(config, inputs.artifacts, CPU), config.training, CPU)
    found = warm_start(engine, inputs, config)
    # measured, of vectors of length 3 to 30: 2e-5
    torch.testing.assert_close(
        encode_items(engine, inputs.items, config.training), found.items_ID, rtol=1e-4, atol=1e-4
    )


def test_a_trained_prefix_is_refused_before_workers_start(config, tmp_path):
    config = with_overrides(config, {"bituning.prefix": "projection"})
    plain = {"head.standardise": False, "warm_start.epochs": 0}
    train(with_overrides(config, plain), tmp_path / "first", lambda metrics, epoch: None)
    second = with_overrides(config, {"training.start_from": str(tmp_path / "first"), "bituning.init": "random"})
    with pytest.raises(UserError, match=r"training\.start_from: its prefix differs from user to user"):
        preflight(tmp_path / "second", second, make_artifacts(second))


def test_an_interrupted_warm_start_goes_on(config, tmp_path, monkeypatch):
    config = with_overrides(config, {"warm_start.epochs": 4, "warm_start.patience": 4})

    def fit(cache):
        changed = with_overrides(config, {"cache_dir": str(tmp_path / cache)})
        inputs = prepare_inputs(changed)
        return warm_start(
            PlainEngine(whole_laser(changed, inputs.artifacts, CPU), config.training, CPU), inputs, changed
        )

    whole = fit("whole")
    epochs, train_epoch = [], _Fit._epoch

    def killed(self, optimizer, epoch, inputs_IF):
        epochs.append(epoch)
        if epochs == [1, 2, 3]:
            raise KeyboardInterrupt
        return train_epoch(self, optimizer, epoch, inputs_IF)

    monkeypatch.setattr(_Fit, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        fit("cut")
    resumed = fit("cut")
    assert epochs == [1, 2, 3, 3, 4]
    assert torch.equal(resumed.items_ID, whole.items_ID) and (resumed.val, resumed.loss) == (whole.val, whole.loss)
    assert not list((tmp_path / "cut" / "heads").glob("*.unfinished"))


def test_training_histories_are_encoded_once(config, tmp_path):
    config = with_overrides(config, {"cache_dir": str(tmp_path), "training.every_prefix": True})
    encodings = make_artifacts(config).encodings
    assert encodings["train"] == encodings["prefixes"] != encodings["val"]


def test_a_warm_start_without_a_head_is_refused():
    with pytest.raises(UserError, match=r"warm_start\.epochs: 3; there is no head to train"):
        with_overrides(Experiment(), {"warm_start.epochs": 3})


def test_a_head_that_is_ready_can_be_left_as_it_is(config, tmp_path):
    config = with_overrides(config, {"training.head_learning_rate": 0.0, "training.stage2_epochs": 0})
    train(config, tmp_path, lambda *_: None)
    before, after = (
        read_checkpoint(tmp_path / "checkpoints" / name).trainable()
        for name in ("stage0-epoch0000", "stage1-epoch0001")
    )
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in after if not name.startswith("head.")}
