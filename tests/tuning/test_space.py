"""What a search space may say."""

import pytest

from laser.config.schema import Experiment
from laser.errors import UserError
from laser.tuning.space import Choice, LogUniform, RandInt, grid, parse_space


def test_each_kind_of_definition():
    space = {
        "mformer.num_experts": {"choice": [2, 4]},
        "mformer.num_virtual_tokens": {"randint": [1, 9]},
        "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
    }
    assert list(parse_space(space, Experiment).values()) == [Choice((2, 4)), RandInt(1, 9), LogUniform(1e-4, 1e-2)]


@pytest.mark.parametrize(
    ("key", "definition", "message"),
    [
        ("mformer.experts", {"choice": [2]}, "mformer.experts: no such setting; did you mean num_experts?"),
        ("mformer", {"choice": [2]}, "mformer: is a section; vary its settings"),
        ("mformer.num_experts", [2, 4], "mformer.num_experts: [2, 4]; give one of {choice"),
        ("mformer.num_experts", {"chioce": [2]}, 'mformer.num_experts: {"chioce": [2]}; give one of {choice'),
        ("mformer.num_experts", {"choice": []}, "mformer.num_experts: choice []; give at least one value"),
        ("mformer.num_experts", {"choice": [2, 2]}, "mformer.num_experts: choice [2, 2]; give at least one value, and"),
        ("mformer.num_experts", {"choice": [2, 0]}, "mformer.num_experts: 0; should be greater than 0"),
        ("mformer.num_experts", {"uniform": [1, 4]}, "mformer.num_experts: "),
        ("mformer.num_experts", {"randint": [4, 1]}, "mformer.num_experts: randint [4, 1]; give [low, high]"),
        ("training.learning_rate", {"loguniform": [0, 1]}, "training.learning_rate: loguniform [0, 1]; low must be"),
    ],
)
def test_a_wrong_definition_is_named_with_its_remedy(key, definition, message):
    with pytest.raises(UserError) as caught:
        parse_space({key: definition}, Experiment)
    assert str(caught.value).startswith(f"space.{message}")


def test_a_grid_takes_choices_alone():
    with pytest.raises(UserError, match=r"space\.training\.learning_rate: a grid cannot try all of loguniform"):
        grid({"training.learning_rate": LogUniform(1e-4, 1e-2)})
