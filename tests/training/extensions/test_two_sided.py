"""Tests stage 0, which encodes users, next items and negatives in one step."""

import numpy as np
import pytest
import torch

from laser.config.compose import with_overrides
from laser.config.schema import Experiment
from laser.data.examples import Examples
from laser.engine.base import parameter_groups
from laser.engine.plain import PlainEngine
from laser.engine.step import StepResult
from laser.errors import UserError
from laser.training.extensions.two_sided import TwoSidedStep, check_negatives
from laser.training.inputs import Inputs
from laser.training.model import whole_laser
from tiny.laser import CPU, read


def two_sided_gradients(experiment: Experiment, inputs: Inputs, **settings: object) -> tuple[StepResult, dict]:
    """Return the first step's loss, and the weights after it under plain gradient descent."""
    config = with_overrides(experiment, {f"training.{name}": value for name, value in settings.items()})
    laser = whole_laser(config, inputs.artifacts, CPU)
    engine = PlainEngine(laser, config.training, CPU)
    engine.optimizer = torch.optim.SGD(parameter_groups(laser, config.training))
    step, indices = TwoSidedStep(engine, inputs.train, inputs.items, config.training, 0), np.arange(13)
    result = step.take(step.prepare(indices), indices, 0, 1.0)
    return result, engine.trainable_state()


@pytest.mark.parametrize("negatives", ["sampled", "in_batch"])
def test_a_two_sided_step_is_the_same_however_it_is_cut(experiment, inputs, negatives):
    """Compare one pass over the batch with many passes, where in_batch gathers first and reads everything twice."""
    whole, weights = two_sided_gradients(experiment, inputs, negatives=negatives, micro_batch_size=1000)
    cut, weights_of_cut = two_sided_gradients(experiment, inputs, negatives=negatives, micro_batch_size=8)
    assert cut.contrastive == pytest.approx(whole.contrastive, abs=1e-5)
    assert cut.load_balance == pytest.approx(whole.load_balance, abs=1e-6)
    assert (cut.num_examples, cut.num_tokens) == (whole.num_examples, whole.num_tokens)
    for name, weight in weights.items():
        torch.testing.assert_close(weights_of_cut[name], weight, rtol=0, atol=1e-5)  # measured: 6e-7


def test_the_in_batch_loss_equals_a_loop_over_the_batch_with_gradient_to_both_sides(experiment, inputs):
    config = with_overrides(
        experiment,
        {"training.negatives": "in_batch", "training.micro_batch_size": 8, "training.load_balance_weight": 0.0},
    )
    laser = whole_laser(config, inputs.artifacts, CPU)
    examples, losses = inputs.train.examples, []
    rows = np.arange(13)
    users_BH = read(laser, inputs.train.batch(rows, [1.0] * 13, CPU)).vector_BD
    targets = examples.targets[rows].astype(np.int64)
    items_BH = read(laser, inputs.items.batch(targets, [1.0] * 13, CPU)).vector_BD
    masked = 0
    for row in rows:
        known = {*examples.whole_history(row).tolist(), targets[row]}
        others = [other for other in rows if targets[other] not in known]
        masked += 12 - len(others)
        scores = torch.stack([users_BH[row] @ items_BH[other] for other in (row, *others)])
        losses.append(-(scores / config.training.temperature).log_softmax(0)[0])
    assert masked > 0  # the comparison covers false negatives
    loss = torch.stack(losses).mean()
    loss.backward()
    rate = config.training.learning_rate
    expected = {
        name: p.detach() - rate * (0.0 if p.grad is None else p.grad)
        for name, p in laser.trainable_parameters().items()
    }
    settings = {"negatives": "in_batch", "load_balance_weight": 0.0, "micro_batch_size": 8}
    result, weights = two_sided_gradients(experiment, inputs, **settings)
    assert result.contrastive == pytest.approx(float(loss.detach()), abs=1e-5)
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-5)


def test_sampled_negatives_are_new_to_the_user_and_the_same_each_time(experiment, inputs):
    engine = PlainEngine(whole_laser(experiment, inputs.artifacts, CPU), experiment.training, CPU)
    first, second, later = (
        TwoSidedStep(engine, inputs.train, inputs.items, experiment.training, epoch) for epoch in (0, 0, 1)
    )
    for example in range(len(inputs.train)):
        drawn = first._negatives(example)
        assert len(drawn) == 10
        assert not {*inputs.train.examples.whole_history(example).tolist(), inputs.train.examples.targets[example]} & {
            *drawn.tolist()
        }
        assert drawn.tolist() == second._negatives(example).tolist()
    assert first._negatives(0).tolist() != later._negatives(0).tolist()


def test_a_user_who_had_every_item_is_refused_before_training():
    sequence = np.array([0, 1, 2, 1, 0, 3], dtype=np.int32)

    def history(end: int) -> Examples:
        whole = Examples(sequence, *(np.array([value]) for value in (0, 0, end, sequence[end])))
        return whole.last(2)

    check_negatives(history(3), num_items=4)  # 3 stays to be drawn
    with pytest.raises(UserError, match=r"training\.negatives: sampled; a user .* has had every item"):
        check_negatives(history(5), num_items=4)
