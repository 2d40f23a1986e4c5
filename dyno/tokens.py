"""Session tokens: Flask mints them, nginx hashes them, the Bokeh workers check them.

A token is Bokeh's own (`bokeh.util.token`): readable by whoever has it, changeable by nobody without BOKEH_SECRET_KEY.
"""

from __future__ import annotations

import calendar
import os
import time
import zlib
from collections.abc import Mapping, Sequence

from bokeh.util.token import (
    check_token_signature,
    generate_jwt_token,
    generate_session_id,
    get_session_id,
    get_token_payload,
)

MAX_BYTES = 24_000  # it is a header of the WebSocket's request, in which nginx allows a line of 32 kB
# names in a token's payload that Bokeh gives a meaning to
RESERVED = {"session_id", "session_expiry", "headers", "cookies", "arguments"}
APP = "bokeh_app"  # what a token's payload calls the app that it is for


def mint(
    lifetime: int,
    arguments: Mapping[str, Sequence[str]] | None = None,
    visitor: Mapping[str, object] | None = None,
    renews: str = "",
    app: str = "",
) -> str:
    """Return a signed token for a new session, or for that of the token `renews` if it was for the same visitor.

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
    payload = dict(visitor or {}) | ({APP: app} if app else {})
    # always there: without it Bokeh would take the arguments of whatever request opens the session
    payload["arguments"] = {name: [value.encode() for value in values] for name, values in (arguments or {}).items()}
    if set(payload["arguments"]) == {"bytes"}:
        payload["arguments"][""] = []  # Bokeh reads {"bytes": …} as bytes, and then cannot read its own token
    key = os.environ["BOKEH_SECRET_KEY"].encode()
    options = {"secret_key": key, "signed": True, "extra_payload": payload, "expiration": lifetime}
    token = generate_jwt_token(generate_session_id(secret_key=key, signed=True), **options)
    if renews and is_valid(renews, expired=True) and _carried(renews) == _carried(token):
        token = generate_jwt_token(get_session_id(renews), **options)
    if len(token) > MAX_BYTES:
        raise ValueError(f"arguments and visitor make a token of {len(token):,} bytes; {MAX_BYTES:,} are allowed")
    return token


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
