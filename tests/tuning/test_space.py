"""What a search space may say."""

from pathlib import Path

import pytest

from laser.config.compose import load_config
from laser.config.families.recommenders import FAMILIES
from laser.config.schema import Experiment, TuneExperiment
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


def test_families_have_spaces_of_their_own_with_as_many_settings_and_the_same_budget(repo: Path):
    base = load_config(TuneExperiment, [f"config={repo / 'configs/tune/family.yaml'}"], None)
    files = {path.stem.removeprefix("family-"): path for path in (repo / "configs/tune").glob("family-*.yaml")}
    # collective_sasrec has collectivekv.yaml, a stack has two families, and the others have nothing that a Laser reads.
    assert set(FAMILIES) - set(files) == {"popularity", "recent_popularity", "collective_sasrec", "stack"}
    for family, path in files.items():
        config = load_config(TuneExperiment, [f"config={path}"], None)
        assert config.recommender.type == family and config.name == path.stem
        assert len(config.space) == 4 and all(key.startswith("recommender.") for key in config.space)
        shared = {"name", "recommender", "space"}
        assert config.model_dump(exclude=shared) == base.model_dump(exclude=shared)
