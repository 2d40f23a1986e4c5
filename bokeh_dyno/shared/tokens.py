"""Session tokens: Flask mints them, nginx hashes them, the Bokeh workers check them.

A token is Bokeh's own (`bokeh.util.token`): readable by whoever has it, changeable by nobody without BOKEH_SECRET_KEY.
"""

from __future__ import annotations

import base64
import calendar
import functools
import os
import secrets
import time
import zlib
from collections.abc import Mapping, Sequence

from bokeh.core.types import ID
from bokeh.util import token as bokeh_token
from bokeh.util.token import (
    check_session_id_signature,
    check_token_signature,
    generate_jwt_token,
    generate_session_id,
    get_session_id,
    get_token_payload,
)

from bokeh_dyno.shared import private

MAX_BYTES = 24_000  # it is a header of the WebSocket's request, in which nginx allows a line of 32 kB
# names in a token's payload that Bokeh gives a meaning to
RESERVED = {"session_id", "session_expiry", "headers", "cookies", "arguments"}
APP = "bokeh_app"  # what a token's payload calls the app that it is for
OURS = "_"  # how the ids of sessions begin that are made here: such an id opens nothing without its token


def mint(
    lifetime: int,
    arguments: Mapping[str, Sequence[str]] | None = None,
    visitor: Mapping[str, object] | None = None,
    renews: str = "",
    app: str = "",
    session_id: str = "",
) -> str:
    """Return a signed token for a new session, or for that of the token `renews` if it was for the same visitor.

    Or for `session_id`, as `new_id` makes them and `is_foreign_id` allows.
    It is good for the app of that name only, or for any when app is empty. lifetime is in seconds. arguments arrive as
    `session_context.request.arguments` ({name: [bytes, …]}), the items of visitor in `session_context.token_payload`.
    Raises ValueError when visitor uses a name of Bokeh's own or all of it is too long, TypeError when something in visitor
    is not JSON, or in arguments not text.
    """
    if taken := (RESERVED | {APP}) & set(visitor or {}):
        raise ValueError(f"visitor may not contain {', '.join(sorted(taken))}: Bokeh uses that itself")
    for name, values in (arguments or {}).items():
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise TypeError(f"arguments are text, and {name}={wrong[0]!r} is not: write {str(wrong[0])!r}")
    # always there: without it Bokeh would take the arguments of whatever request opens the session
    carried = {name: [value.encode() for value in values] for name, values in (arguments or {}).items()}
    if set(carried) == {"bytes"}:
        carried[""] = []  # Bokeh reads {"bytes": …} as bytes, and then cannot read its own token
    key = os.environ["BOKEH_SECRET_KEY"].encode()
    payload = dict(visitor or {}) | ({APP: app} if app else {}) | {"arguments": carried}
    sign = functools.partial(
        generate_jwt_token, secret_key=key, signed=True, extra_payload=payload, expiration=lifetime
    )
    token = sign(ID(session_id or new_id()))
    if renews and is_valid(renews, expired=True) and _carried(renews) == _carried(token):
        token = sign(get_session_id(renews))
    if len(token) > MAX_BYTES:
        raise ValueError(f"arguments and visitor make a token of {len(token):,} bytes; {MAX_BYTES:,} are allowed")
    return token


def new_id(worker: int = 0, workers: int = 1) -> str:
    """Return a signed id for a session; with worker, from 1, one by which nginx chooses that of so many.

    The generation of this process is in it, too: three of its characters are six bits each of four of the token's, which
    nginx sees ($bokeh in bokeh_dyno/start/routing/http.conf.erb).
    """
    key = os.environ["BOKEH_SECRET_KEY"].encode()
    if not private.has("ids"):
        return generate_session_id(secret_key=key, signed=True)
    generation = os.environ.get("DYNO_GENERATION", "")
    while True:
        name = OURS + secrets.token_urlsafe(32)  # 44 characters, as Bokeh's
        if generation:
            name = f"{name[:2]}{generation}{name[5:]}"
        if worker == 0 or worker_of(name, workers) == worker:
            return f"{name}.{bokeh_token._signature(name, key)}"


def generation_of(token: str) -> str:
    """Return the name of the generation that the session of `token` was made for, here or on another dyno."""
    session_id = get_session_id(token)
    return session_id[2:5] if session_id.startswith(OURS) else ""


def worker_of(session_id: str, workers: int) -> int:
    """Return the number of the worker, from 1, that nginx's `hash` chooses of so many by the beginning of a token.

    See $session in config/nginx.conf.erb, and ngx_http_upstream_hash_module.c.
    """
    start = base64.urlsafe_b64encode(f'{{"session_id": "{session_id[:44]}'.encode())
    return (zlib.crc32(start) >> 16 & 0x7FFF) % workers + 1


def is_foreign_id(session_id: str) -> bool:
    """Return whether `session_id` was signed with our key, but not made here: by Bokeh's client, for example.

    Of ours a visitor has one in each token, which may have expired, or be for another app.
    """
    if not private.has("ids") or session_id.startswith(OURS) or not session_id.isascii() or len(session_id) > 200:
        return False
    return check_session_id_signature(session_id, secret_key=os.environ["BOKEH_SECRET_KEY"].encode(), signed=True)


def extend(token: str, values: Mapping[str, object]) -> str:
    """Return `token` with values in its payload, too. Raises TypeError when something in values is not JSON."""
    key = os.environ["BOKEH_SECRET_KEY"].encode()
    payload = {**get_token_payload(token), **values}
    return generate_jwt_token(get_session_id(token), secret_key=key, signed=True, extra_payload=payload)


def is_valid(token: str, app: str = "", expired: bool = False) -> bool:
    """Return whether `token` was signed with our key and (unless `expired` is allowed) is still good for a session.

    With app, whether it is good for the app of that name: a page with one app opens no other.

    False, never an error, for anything else.
    """
    try:
        if not check_token_signature(token, secret_key=os.environ["BOKEH_SECRET_KEY"].encode(), signed=True):
            return False
        payload = get_token_payload(token)
        if app and payload.get(APP, app) != app:
            return False
        return expired or calendar.timegm(time.gmtime()) < payload["session_expiry"]
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError, zlib.error):
        return False


def _carried(token: str) -> dict[str, object]:
    """Return what `token` says of the visitor: all but when it expires."""
    return {name: value for name, value in get_token_payload(token).items() if name != "session_expiry"}
