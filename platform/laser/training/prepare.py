"""Making what a run shares with others, before anything is started for it."""

from dataclasses import replace

from laser.config.schema import Experiment
from laser.training.artifacts import SharedStages


def make_stages(config: Experiment) -> SharedStages:
    """Make the shared stages that are missing.

    Raises:
        UserError: bad data, settings or LLM source, or a dataset that leaves nothing to train or validate on.
    """
    from laser.training.inputs import prepare_inputs
    from laser.training.model import checkpoint_size

    inputs = prepare_inputs(config)
    return replace(inputs.stages, checkpoint_bytes=checkpoint_size(config, inputs))
