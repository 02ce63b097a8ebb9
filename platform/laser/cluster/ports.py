"""Ports for servers on this machine."""

import socket

from laser.errors import UserError


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody uses now. They are held open together, so that all of them differ."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken, or that this account may not take.

    Raises:
        UserError: says why.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, after one that has just ended
            probe.bind((host, port))
    except OSError as error:
        raise UserError(f"port: {host}:{port}: {error.strerror}; set another one") from error
