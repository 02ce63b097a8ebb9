"""What a late prefix reads from the cache is what it reads anew, for users and items, in training and in evaluation."""

import numpy as np
import pytest
import torch

from laser.config.compose import with_overrides
from laser.config.schema import Experiment
from laser.engine.plain import PlainEngine
from laser.llm.text_cache import TextCache
from laser.llm.text_files import TextFiles
from laser.models.batch import joined
from laser.training.inputs import Inputs
from laser.training.loop import encode_items, evaluate
from laser.training.model import whole_laser
from laser.training.prepare import prepare_inputs
from laser.training.run.checkpoint import latest_checkpoint
from tiny.laser import CPU
from tiny.training import train


def opened(experiment: Experiment, tmp_path, **overrides: object) -> tuple[Experiment, Inputs]:
    late = {"bituning.prefix_position": "after", "prompt.max_history_items": 6}
    changed = {name.replace("__", "."): value for name, value in overrides.items()}
    config = with_overrides(experiment, late | changed)
    return config, prepare_inputs(config)


@pytest.mark.parametrize("attention", ["own", "causal"])
@pytest.mark.parametrize("instruction", ["Sum up", ""])
@pytest.mark.parametrize("implementation", ["packed", "transformers"])
def test_cached_text_gives_the_outputs_and_gradients_of_text_read_anew(
    experiment, tmp_path, attention, instruction, implementation
):
    outputs = []
    for cache_mib in (8192, 0):
        config, inputs = opened(
            experiment,
            tmp_path,
            prompt__item_attention=attention,
            prompt__instruction=instruction,
            prompt__item_instruction="An item",
            llm__implementation=implementation,
            llm__cache_mib=cache_mib,
        )
        assert (inputs.artifacts.texts is None) == (cache_mib == 0)
        laser = whole_laser(config, inputs.artifacts, CPU)
        rows, items = np.arange(9), inputs.items.batch(np.arange(5), [1.0] * 5, CPU)
        batch = joined(inputs.train.batch(rows, [1.0] * 9, CPU), items)
        vector_BD = laser(batch).vector_BD
        weight_BD = torch.randn(vector_BD.shape, generator=torch.Generator().manual_seed(0))
        (vector_BD * weight_BD).sum().backward()
        gradients = {name: weight.grad for name, weight in laser.trainable_parameters().items()}
        engine = PlainEngine(laser, config.training, CPU)
        items_ID = encode_items(engine, inputs.items, config.training)
        ranks = evaluate(engine, inputs.val, items_ID, config.training, "test")
        outputs.append((vector_BD.detach(), gradients, items_ID, ranks.metrics()))
    (cached, gradients, items_ID, metrics), (anew, gradients_anew, items_anew_ID, metrics_anew) = outputs
    torch.testing.assert_close(cached, anew, rtol=0, atol=1e-5)  # measured: 1.8e-7
    torch.testing.assert_close(items_ID, items_anew_ID, rtol=0, atol=1e-5)  # measured: 1.7e-7
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        difference = float((gradients_anew[name] - gradient).abs().max())
        assert difference <= 1e-5 * largest, name  # measured: 5.8e-7
    assert metrics == pytest.approx(metrics_anew, abs=0.02)


@pytest.mark.parametrize("attention", ["own", "causal"])
def test_a_cached_history_reads_the_same_alone_and_in_a_batch(experiment, tmp_path, attention):
    every = {"training__every_prefix": True, "training__train_users": 3}
    config, inputs = opened(experiment, tmp_path, prompt__item_attention=attention, **every)
    laser = whole_laser(config, inputs.artifacts, CPU).eval()
    rows = np.arange(20)
    with torch.no_grad():
        together_BD = laser(inputs.train.batch(rows, [1.0] * len(rows), CPU)).vector_BD
        alone_BD = torch.cat([laser(inputs.train.batch(rows[[row]], [1.0], CPU)).vector_BD for row in rows])
    assert len(set(inputs.train.lengths[rows].tolist())) > 5
    torch.testing.assert_close(together_BD, alone_BD, rtol=0, atol=1e-5)  # measured: 1.9e-7


@pytest.mark.parametrize(("attention", "prefix"), [("own", "mformer"), ("causal", "projection")])
def test_a_run_over_cached_text_resumes_as_if_uninterrupted(experiment, tmp_path, attention, prefix):
    settings = {"prompt__item_attention": attention, "bituning__prefix": prefix, "training__stage1_epochs": 2}
    config, inputs = opened(experiment, tmp_path, **settings)
    assert inputs.artifacts.texts is not None
    whole = train(config, tmp_path / "whole", lambda metrics, epoch: None)

    def interrupt(metrics: object, epoch: int) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", interrupt)
    parts = train(config, tmp_path / "parts", lambda metrics, epoch: None)
    assert parts.val == whole.val
    one, other = (latest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parts"))
    for name, weight in one.trainable().items():
        assert torch.equal(weight, other.trainable()[name]), name


def test_what_changes_the_states_of_a_text_gives_it_other_rows(experiment, tmp_path):
    def files(**overrides: object) -> TextFiles:
        texts = opened(experiment, tmp_path, **{"prompt__item_attention": "own", **overrides})[1].artifacts.texts
        assert texts is not None
        return texts

    first = files()
    assert files() == first
    before = [rows_R2GE.clone() for rows_R2GE in TextCache(first.folder, first.shape).open()]
    for change in (
        {"prompt__instruction": "Look"},
        {"prompt__max_item_tokens": 4},
        {"prompt__item_attention": "causal"},
    ):
        changed = files(**change)
        assert changed.folder == first.folder and changed.starts != first.starts, change
    for change in ({"llm__num_layers": 1}, {"llm__dtype": "bf16"}):
        assert files(**change).folder != first.folder, change
    after = TextCache(first.folder, first.shape).open()
    assert all(torch.equal(new[: len(old)], old) for old, new in zip(before, after, strict=True))


def test_only_what_lies_elsewhere_than_it_was_read_is_turned(experiment, tmp_path):
    config, inputs = opened(experiment, tmp_path, prompt__item_attention="own")
    rows = np.arange(5)
    users, items = (part.batch(rows, [1.0] * 5, CPU).text for part in (inputs.train, inputs.items))
    assert users.places.distance_BT.any() and items.places.distance_BT is None
