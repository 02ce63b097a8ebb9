"""Free ports for servers on loopback."""

import socket


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody uses now. They are held open together, so that all of them differ."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
