"""PESO-like subspaces, checked by hand: on one linear map, and on a tiny LLM in an engine."""

import math

import pytest
import torch
from torch import Tensor, nn

from laser.config.families.finetuning import PesoConfig
from laser.engine.plain import PlainEngine
from laser.engine.restarts import Restarts
from laser.engine.step import training_step
from laser.engine.subspace import balanced, change_of_rows, effective_rank, leading, share_in_rows, turned_moments
from laser.models.finetuning.lora import LoRALinear
from laser.models.finetuning.peso import PesoLinear, apply
from tiny.laser import CPU, batch, build, catalogue, read

O, I = 6, 5  # noqa: E741
BETAS = (0.9, 0.999)
LEFT = {"train": "left", "scale": 1.0}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class OneMap:
    """A PESO map alone, in float64, with an optimizer of ours, trained towards a target matrix."""

    def __init__(self, make_optimizer, **settings) -> None:
        self.llm = nn.Module()
        self.llm.map = nn.Linear(I, O, bias=False)
        apply(self.llm.requires_grad_(False), PesoConfig(modules=("map",), **settings))
        self.llm.double()
        self.map = self.llm.map
        self.optimizer = make_optimizer([weight for weight in self.map.parameters() if weight.requires_grad])
        self.restarts = Restarts(self.llm, self.optimizer, total=lambda tensor: tensor, num_workers=1)

    @property
    def base(self) -> Tensor:
        return self.map.base.weight

    def weight(self) -> Tensor:
        return self.map.anchor_OI + self.map.product()

    def step(self, target_OI: Tensor) -> None:
        """Step on ½‖W − W*‖²: the map's outputs at the unit vectors are its columns."""
        self.restarts.before_pass()
        columns = self.map(torch.eye(I, dtype=torch.float64))
        self.optimizer.zero_grad()
        (0.5 * (columns.T - target_OI).square().sum()).backward()
        self.optimizer.step()
        self.restarts.after_step()


def sgd(rate: float):
    return lambda weights: torch.optim.SGD(weights, rate)


def test_the_whole_subspace_steps_as_the_full_space_does():
    one = OneMap(sgd(0.1), rank=I, train="left", scale=3.0)
    one.map.down_RI.copy_(torch.linalg.qr(normal(I, I)).Q)
    before, target = one.weight(), normal(O, I, seed=1)
    one.restarts.maps.clear()  # no restart
    one.step(target)
    expected = before - 0.1 * 3.0**2 * (before - target)
    torch.testing.assert_close(one.weight(), expected, rtol=0, atol=1e-14)  # measured: 4e-16


def test_restarts_of_rank_one_reach_a_target_of_full_rank_one_direction_at_a_time():
    one = OneMap(sgd(1.0), rank=1, restart_every=2, **LEFT)
    one.map.down_RI.zero_()  # the first period has one step, which then moves nothing
    target = normal(O, I, seed=1)
    sizes = torch.linalg.svdvals(target - one.weight())
    one.step(target)
    for done in range(1, I + 1):
        one.step(target)  # exact within its subspace
        one.step(target)  # nothing is left there; the gradient chooses the next one
        loss = 0.5 * (one.weight() - target).square().sum()
        torch.testing.assert_close(loss, 0.5 * sizes[done:].square().sum(), rtol=0, atol=1e-12)
    figures = one.restarts.end_epoch()
    assert figures["finetuning/restarts"] == I + 1
    assert figures["finetuning/optimizer_bytes"] == 2 * 8 * O
    assert figures["finetuning/effective_rank"] == pytest.approx(effective_rank(target - one.base), abs=1e-5)


