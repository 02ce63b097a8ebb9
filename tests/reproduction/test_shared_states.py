"""What is shared of a text cache: by hand on small rows, and through the job's own code on real histories."""

import json

import pytest
import torch

from laser.config.compose import with_overrides
from laser.errors import UserError
from laser.reproduction.report.shared_states import FIGURE, write_sharing
from laser.reproduction.shared_states import sharing_of, text_sharing
from laser.training.prepare import prepare_inputs

MACHINE = {"processor": "a processor", "cores": 2, "memory_gib": 8.0}


def rows(*numbers: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(numbers)


def test_what_lies_in_the_direction_of_others_is_shared_and_what_does_not_is_not():
    # About the mean (0, 0, 10): the known half lies along the first axis. The other half has 4 of its 5 parts there.
    known = rows((3, 0, 10), (-3, 0, 10))
    unseen = [rows((2, 1, 10), (-2, -1, 10)), rows((2, -1, 10), (-2, 1, 10))]
    found = sharing_of([known, known, *unseen])
    assert found.mean == pytest.approx(1 - 20 / 420)
    assert found.shared[0] == pytest.approx(0.8) and found.shared[-1] == pytest.approx(1)
    assert found.own == pytest.approx([1, 1, 1], abs=1e-6)  # each lies along a line of its own
    assert found.other[0] == pytest.approx(((4 - 1) / 5) ** 2, abs=1e-6)  # squared cosine of the two lines
    assert found.pool == pytest.approx(1 - 16 / 20)  # the nearest of (3, 0, 10) and (-3, 0, 10)
    assert (found.numbers_for(0.5), found.item) == (1, None)
    assert sharing_of([known, known, *unseen], [known, known, *unseen]).item == 1.0
    nothing = [torch.zeros_like(part) + rows((0, 0, 10)) for part in unseen]
    assert sharing_of([known, known, *unseen], [known, known, *nothing]).item == pytest.approx(0)


def test_a_text_cache_is_measured_and_reported(desk, tmp_path):
    late = {"bituning.prefix_position": "after", "prompt.item_attention": "own"}
    config = with_overrides(desk.job("table=7"), late)
    inputs = prepare_inputs(config)
    found = text_sharing(config, inputs, num_users=12)
    first, second = found.users
    # A row of the first block depends on its token and place alone, so there a table of items is exact.
    assert first.keys.item == pytest.approx(1, abs=1e-4) and first.values.item == pytest.approx(1, abs=1e-4)
    assert second.values.item is not None and second.values.item < 0.999
    for block in (*found.users, *found.items):
        for part in (block.keys, block.values):
            assert len(part.shared) == found.width and part.shared[-1] == pytest.approx(1, abs=1e-4)
            assert all(most >= share - 1e-4 for most, share in zip(part.own, part.shared, strict=True))
    around = {"hardware": MACHINE, "commit": "", "command": ""}
    summary = write_sharing(found, tmp_path, inputs.dataset.facts(), around)
    assert summary["bytes_per_token"] == 2 * 2 * found.width * 4 > summary["users_bytes_for_90%"] > 0
    assert {"report.html", "report.md", FIGURE} < {path.name for path in tmp_path.iterdir()}
    assert json.loads((tmp_path / "report.json").read_text())["savings"]["users_item_table"] < 1
    with pytest.raises(UserError, match="bituning.prefix_position: before"):
        text_sharing(desk.job("table=7"), inputs, 12)
