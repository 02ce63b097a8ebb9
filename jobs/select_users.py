"""Choose the users to train on, as jobs/train.py would: by influence and effort (DEALRec), or as selection.type says.

    python jobs/select_users.py data.path=<folder> selection.type=dealrec selection.fraction=0.02

The scores stay in the cache, where a training with the same settings finds them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.cli.job import run_job
from laser.config.schema import Experiment


def main(config: Experiment) -> Mapping[str, Any]:
    """Choose users, and say who they are: how many, how long their histories are, and what choosing them took."""
    from laser.config.families.selection import AllUsers
    from laser.config.paths import check_places, with_absolute_paths
    from laser.data.selected import select_examples
    from laser.scoring.description import describe_selection
    from laser.scoring.scored import chosen_in
    from laser.sources.prepare import prepare_dataset
    from laser.training.prepare import prepare_inputs
    from laser.training.selection import scored_users

    check_places(config)
    config = with_absolute_paths(config)
    dataset = prepare_dataset(config.data, Path(config.cache_dir))
    users = scored_users(config, dataset, prepare_inputs)
    chosen = select_examples(dataset, config, chosen_in(users))["train"]
    everyone = select_examples(dataset, config.model_copy(update={"selection": AllUsers()}))["train"]
    found = describe_selection(dataset, chosen, everyone, users)
    return {"data": dataset.facts(), "selection": config.selection.type, **found}


if __name__ == "__main__":
    run_job(main, Experiment, Path("configs/quickstart.yaml"))
