"""The recommenders beside the trials on a leaderboard: the one under the M-Former, and plain baselines."""

from collections.abc import Sequence
from pathlib import Path

from laser.config.families.recommenders import FAMILIES
from laser.config.schema import Experiment
from laser.data.dataset import open_dataset
from laser.recommenders.pretraining import pretrained_recommender, pretraining_device
from laser.recommenders.ranks import recommender_ranks
from laser.training.artifacts import Artifacts


def validated_baselines(base: Experiment, artifacts: Artifacts, families: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the validation metrics of each recommender, by name, for the users that trials are validated on.

    Args:
        base: the experiment that trials vary; its own recommender comes first and is named as such.
        artifacts: those that all trials share.
        families: families of recommenders to show at their default settings. What is not cached is made now.
    """
    sections = {family: FAMILIES[family].model_validate({"type": family}) for family in families}
    if base.recommender.type != "none":
        sections = {f"{base.recommender.type}, underneath": base.recommender, **sections}
    dataset, training = open_dataset(artifacts.dataset_directory), base.training
    val = dataset.examples("val")
    if training.validation_users is not None:
        val = val.sample_users(training.validation_users, training.seed)
    device, cache = pretraining_device(training.use_gpu), Path(base.cache_dir)
    metrics = {}
    for name, section in sections.items():
        model = pretrained_recommender(section, dataset, cache, test=False, device=device).model
        metrics[name] = recommender_ranks(model, val).metrics()
    return metrics
