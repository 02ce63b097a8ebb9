"""Everything that we use of Ray and that Ray does not promise: private modules and methods, and internal switches.

Checked on Ray 2.60.0. Another version may drop or rename any of it, so read this file when the pin changes.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from laser.errors import UserError
from laser.storage.places import check_place

START_SECONDS = 600
"""How long Ray's servers may take to start. Ray gives its dashboard 60 seconds and its raylet 30, which is too short
where many processes share two cores; an idle machine takes 7."""

LOCAL_SWITCHES = {
    # Ray asks by this switch whether it may be part of a cluster of machines, and named it after the systems where it
    # may not. At 0 this node's address is 127.0.0.1, and all of Ray's servers listen on loopback alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(START_SECONDS),
    "RAY_raylet_start_wait_time_s": str(START_SECONDS),
    # Ray Train's process that looks for notices of nodes to be taken away: 3 s of CPU time for each training.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # A node told to stop waits up to 30 s for Ray Serve's replicas to move to other nodes. There are no others here.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}
"""Environment of a cluster that stays on this machine."""

HEAD_NODE_ID = "f" * 51 + "00000"
"""Node id of a head with fake worker nodes; Ray's provider counts the nodes' ids on from there."""
HEAD_TYPE = "ray.head.default"
"""Name of the head's node type; the provider insists on it."""
FAKE_NODES_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
"""The provider that Ray tests its autoscaler with; its worker nodes are processes of this machine."""
FAKE_NODES_SWITCHES = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",  # with the first autoscaler, idle nodes did not leave
    "RAY_CLOUD_INSTANCE_ID": HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE_ID,
    "RAY_NODE_TYPE_NAME": HEAD_TYPE,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
"""Environment of a head with fake worker nodes."""


SOCKET_BYTES = 107
"""Most bytes of a socket's path on Linux."""
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""Longest path of a socket within the temporary folder."""


def check_temporary_folder() -> None:
    """Refuse a temporary folder in which a Ray of this machine cannot make its sockets.

    Raises:
        UserError: names the variable, the folder and the remedy.
    """
    if os.environ.get("RAY_ADDRESS", "local") != "local":
        return  # the cluster is there, and has its own
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(variable, "/tmp")
    size, most = len(os.fsencode(os.path.abspath(folder))), SOCKET_BYTES - len(SOCKET)
    if size > most:
        raise UserError(
            f"{variable}: {folder} has {size} bytes, and Ray's sockets leave room for {most}; "
            f"set {variable} to a shorter folder, such as /tmp"
        )
    check_place(folder, variable)


@contextmanager
def stay_on_this_machine(port: int) -> Iterator[None]:
    """Make a `ray.init()` in the block start a cluster on loopback, and wait long enough for it.

    The environment is for the processes that Ray starts. This process read it when it imported Ray, so the constants
    made of it are overwritten too.

    Args:
        port: a free one, for the cluster's head. The cluster's processes find its address in RAY_ADDRESS. Without it,
            they look for Ray on this machine and fail where they find two. The helper that gives the CPUs of a killed
            trial back was one of them, so the trial's next try waited for ever.
    """
    from ray._private import ray_constants

    os.environ |= LOCAL_SWITCHES
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S = START_SECONDS
    address = {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"127.0.0.1:{port}"}
    os.environ |= address
    try:
        yield
    finally:
        for name in address:  # the next cluster has another
            os.environ.pop(name, None)


def read_authentication_again() -> None:
    """Make Ray read RAY_AUTH_MODE and RAY_AUTH_TOKEN from the environment, as `ray.init()` itself does.

    Without it, Ray keeps what they were when it was imported.
    """
    from ray._raylet import Config

    Config.initialize("")


def leave_interrupts_alone(trainer: Any) -> None:
    """Keep Ctrl-C a KeyboardInterrupt where this Ray Train trainer's `fit` waits.

    The trainer would register a handler of its own, which ends the process with status 1, says nothing, and skips our
    cleaning up.
    """
    trainer._register_sigint_handler = lambda controller: None


def sift_worker_lines(is_noise: Callable[[str], bool]) -> None:
    """Drop noise among what Ray prints here of the cluster's processes, and colours where there is no terminal."""
    from ray._private import worker

    if not sys.stderr.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    show = worker.print_worker_logs
    if hasattr(show, "__wrapped__"):
        return  # this process has joined a cluster before

    @wraps(show)
    def sifted(data: dict[str, Any], *more: Any, **options: Any) -> None:
        lines = [line for line in data.get("lines", ()) if not is_noise(line)]
        if lines:
            show({**data, "lines": lines}, *more, **options)

    worker.print_worker_logs = sifted


def configure_tune() -> None:
    """Keep Ctrl-C a KeyboardInterrupt in Ray Tune too, and switch off reporters and loggers that nobody asked for."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new reporter prints a table of the search whatever it is told
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
