"""Tests faults on real processes: each run ends like an undisturbed one, and its record holds nothing twice.

`make chaos` runs them and prints what each fault cost. The default run has none: each is several trainings.
"""

import itertools
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from laser.cluster.local import local_cluster
from laser.cluster.nodes import LocalNodes
from laser.cluster.processes import Note, marked_processes
from laser.config.compose import load_config
from laser.config.schema import Experiment
from laser.training.prepare import make_artifacts
from laser.training.run.checkpoint import Checkpoint, latest_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.slow]

SHORT, LONG = 3, 10
"""Number of epochs of stage 1; one epoch of stage 2 follows."""
HERE = ("training.num_workers=0",)
TWO = ("training.num_workers=2", "training.zero_stage=2", "training.max_failures=9")
SWEEP = ("space.mformer.num_virtual_tokens=null", "space.mformer.num_experts=null", "space.training.seed={choice: [0]}")
WEIGHT_TOLERANCE = 5e-5  # between different numbers of workers; with equal ones every weight is the same to the bit
COSTS = ("seconds", "per_second", "peak_mib")
"""Ends of the names of metrics that differ from run to run."""
DEADLINE = 900


class Job:
    """A training job that may take several sessions: jobs/train.py, or a sweep of jobs/tune.py."""

    def __init__(self, workplace: Any, name: str, *settings: str, epochs: int = SHORT, job: str = "train.py") -> None:
        self.workplace, self.name, self.job = workplace, name, job
        config = "tune/quickstart.yaml" if job == "tune.py" else "quickstart.yaml"
        stages = (f"training.stage1_epochs={epochs}", "training.stage2_epochs=1", "training.test=true")
        self.settings = [*workplace.settings(config, *stages, f"name={name}"), *settings]
        self.environment: dict[str, str] = {}
        self.started = time.monotonic()
        self.process: Any = None

    @property
    def checkpoints(self) -> Path:
        """Return the checkpoints' directory of the run, or of the sweep's first trial."""
        runs = self.workplace.directory / "runs"
        if self.job == "train.py":
            return runs / self.name / "checkpoints"
        return next((runs / "sweeps" / self.name / "trials").glob("*/checkpoints"), runs / "none")

    def start(self, *more: str) -> "Job":
        self.process = self.workplace.start(self.job, *self.settings, *more, environment=self.environment)
        return self

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Wait until the condition returns something true, and return it. The job must run until then."""
        deadline = time.monotonic() + DEADLINE
        while not (found := condition()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.process.communicate()[1][-8000:]
            time.sleep(0.002)
        return found

    def wait_for_epoch(self, stage: int, number: int) -> None:
        def is_there() -> bool:
            return (self.checkpoints / f"stage{stage}-epoch{number:04d}").is_dir()  # a sweep makes its folder first

        self.wait_for(is_there)

    def kill_one(self, name: str) -> bool:
        """Kill one of this job's processes by the name that Ray gave it, and return whether there was one."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if name in " ".join(process.cmdline()):
                    process.kill()
                    return True
            except psutil.Error:
                continue
        return False

    def kill(self) -> None:
        """Kill the job's own process. Its children end with it (Ray's agents after a minute or two)."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.communicate()
        psutil.wait_procs([process for process in started if "Agent" not in _name(process)], timeout=60)
        assert not [process for process in started if "Train" in _name(process)]

    def ends(self, status: int) -> str:
        """Wait for the end and return what the job has written to standard error."""
        _, errors = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == status, errors[-8000:]
        return errors

    def finish(self) -> "Finished":
        output, errors = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == 0, errors[-8000:]
        summary = json.loads(output.splitlines()[-1])
        run_id = summary["run_id"] if self.job == "train.py" else summary["best"]["run_id"]
        return Finished(self.checkpoints, run_id, time.monotonic() - self.started)


@dataclass(frozen=True)
class Finished:
    """Holds what a run that ended well has left."""

    checkpoints: Path
    run_id: str
    seconds: float
    """Time of all sessions of the run, from the first start to the last end."""

    @property
    def last(self) -> Checkpoint:
        found = latest_checkpoint(self.checkpoints)
        assert found is not None
        return found

    @property
    def outcome(self) -> dict[str, Any]:
        return json.loads((self.checkpoints.parent / "result.json").read_text())


@pytest.fixture(scope="module")
def undisturbed_here(workplace) -> Finished:
    make_artifacts(load_config(Experiment, workplace.settings("quickstart.yaml"), None))  # is no part of the time
    return Job(workplace, "undisturbed-here", *HERE).start().finish()


@pytest.fixture(scope="module")
def undisturbed(workplace) -> Finished:
    return Job(workplace, "undisturbed", *TWO).start().finish()


def difference(workplace, run: Finished, reference: Finished, tolerance: float = 0.0) -> float:
    """Check that two runs leave the same within the tolerance, and return the largest difference of a weight."""
    mine, theirs = run.last, reference.last
    assert mine.name == theirs.name and mine.name.startswith("stage2")
    weights, others = mine.trainable(), theirs.trainable()
    assert weights.keys() == others.keys()
    largest = max(float((weight - others[name]).abs().max()) for name, weight in weights.items())
    assert largest <= tolerance
    near = max(20 * tolerance, 1e-12)
    for row, other in zip(mine.state.history, theirs.state.history, strict=True):  # each epoch once
        assert row.keys() == other.keys()
        for name in row:
            if not name.endswith(COSTS) and (not tolerance or name.startswith("loss")):
                assert row[name] == pytest.approx(other[name], abs=near), name
    assert recorded(workplace, run) == pytest.approx(recorded(workplace, reference), abs=near)
    if not tolerance:
        assert run.outcome["test"] == reference.outcome["test"]
    assert {path.name for path in run.checkpoints.iterdir()} == {path.name for path in reference.checkpoints.iterdir()}
    return largest


def recorded(workplace, run: Finished) -> dict[tuple[str, int], float]:
    """Return the losses in MLflow by name and epoch, and check that each epoch is there once."""
    client = MlflowClient(f"sqlite:///{workplace.directory / 'mlflow.db'}")
    found = {}
    for name in ("loss", "loss/contrastive", "loss/load_balance", "tokens"):
        points = client.get_metric_history(run.run_id, name)
        assert sorted(point.step for point in points) == list(range(1, run.last.state.epoch + 1)), name
        found |= {(name, point.step): point.value for point in points}
    assert client.get_run(run.run_id).info.status == "FINISHED"
    return found


def test_a_run_killed_while_it_writes_a_checkpoint_resumes_to_the_same_bits(workplace, undisturbed_here, survived):
    for attempt in itertools.count(1):
        job = Job(workplace, f"half-written-{attempt}", *HERE).start()
        half = job.wait_for(lambda: list(job.checkpoints.glob(".stage1-epoch0002.*")))  # noqa: B023
        job.kill()
        if half[0].is_dir():
            break
        assert attempt < 5, "the writing was over each time"
    kept = latest_checkpoint(job.checkpoints)
    assert kept is not None and kept.name == "stage1-epoch0001"
    run = job.start("resume=true").finish()
    lost = run.seconds - undisturbed_here.seconds
    survived("killed while it writes a checkpoint", "resume=true", lost, difference(workplace, run, undisturbed_here))


def test_a_full_disk_is_told_in_one_line_and_the_run_resumes_to_the_same_bits(workplace, undisturbed_here, survived):
    """Limit the size of the running process's files. MLflow's database is on the same disk."""
    job = Job(workplace, "full-disk", *HERE).start()
    job.wait_for_epoch(1, 1)
    largest = (job.checkpoints / "stage1-epoch0001" / "item_embeddings.safetensors").stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(job.process.pid, resource.RLIMIT_FSIZE, (largest // 2, hard))
    last_line = job.ends(2).splitlines()[-1]
    assert "could not be written" in last_line and "resume=true" in last_line
    kept = latest_checkpoint(job.checkpoints)
    assert kept is not None and kept.state.epoch >= 1 and not list(job.checkpoints.glob(".*"))
    run = job.start("resume=true").finish()
    lost = run.seconds - undisturbed_here.seconds
    survived("disk full", "room, resume=true", lost, difference(workplace, run, undisturbed_here))


def test_a_killed_worker_changes_no_bit(workplace, undisturbed, survived):
    job = Job(workplace, "worker", *TWO).start()
    job.wait_for_epoch(1, 1)
    assert job.kill_one("RayTrainWorker")
    run = job.finish()
    lost = run.seconds - undisturbed.seconds
    survived("kill -9 of a train worker", "itself", lost, difference(workplace, run, undisturbed))


def test_a_killed_job_resumes_to_the_same_bits(workplace, undisturbed, survived):
    job = Job(workplace, "driver", *TWO).start()
    job.wait_for_epoch(1, 2)
    job.kill()
    run = job.start("resume=true").finish()
    lost = run.seconds - undisturbed.seconds
    survived("kill -9 of the job", "resume=true", lost, difference(workplace, run, undisturbed))


def test_a_killed_trial_is_tried_again(workplace, undisturbed, survived):
    job = Job(workplace, "trial", *TWO, *SWEEP, "search.max_retries=1", job="tune.py").start()
    job.wait_for_epoch(1, 1)
    assert job.kill_one("ImplicitFunc")
    run = job.finish()
    lost = run.seconds - undisturbed.seconds
    survived("kill -9 of a trial's own process", "search.max_retries", lost, difference(workplace, run, undisturbed))


def test_a_run_survives_a_lost_node_on_fewer_workers(workplace, undisturbed, survived, tmp_path):
    """Run with 2 workers, with 1 when a node goes, and with 2 again when the autoscaler has started another."""
    nodes = LocalNodes(max_workers=2, cpus=1, idle_seconds=600)
    with local_cluster(tmp_path / "cluster", nodes) as cluster:
        note = Note.read(tmp_path / "cluster" / "cluster.json")
        assert note is not None
        job = Job(workplace, "node", *TWO, "training.min_workers=1", "training.resize_seconds=5", epochs=LONG)
        token = (tmp_path / "cluster" / "token").read_text().strip()  # in place of that of all other tests
        job.environment = {**cluster.environment, "RAY_AUTH_TOKEN": token}
        job.start()
        job.wait_for_epoch(1, 1)
        raylets = [process for process in marked_processes(note.session) if process.name() == "raylet"]
        raylets.sort(key=lambda process: process.create_time())
        sizes = Sizes(note.session)
        raylets[-1].kill()
        job.wait_for(lambda: sizes.see() == [2, 1, 2])
        run = job.finish()
    reference = Job(workplace, "undisturbed-long", *TWO, epochs=LONG).start().finish()
    lost = run.seconds - reference.seconds
    largest = difference(workplace, run, reference, WEIGHT_TOLERANCE)
    survived("kill -9 of a raylet; 2, 1, 2 workers", "itself", lost, largest)


class Sizes:
    """Records the numbers of train workers that were seen at work, in order."""

    def __init__(self, session: str) -> None:
        self.session, self.seen = session, [2]

    def see(self) -> list[int]:
        busy = sum("RayTrainWorker" in " ".join(_command(process)) for process in marked_processes(self.session))
        if busy and busy != self.seen[-1]:
            self.seen.append(busy)
        return self.seen


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _name(process: psutil.Process) -> str:
    """Return the name of a process, empty if it has ended."""
    try:
        return process.name()
    except psutil.Error:
        return ""


def test_asha_decides_the_same_after_a_restart_and_frees_what_it_stops(workplace, survived, tmp_path):
    space = (*SWEEP[:2], "space.training.seed={choice: [0, 1, 2, 3]}", "search.scheduler=asha")
    settings = (*space, "training.num_workers=1", "training.zero_stage=0")
    whole = Job(workplace, "asha", *settings, job="tune.py").start()
    with (tmp_path / "cores").open("w") as file:
        watch = subprocess.Popen([sys.executable, "-c", WATCH, str(whole.process.pid)], stdout=file)
        _, errors = whole.process.communicate(timeout=DEADLINE)
        watch.terminate()
        watch.wait()
    assert whole.process.returncode == 0, errors[-8000:]
    took = time.monotonic() - whole.started
    states = records(workplace, "asha")
    stopped = [record for record in states.values() if record["state"] == "stopped"]
    assert stopped and any(record["state"] == "finished" for record in states.values())
    samples = [line.split() for line in (tmp_path / "cores").read_text().splitlines()]
    for record in stopped:
        gone = [float(at) for at, workers in samples if float(at) > record["at"] - 1 and workers == "0"]
        assert gone and gone[0] - record["at"] < 10, "its workers stay"

    job = Job(workplace, "asha-restarted", *settings, job="tune.py").start()
    job.wait_for(lambda: len(records(workplace, "asha-restarted")) == 2)
    job.kill()
    job.start("resume=true")
    output, errors = job.process.communicate(timeout=DEADLINE)
    assert job.process.returncode == 0, errors[-8000:]
    again = records(workplace, "asha-restarted")
    for name, record in states.items():
        assert {key: record[key] for key in ("state", "epochs", "val")} == {
            key: again[name][key] for key in ("state", "epochs", "val")
        }, name
    survived("kill -9 of a sweep under ASHA", "resume=true", time.monotonic() - job.started - took, 0.0)


WATCH = """
import sys, time, psutil
job = psutil.Process(int(sys.argv[1]))
while True:
    try:
        workers = sum("RayTrainWorker" in " ".join(p.cmdline()) for p in job.children(recursive=True))
        print(time.time(), workers, flush=True)
    except psutil.Error:
        pass
    time.sleep(0.2)
