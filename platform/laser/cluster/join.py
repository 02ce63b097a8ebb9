"""The Ray cluster that this process works on: the one that RAY_ADDRESS names, or one started for this process."""

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray

from laser.cli.quiet import is_noise
from laser.cluster.ports import free_ports
from laser.cluster.ray_private import (
    check_temporary_folder,
    read_authentication_again,
    sift_worker_lines,
    stay_on_this_machine,
)


@contextmanager
def cluster() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, as a submitted job does, or start one; leave or end it after the block.

    A cluster that is started here has a dashboard, because Ray Train asks its state service which workers are gone.
    All of Ray's servers listen on loopback alone.

    Raises:
        UserError: Ray cannot make its sockets in the temporary folder.
    """
    if ray.is_initialized():
        yield
        return
    check_temporary_folder()
    address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local" and "RAY_AUTH_MODE" not in os.environ:
        # A token keeps other accounts out. Left to itself, ray.init() would write one into the home directory, and
        # every later `ray start` of this account would refuse whoever does not send it.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        read_authentication_again()
    with stay_on_this_machine(*free_ports(1)) if address == "local" else nullcontext(), _joined(address):
        yield


@contextmanager
def _joined(address: str) -> Iterator[None]:
    on_sigterm = signal.getsignal(signal.SIGTERM)  # `kill` and `ray job stop` send it; Ray replaces it by an abort
    ray.init(
        address=address, include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=True, logging_level="warning"
    )
    signal.signal(signal.SIGTERM, on_sigterm)
    sift_worker_lines(is_noise)
    try:
        yield
    finally:
        ray.shutdown()
