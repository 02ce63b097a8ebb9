"""What suite gpu trains, in which order, and how much of its time a training leaves to others."""

from functools import partial

from laser.benchmarks.gpu_parts.training import plan_trainings
from laser.config.compose import load_config
from laser.config.jobs import BenchmarkJob


def test_each_seed_trains_every_experiment_and_leaves_time_to_those_after_it():
    words = ["suite=gpu", "benchmark.gpu_experiments=[a.yaml,b.yaml,c.yaml]", "benchmark.gpu_seeds=[3,4]"]
    job = load_config(BenchmarkJob, [*words, "benchmark.gpu_seconds=100"], None)
    plan = plan_trainings(job, lambda: 0.0)
    assert list(plan) == [f"train {name} seed {seed}" for seed in (3, 4) for name in "abc"]
    reserved = [training.args[3] for training in plan.values() if isinstance(training, partial)]
    assert reserved == [20.0, 10.0, 0.0] * 2
