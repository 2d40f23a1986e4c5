"""The one port: held from the first moment on, for nginx to have once the site works."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from bokeh_dyno.shared.settings import SettingsError


def hold(port: int) -> list[socket.socket]:
    """Return sockets that have `port` but do not listen; close them for nginx. Raises SettingsError when nginx cannot have it.

    Nobody else gets the port meanwhile, not even `nginx -t`, which would listen for a moment: a platform's router takes
    that for a dyno that is ready. (nginx -t minds no port that is taken; it is made for a running nginx.)
    """
    held = [_bound(port, socket.AF_INET, "0.0.0.0")]
    if _has_ipv6():
        held.append(_bound(port, socket.AF_INET6, "::"))
    return held


def _bound(port: int, family: int, address: str) -> socket.socket:
    held = socket.socket(family)
    if family == socket.AF_INET6:
        held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # whatever connections the last dyno left
    try:
        held.bind((address, port))
    except PermissionError as error:
        raise SettingsError(f"PORT={port} needs root or the right to ports below 1024: use 1024 or above") from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise SettingsError(f"PORT={port} cannot be listened on: {error.strerror}") from error
        raise SettingsError(f"PORT={port} is taken by another program: stop it or set PORT to another one") from error
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # or others could share it
    return held


def _has_ipv6() -> bool:
    """Return whether this machine has an address of that kind, as `listen` in routing.rb asks."""
    try:
        return bool(Path("/proc/net/if_inet6").read_text())
    except OSError:
        return not os.path.isdir("/proc/net")


def listens(port: int) -> bool:
    """Return whether something listens on `port`."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
