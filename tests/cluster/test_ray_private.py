"""What we overwrite in Ray is there; Python would overwrite a name that is gone without a word."""

import signal
from importlib import import_module

import pytest

from laser.cluster.join import cluster
from laser.cluster.ray_private import (
    FAKE_NODES_PROVIDER,
    check_temporary_folder,
    leave_interrupts_alone,
    sift_worker_lines,
)
from laser.errors import UserError


def test_the_constants_and_the_provider_are_there():
    from ray._private import ray_constants

    assert ray_constants.ENABLE_RAY_CLUSTER in (True, False)
    assert ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S > 0
    assert ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S > 0  # what LOCAL_SWITCHES sets to 0
    module, _, name = FAKE_NODES_PROVIDER.rpartition(".")
    assert hasattr(import_module(module), name)


def test_a_trainer_leaves_the_handler_of_ctrl_c():
    from ray.train.torch import TorchTrainer

    before = signal.getsignal(signal.SIGINT)
    trainer = TorchTrainer(print)
    try:
        trainer._register_sigint_handler(None)
        assert signal.getsignal(signal.SIGINT) is not before, "Ray no longer does what we prevent"
        signal.signal(signal.SIGINT, before)
        leave_interrupts_alone(trainer)
        trainer._register_sigint_handler(None)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


def test_noise_of_other_processes_is_dropped_before_ray_prints_it(monkeypatch, capsys):
    from ray._private import worker

    monkeypatch.setattr(worker, "print_worker_logs", worker.print_worker_logs)  # put back afterwards
    monkeypatch.setattr(worker, "_worker_logs_enabled", True)
    for _ in range(2):  # a process may join several clusters
        sift_worker_lines(lambda line: "noise" in line)
    data = {"pid": "raylet", "ip": "a", "localhost": "a", "is_err": True, "job": None}
    worker.print_to_stdstream({**data, "lines": ["all noise", "a real error"]}, ignore_prefix=False)
    worker.print_to_stdstream({**data, "lines": ["noise again"]}, ignore_prefix=False)
    said = capsys.readouterr().err
    assert said.count("a real error") == 1 and "noise" not in said


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_without_room_for_sockets_is_told_at_once(variable, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(variable, "/tmp/" + "x" * 80)
    with pytest.raises(UserError, match=rf"^{variable}: /tmp/x* has 85 bytes, .* such as /tmp$"):
        check_temporary_folder()
    monkeypatch.setenv(variable, "/proc/laser")
    with pytest.raises(UserError, match=f"^{variable}: /proc/laser: No such file"):
        check_temporary_folder()
    with pytest.raises(UserError, match=f"^{variable}: /proc/laser: No such file"), cluster():
        pass
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")  # a cluster that runs has its sockets already
    check_temporary_folder()
