"""Unhandled errors, handed to an error tracker: SENTRY_DSN, by the package sentry-sdk, which is imported for nothing else.

What is sent is what is logged of an error, discreet as that is (bokeh_dyno/shared/log.py): no arguments of an address, no
cookies, no tokens, no local variables, nothing that a visitor has sent.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

from bokeh_dyno.shared.settings import Settings, SettingsError

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

HEADERS = {"host", "user-agent", "x-request-id", "content-type", "content-length"}  # of a request, that are sent
_is_on = False


def check(values: Settings) -> None:
    """Raise SettingsError when errors are to be sent and the package is not there."""
    if values.sentry_dsn and importlib.util.find_spec("sentry_sdk") is None:
        raise SettingsError("SENTRY_DSN is set, and Python has no package sentry-sdk: add it to requirements.txt")


def start(values: Settings) -> None:
    """Send this process's unhandled errors from now on, if that is wanted. After the fork, for threads do that."""
    global _is_on
    if not values.sentry_dsn:
        return
    import sentry_sdk
    from sentry_sdk.integrations.atexit import AtexitIntegration
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration
    from sentry_sdk.integrations.flask import FlaskIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration

    _is_on = True
    sentry_sdk.init(
        dsn=values.sentry_dsn,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            AtexitIntegration(callback=lambda *_: None),  # which would print that it still sends some
            ExcepthookIntegration(),
            FlaskIntegration(),
            LoggingIntegration(),  # an error that is logged with its traceback; see _before_send
        ],
        release=os.environ.get("HEROKU_SLUG_COMMIT") or None,
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        before_send=_before_send,
        shutdown_timeout=1,
    )


def capture(error: BaseException, where: str) -> None:
    """Send an error of "site" or "bokeh_app/NAME", if errors are sent; the same one again is none more."""
    if not _is_on:
        return
    import sentry_sdk

    with sentry_sdk.new_scope() as scope:
        scope.set_tag("where", where)
        scope.capture_exception(error)


def _before_send(event: Event, hint: Hint) -> Event | None:
    """Return what is sent of an event; nothing of a line that is logged without an error that was raised, or once more."""
    from bokeh_dyno.shared.log import REQUEST_ID, SESSION

    error = (hint.get("exc_info") or (None, None))[1]
    if error is None or getattr(error, "_is_sent", False):
        return None
    with contextlib.suppress(AttributeError):
        error._is_sent = True  # it is captured where it is raised, and logged further up
    tags: dict[str, Any] = {"request_id": REQUEST_ID.get(), "session": SESSION.get()}
    request: Any = event.get("request")
    if request:
        request["headers"] = {
            name: text for name, text in request.get("headers", {}).items() if name.lower() in HEADERS
        }
        for name in ("query_string", "cookies", "data", "env"):
            request.pop(name, None)
    for value in (event.get("exception") or {}).get("values", []):
        value["mechanism"] = {**(value.get("mechanism") or {"type": "generic"}), "handled": False}
    event["tags"] = {**(event.get("tags") or {}), **{name: text for name, text in tags.items() if text}}
    return _discreet(event)


def _discreet(value: Any) -> Any:
    from bokeh_dyno.shared.log import discreet

    if isinstance(value, str):
        return discreet(value)
    if isinstance(value, dict):
        return {name: _discreet(one) for name, one in value.items()}
    return [_discreet(one) for one in value] if isinstance(value, list | tuple) else value
