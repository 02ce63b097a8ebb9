"""Tests that each finetuning method trains exactly its own weights, and starts with the frozen LLM's outputs."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
import torch

import laser.models.finetuning
from laser.config.compose import with_overrides
from laser.config.families.finetuning import FinetuningConfig
from laser.config.identity import settings_key
from laser.config.schema import Experiment
from laser.engine.base import parameter_groups
from laser.errors import UserError
from laser.llm.loading import load_llm
from laser.models.laser import build_laser
from tiny.laser import BASE, CPU, batch, build, read, step

SECTIONS = {section.model_fields["type"].default: section for section in get_args(get_args(FinetuningConfig)[0])}
METHODS = list(SECTIONS)


def tuned(tiny_llm: Path, method: str):
    return build(tiny_llm, finetuning__type=method, llm__implementation="transformers")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_starts_as_the_frozen_llm_and_moves_weights_of_it_only_if_it_says_so(tiny_llm, method):
    frozen, _ = build(tiny_llm, llm__implementation="transformers")
    laser, config = tuned(tiny_llm, method)
    assert torch.equal(read(laser, batch()).representation_BH, read(frozen, batch()).representation_BH)
    trained = set(laser.trainable_parameters())
    assert {name for name in trained if not name.startswith("llm.")} == set(frozen.trainable_parameters())
    assert any(name.startswith("llm.") for name in trained) == SECTIONS[method].trains_llm
    before = {name: weight.clone() for name, weight in laser.state_dict().items()}
    for _ in range(2):  # one of LoRA's two matrices is zero at first, and the other has no gradient until it is not
        step(laser, config, llm_is_frozen=not SECTIONS[method].trains_llm)
    moved = {name for name, weight in laser.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved - set(laser.statistics()) == trained


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_module_and_every_module_a_method(method):
    assert callable(import_module(f"laser.models.finetuning.{method}").apply)
    folder = Path(laser.models.finetuning.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(METHODS)


def test_a_method_is_added_by_one_module_and_one_section(tiny_llm, monkeypatch):
    """Train only the norms of the LLM, as BitFit trains only its biases (arXiv 2106.10199)."""
    norms = ModuleType("laser.models.finetuning.norms")
    norms.apply = lambda llm, config: [
        weight.requires_grad_(True) for name, weight in llm.named_parameters() if "norm" in name
    ]
    monkeypatch.setitem(sys.modules, "laser.models.finetuning.norms", norms)
    section = SECTIONS["full"]().model_copy(update={"type": "norms"})
    config = BASE.model_copy(update={"finetuning": section})
    llm = load_llm(tiny_llm, torch.float32, config.loaded_llm, CPU)
    laser = build_laser(config, llm, recommender_width=8, embedding_std=0.1)
    trained = {name for name in laser.trainable_parameters() if name.startswith("llm.")}
    assert trained and all("norm" in name for name in trained)
    _, moved = step(laser, config, llm_is_frozen=False)
    assert trained <= moved


def test_lora_is_a_thin_product_and_counts_as_one(tiny_llm):
    laser, config = tuned(tiny_llm, "lora")
    shapes = {name: tuple(w.shape) for name, w in laser.trainable_parameters().items() if name.startswith("llm.")}
    assert len(shapes) == 2 * 2 * 2  # two blocks, queries and values, two matrices
    assert shapes["llm.layers.0.self_attn.q_proj.down_RI"] == (8, 32)
    assert shapes["llm.layers.1.self_attn.v_proj.up_OR"] == (16, 8)
    layer = laser.llm.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.up_OR.normal_()
    x = torch.randn(3, 32)
    expected = x @ (layer.base.weight + 16 / 8 * layer.up_OR @ layer.down_RI).T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-4)  # measured: 4e-6, at values of 40
    groups = parameter_groups(laser, config.training.model_copy(update={"llm_learning_rate": 1e-5}))
    assert sorted(group["lr"] for group in groups) == [1e-5, 1e-2, 1e-2]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"finetuning.type": "lora", "llm.implementation": "packed"}, 'llm.implementation: "packed"; it gives the LLM'),
        ({"finetuning.type": "full", "llm.dtype": "bf16"}, 'llm.dtype: "bf16"; small updates'),
        (
            {"finetuning.type": "lora", "head.width": 4, "warm_start.epochs": 1, "training.start_from": "run"},
            "the head is made ready on the untuned LLM, and",
        ),
        ({"finetuning.type": "adapter"}, r"finetuning.type: \"adapter\"; wanted one of 'none', 'lora', 'peso', 'full'"),
        (
            {"finetuning.type": "peso", "training.zero_stage": 2},
            "training.zero_stage: 2; .* must be whole .* 0 or",
        ),
        (
            {"finetuning.type": "peso", "training.zero_stage": 3},
            "training.zero_stage: 3; .* must be whole .* 0 or",
        ),
        (
            {"finetuning.type": "peso", "finetuning.restart_every": 2, "finetuning.probe_batches": 3},
            "finetuning: .*probe_batches 3 is more than restart_every 2",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        with_overrides(Experiment(), settings)


def test_modules_that_the_llm_lacks_are_refused_with_those_that_it_has(tiny_llm):
    with pytest.raises(
        UserError, match="finetuning.modules: 'query' is no linear map of the LLM; choose from down_proj,"
    ):
        build(tiny_llm, finetuning__type="lora", finetuning__modules=["query"], llm__implementation="transformers")


def test_keys_of_stored_runs_are_those_from_before_there_were_methods():
    assert settings_key(Experiment(), "f") == "laser-aa8a6c5013"
    lora = {"finetuning.type": "lora", "finetuning.rank": 4, "finetuning.modules": ["q_proj"]}
    assert settings_key(with_overrides(Experiment(), lora), "f") == "laser-1f52b352c0"