"""


def records(workplace, sweep: str) -> dict[str, dict[str, Any]]:
    """Return by name how each trial of a sweep ended, and when."""
    found = {}
    for path in (workplace.directory / "runs" / "sweeps" / sweep / "trials").glob("*/record.json"):
        record = json.loads(path.read_text())
        found[record["name"]] = {**record, "at": path.stat().st_mtime}
    return found


def test_a_run_survives_one_fault_after_the_other(workplace, survived):
    """Kill processes at seeded times, and report what is left of the speed."""
    reference = Job(workplace, "undisturbed-two", *TWO, epochs=LONG).start().finish()
    chance = random.Random(0)
    job, faults = Job(workplace, "chaos", *TWO, epochs=LONG).start(), ["worker", "job", "worker", "job"]
    chance.shuffle(faults)
    done = 0
    for fault in faults:
        job.wait_for(lambda before=done: _epochs(job) > before)
        time.sleep(chance.uniform(0, 3))
        if fault == "worker":
            job.wait_for(lambda: job.kill_one("RayTrainWorker"))
        else:
            job.kill()
            job.start("resume=true")
        done = _epochs(job)
    run = job.finish()
    largest = difference(workplace, run, reference)
    speed = reference.seconds / run.seconds
    survived(
        f"{' '.join(faults)}: {speed:.0%} of the speed", "itself, resume=true", run.seconds - reference.seconds, largest
    )


def _epochs(job: Job) -> int:
    """Return the number of epochs with a checkpoint, without checking its hashes."""
    states = [json.loads(path.read_text())["epoch"] for path in job.checkpoints.glob("stage*/state.json")]
    return max(states, default=0)