def test_without_restarts_a_step_is_loras():
    base = nn.Linear(I, O)
    peso, lora = PesoLinear(base, PesoConfig(rank=2)), LoRALinear(base, rank=2, alpha=4.0)
    lora.down_RI.data.copy_(peso.down_RI)
    x, target = torch.randn(7, I), torch.randn(7, O)
    for model in (peso, lora):
        optimizer = torch.optim.AdamW([model.up_OR, model.down_RI], lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            (model(x) - target).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(peso(x), lora(x), rtol=0, atol=1e-5)


def test_the_left_matrix_alone_with_carried_moments_is_galore():
    """Against GaLore's loop (arXiv 2403.03507): Adam on the projected gradient, the step projected back."""
    rate, scale, gap, rank = 0.05, 0.7, 4, 2
    one = OneMap(
        lambda weights: torch.optim.AdamW(weights, rate, BETAS, eps=0.0, weight_decay=0.0),
        rank=rank, restart_every=gap, train="left", scale=scale, state="carried",
    )  # fmt: skip
    target, weight, projector = normal(O, I, seed=1), one.weight(), one.map.down_RI.clone()
    first = second = torch.zeros(O, rank, dtype=torch.float64)
    for step in range(1, 12):
        one.step(target)
        gradient = weight - target
        projected = gradient @ projector.T
        first = BETAS[0] * first + (1 - BETAS[0]) * projected
        second = BETAS[1] * second + (1 - BETAS[1]) * projected.square()
        update = (first / (1 - BETAS[0] ** step)) / (second / (1 - BETAS[1] ** step)).sqrt()
        weight = weight - rate * scale * update @ projector
        if step % gap == 1:
            projector = torch.linalg.svd(gradient).Vh[:rank]
        torch.testing.assert_close(one.weight(), weight, rtol=0, atol=1e-12)


def test_a_gradient_step_is_the_best_one_of_its_rank():
    one = OneMap(sgd(0.0), rank=2, init="gradient_step", gradient_rate=0.3, scale=5.0)
    target, before = normal(O, I, seed=1), one.weight()
    one.step(target)
    chosen = leading(before - target, 2)
    best = chosen.left_OR * chosen.sizes_R @ chosen.right_RI
    torch.testing.assert_close(one.weight(), before - 0.3 * best, rtol=0, atol=1e-12)


def test_moments_turn_with_the_subspace():
    first, second = normal(O, 3), normal(O, 3, seed=1).square() + 1.0
    same = turned_moments(first, second, torch.eye(3, dtype=torch.float64), 5, BETAS)
    torch.testing.assert_close(same, (first, second))
    swap = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    swapped = turned_moments(first, second, swap, 5, BETAS)
    expected = torch.stack([first[:, 1], -first[:, 0], first[:, 2]], 1), second[:, [1, 0, 2]]
    torch.testing.assert_close(swapped, expected)
    turned = turned_moments(10 * first, second, normal(3, 3, seed=2), 1, BETAS)  # less than the mean's square
    assert (turned[1] >= 0).all()


def test_the_first_moment_is_that_of_the_gradient_in_the_new_rows_where_they_span_the_same():
    old, gradient = normal(2, I), normal(O, I, seed=1)
    new = normal(2, 2, seed=2) @ old
    torch.testing.assert_close(gradient @ old.T @ change_of_rows(old, new), gradient @ new.T)


def test_a_subspace_is_chosen_and_measured_by_its_singular_values():
    matrix = torch.diag(torch.tensor([3.0, 2, 1, 0]))
    assert leading(matrix, 2).share == pytest.approx(13 / 14)
    assert share_in_rows(matrix, 7 * torch.eye(4)[1:3] + torch.eye(4)[[2, 2]]) == pytest.approx(5 / 14)
    assert effective_rank(torch.eye(4)) == pytest.approx(4)
    assert effective_rank(torch.zeros(4, 4)) == 0 == leading(torch.zeros(4, 4), 2).share
    up, down = normal(O, 2), normal(2, I, seed=1)
    factors = balanced(100 * up, down)
    torch.testing.assert_close(factors[0] @ factors[1], 100 * up @ down)
    torch.testing.assert_close(factors[0].T @ factors[0], factors[1] @ factors[1].T)
    assert balanced(torch.zeros(O, 2), torch.ones(2, I)) is None


def peso(tiny_llm, **settings) -> PlainEngine:
    changes = {f"finetuning__{name}": value for name, value in settings.items()}
    laser, config = build(tiny_llm, llm__implementation="transformers", finetuning__type="peso", **changes)
    return PlainEngine(laser, config.training, CPU)


def steps(engine: PlainEngine, number: int, first: int = 0) -> None:
    for index in range(first, first + number):
        part = batch(size=4 + index)
        training_step(engine, [part], catalogue(engine.laser), engine.config, 1.0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_probes_gradient_is_autograds_on_transformers_own_llm(tiny_llm, checkpointing):
    modules = ["q_proj", "down_proj"]
    engine = peso(tiny_llm, modules=modules, restart_every=9, probe_batches=9)
    plain, _ = build(tiny_llm, llm__implementation="transformers")
    if checkpointing:
        engine.laser.enable_gradient_checkpointing()
    maps = {name: module for name, module in engine.laser.named_modules() if isinstance(module, PesoLinear)}
    assert len(maps) == 2 * len(modules)
    weights = [plain.get_submodule(name).weight.requires_grad_(True) for name in maps]
    read(plain, batch()).vector_BD.square().sum(dim=0).sin().sum().backward()
    engine.forward(batch()).vector_BD.square().sum(dim=0).sin().sum().backward()
    for module, weight in zip(maps.values(), weights, strict=True):
        assert weight.grad.norm() > 1e-4
        torch.testing.assert_close(module.gradient_OI, weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", ["restart", "warm"])
def test_a_restart_leaves_the_function_as_it_is(tiny_llm, variant):
    engine = peso(tiny_llm, variant=variant, restart_every=4)
    steps(engine, 4)
    engine.restarts.after_step, after = lambda: None, engine.restarts.after_step
    steps(engine, 1, first=4)
    before = read(engine.laser, batch()).representation_BH
    maps = engine.restarts.maps
    factors = [module.down_RI.clone() for module in maps]
    after()
    assert not any(torch.equal(old, module.down_RI) for old, module in zip(factors, maps, strict=True))
    torch.testing.assert_close(read(engine.laser, batch()).representation_BH, before, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("at", "settings"),
    [
        (4, {"rewarm_steps": 2}),
        (5, {"train": "left", "state": "carried"}),
        (6, {"variant": "warm"}),
        (6, {"state": "reset", "rank": 1}),
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(tiny_llm, at, settings):
    """With a first restart after 2 steps and then every 3: in the middle of a period, at a restart, within a probe."""
    settings = {"restart_every": 3, "probe_batches": 2, **settings}
    whole, resumed = peso(tiny_llm, **settings), peso(tiny_llm, **settings)
    steps(whole, at)
    whole.restarts.end_epoch()
    resumed.load_trainable(whole.trainable_state())
    resumed.load_optimizer(whole.optimizer_state())
    for engine in (whole, resumed):
        steps(engine, 5, first=at)
    states, moments = (
        [engine.trainable_state() for engine in (whole, resumed)],
        [engine.optimizer_state() for engine in (whole, resumed)],
    )
    for one, other in (states, moments):
        assert one.keys() == other.keys()
        assert not [name for name in one if not torch.equal(one[name], other[name])]
    assert states[0]["llm.restart_clock_2"].tolist() == [(at + 5 - 2) % 3, 1 + (at + 5 - 2) // 3]
    assert any(name.endswith("anchor_OI") for name in states[0])


def test_steps_after_a_restart_warm_up_and_those_without_the_llm_do_not_count(tiny_llm):
    engine = peso(tiny_llm, restart_every=5, rewarm_steps=2)
    training_step(engine, [batch()], catalogue(engine.laser), engine.config, 1.0, type(engine.laser).average_prefix)
    assert engine.laser.llm.restart_clock_2.tolist() == [0, 0]
    factors = []
    for index in range(4):
        factors.append(engine.restarts.rate_factor)
        steps(engine, 1, first=index)
    assert factors == [0.5, 0.5, 1.0, 1.0]
    rates = {group["name"]: group["lr"] / group["base_lr"] for group in engine.optimizer.param_groups}
    assert set(rates.values()) == {1.0}


def test_a_loss_that_is_no_number_is_left_for_the_guard_to_tell():
    one = OneMap(sgd(0.1), rank=1, train="left")
    down, anchor = one.map.down_RI.clone(), one.map.anchor_OI.clone()
    one.step(torch.full((O, I), math.nan))
    assert torch.equal(one.map.down_RI, down) and torch.equal(one.map.anchor_OI, anchor)
