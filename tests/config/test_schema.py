"""Settings that exclude one another."""

import pytest

from laser.config.compose import validate
from laser.config.schema import Experiment
from laser.errors import UserError


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"recommender": {"type": "none"}}, 'recommender.type: "none"; the prefix and head.collaborative read'),
        (
            {"bituning": {"prefix": "none", "representation": "eos"}},
            'bituning.representation: "eos"; without prefix and suffix nothing is left to train',
        ),
        (
            {"prompt": {"item_attention": "own"}},
            'prompt.item_attention: "own"; items that see a prefix before the text differ',
        ),
        (
            {"bituning": {"prefix_position": "after", "representation": "mean"}},
            'bituning.representation: "mean"; no output at the text depends on a prefix after it',
        ),
        (
            {"bituning": {"prefix_position": "after"}, "training": {"gradient_checkpointing": True}},
            "training.gradient_checkpointing: true; a prefix after the text leaves nothing to recompute",
        ),
        ({"recommender": {"type": "none", "seed": 1}}, "recommender.seed: not a setting of the chosen"),
        ({"mformer": {"num_experts": 2, "top_k": 3}}, "mformer: .*top_k 3 is more than num_experts 2; lower it"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_in_one_line(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        validate(Experiment, settings)
