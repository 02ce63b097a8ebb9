"""The Ray cluster that this process works on: the one of RAY_ADDRESS, or one that is started for it."""

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants
from ray._raylet import Config

START_SECONDS = 600
"""Ray gives up on its dashboard after 60, on its raylet after 30; two cores that many processes share take longer."""


@contextmanager
def cluster() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, as a submitted job does, or start one; leave it or end it with the block.

    A cluster started here has a dashboard, because Ray Train asks its state service whether workers are gone. All of
    Ray's servers listen on loopback alone.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local":
        # Ray's switch for "no cluster of machines", named after the systems where it is the default: this node's
        # address is 127.0.0.1. The variable is for the processes that Ray starts; this one has read it already.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        ray_constants.ENABLE_RAY_CLUSTER = False
        ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S = START_SECONDS
        os.environ["RAY_raylet_start_wait_time_s"] = str(START_SECONDS)
    if address == "local" and "RAY_AUTH_MODE" not in os.environ:
        # A token keeps other accounts out. Left to itself, ray.init() would write one into the home directory, and
        # every later `ray start` of this account would refuse whoever does not send it.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        Config.initialize("")  # has Ray read them again, as ray.init() itself does
    on_sigterm = signal.getsignal(signal.SIGTERM)  # `kill`, `ray job stop`; Ray puts an abort in its place
    ray.init(
        address=address, include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=True, logging_level="warning"
    )
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()
