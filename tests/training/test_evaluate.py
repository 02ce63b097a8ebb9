"""A run is evaluated on its own data and with its own LLM, or not at all."""

from dataclasses import replace

import pytest

from laser.errors import UserError
from laser.training.evaluate import check_same_content
from laser.training.train import run_tags


def test_changed_data_or_weights_are_refused(experiment, inputs):
    artifacts = inputs.artifacts
    tags = {name: str(value) for name, value in run_tags(experiment, artifacts).items()}
    check_same_content(experiment, artifacts, tags)
    older = {name: value for name, value in tags.items() if name != "llm_content"}
    changed = replace(artifacts, llm_content="folder:0")
    check_same_content(experiment, changed, older)
    with pytest.raises(UserError, match=r"llm\.source: .* has changed since the run: it holds folder:0, then folder:"):
        check_same_content(experiment, changed, tags)
    with pytest.raises(UserError, match=r"data\.path: .* has changed since the run: fingerprint other, then "):
        check_same_content(experiment, replace(artifacts, fingerprint="other"), tags)
