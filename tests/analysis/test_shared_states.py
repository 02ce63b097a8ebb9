"""What is shared of a text cache: by hand on small rows, and by the job's own functions on histories."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from laser.analysis.low_rank import low_rank, ranked_with_less, shortened
from laser.analysis.report import FIGURE, write_sharing
from laser.analysis.shared_states import sharing_of, text_sharing
from laser.config.compose import validate, with_overrides
from laser.config.schema import Experiment
from laser.errors import UserError
from laser.llm.text_states import TextStates
from laser.training.prepare import prepare_inputs
from laser.training.run.outcome import run_results
from tiny.histories import save_histories
from tiny.laser import BASE, CPU
from tiny.training import train

AROUND = {"hardware": {"processor": "x", "cores": 2, "memory_gib": 8.0}, "commit": "", "command": ""}


@pytest.fixture(scope="module")
def late(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment with a text cache of single items."""
    folder = tmp_path_factory.mktemp("late")
    settings = {
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "runs"),
        "data": {"path": str(save_histories(folder / "raw"))},
        "prompt": {"attributes": [], "instruction": "Sum up", "max_history_items": 3, "item_attention": "own"},
        "llm": {"source": str(tiny_llm), "dtype": "fp32", "compile": False},
        "recommender": {"type": "none"},
        "mformer": BASE.mformer.model_dump(),
        "bituning": {"prefix_position": "after", "prefix": "free"},
        "training": {"num_workers": 0, "stage1_epochs": 1, "stage2_epochs": 0, "batch_size": 16, "test": False},
    }
    return validate(Experiment, settings)


def rows(*numbers: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


def test_what_lies_in_the_direction_of_others_is_shared_and_what_does_not_is_not():
    # About the mean (0, 0, 10), the known half lies along the first axis. The others have 4 of their 5 parts there.
    known = rows((3, 0, 10), (-3, 0, 10))
    unseen = [rows((2, 1, 10), (-2, -1, 10)), rows((2, -1, 10), (-2, 1, 10))]
    found = sharing_of([known, known, *unseen])
    assert found.mean == pytest.approx(1 - 20 / 420)
    assert found.shared[0] == pytest.approx(0.8) and found.shared[-1] == pytest.approx(1)
    assert found.own == pytest.approx([1, 1, 1])  # each lies along a line of its own
    assert found.other[0] == pytest.approx((3 / 5) ** 2)  # squared cosine of the two lines
    assert found.pool == pytest.approx(1 - 8 / 20)  # the nearest of (3, 0, 10) and (-3, 0, 10) is 1 and 1 away
    assert (found.numbers_for(0.5), found.item) == (1, None)
    assert sharing_of([known, known, *unseen], [known, known, *unseen]).item == 1.0
    nothing = [torch.zeros_like(part) + rows((0, 0, 10)) for part in unseen]
    assert sharing_of([known, known, *unseen], [known, known, *nothing]).item == pytest.approx(0)


def test_a_text_cache_is_measured_and_reported(late: Experiment, tmp_path: Path):
    inputs = prepare_inputs(late)
    found = text_sharing(late, inputs, num_users=12)
    first, second = found.users
    # A row of the first block depends on its token and place alone, so there a table of items is exact.
    assert first.keys.item == pytest.approx(1, abs=1e-4) and first.values.item == pytest.approx(1, abs=1e-4)
    assert second.values.item is not None and second.values.item < 0.999
    for block in (*found.users, *found.items):
        for part in (block.keys, block.values):
            assert len(part.shared) == found.width and part.shared[-1] == pytest.approx(1, abs=1e-4)
            assert all(most >= share - 1e-4 for most, share in zip(part.own, part.shared, strict=True))
    facts = inputs.dataset.facts()
    summary = write_sharing(found, {"whole": 0.5, "low rank": 0.4}, tmp_path, facts, AROUND)
    assert summary["bytes_per_token"] == 2 * 2 * found.width * 4 > summary["users_bytes_for_90%"] > 0
    assert "| low rank |" in (tmp_path / "report.md").read_text().replace("  ", "") and (tmp_path / FIGURE).is_file()
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["savings"]["users_item_table"] < 1
    assert written["sharing"]["users"][0]["keys"]["shared"][str(found.width)] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bituning.prefix_position": "before", "prompt.item_attention": "causal"}, "bituning.prefix_position: before"),
        ({"prompt.item_attention": "causal"}, "prompt.item_attention causal"),
        ({"llm.cache_mib": 0}, "llm.cache_mib: 0"),
    ],
)
def test_what_has_no_text_cache_of_items_is_refused(late: Experiment, changed: dict, message: str):
    config = with_overrides(late, changed)
    with pytest.raises(UserError, match=message):
        text_sharing(config, prepare_inputs(config), 12)


def test_low_rank_keeps_the_leading_directions():
    given = rows((3, 0, 10), (-3, 0, 10), (0, 1, 10), (0, -1, 10))
    torch.testing.assert_close(low_rank(given, 1), rows((3, 0, 10), (-3, 0, 10), (0, 0, 10), (0, 0, 10)))
    torch.testing.assert_close(low_rank(given, 3), given)


def test_a_run_reads_what_is_left_of_its_text_cache(late: Experiment, tmp_path: Path):
    val = train(late, tmp_path, lambda metrics, epoch: None).val
    inputs = prepare_inputs(late)
    ranked = ranked_with_less(late, inputs, run_results(tmp_path).artifacts["checkpoint"])
    assert ranked["whole"] == val["ndcg@10"] == ranked["low rank, 96 numbers"] != ranked["the mean row"]
    histories = np.arange(5)
    assert inputs.val.text is not None
    whole, less = (text.of(histories, CPU) for text in (inputs.val.text, shortened(inputs.val.text, torch.zeros_like)))
    assert isinstance(whole, TextStates) and isinstance(less, TextStates)
    instruction = len(inputs.val.prompts.instruction)
    for block, of_less in zip(whole.states, less.states, strict=True):
        kept, rest = (less.places.row_BT[0, :instruction], less.places.row_BT[0, instruction : less.places.length_B[0]])
        assert torch.equal(of_less[kept], block[whole.places.row_BT[0, :instruction]]) and not of_less[rest].any()
