"""The recommenders beside the trials on a leaderboard: the one under the M-Former, and plain baselines."""

from pathlib import Path

from laser.config.families.recommenders import FAMILIES
from laser.data.dataset import open_dataset
from laser.recommenders.pretraining import pretrained_recommender, pretraining_device
from laser.recommenders.ranks import recommender_ranks
from laser.tuning.search import SearchPlan


def validated_baselines(plan: SearchPlan) -> dict[str, dict[str, float]]:
    """Return the validation metrics of each recommender, by name, for the users that trials are validated on.

    The experiment's own recommender comes first and is named as such. The families of `search.baselines` have their
    default settings. What is not cached is made now. There are none if the space varies what artifacts are made of.
    """
    base, artifacts, families = plan.base, plan.artifacts, plan.config.search.baselines
    if artifacts is None:
        return {}
    sections = {family: FAMILIES[family].model_validate({"type": family}) for family in families}
    if base.recommender.type != "none":
        sections = {f"{base.recommender.type}, underneath": base.recommender, **sections}
    dataset, training = open_dataset(artifacts.dataset_directory), base.training
    sample = dataset.examples("val").sample_users(training.validation_users, training.seed)
    device, cache = pretraining_device(training.use_gpu), Path(base.cache_dir)
    metrics = {}
    for name, section in sections.items():
        made = pretrained_recommender(section, dataset, cache, test=False, device=device)
        every_user = training.validation_users is None
        metrics[name] = made.result.val if every_user else recommender_ranks(made.model, sample).metrics()
    return metrics
