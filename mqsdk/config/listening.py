"""Addresses to listen at: `host:port`."""

from __future__ import annotations

import ipaddress


def address_of(listen: str) -> tuple[str, int]:
    """(host without brackets, port) of `127.0.0.1:9464`, `[::1]:9464` or `localhost:9464`. Raises ValueError."""
    host, colon, port = listen.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in bare) != host.startswith("[") or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError("must be host:port, for example 127.0.0.1:9464 or [::1]:9464")
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can ask. A name other than `localhost` may lead anywhere."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
