"""Every name of Bokeh's own inside that the dyno relies upon, and what is off where one of them has changed.

Any version of Bokeh may change them. So each is looked at before it is used: what is called, overridden or wrapped, by the
names of its parameters; what is replaced, by its source, for a replacement does what that very code does. Where one is
not as expected, what needs it is off: that costs speed or a limit, and a line in the log, but never a page.

For a version that is new, `python -m bokeh_dyno.shared.private` prints what it has changed. tests/test_private.py has a
dyno do without each. What bokeh_dyno/page/page.js needs of BokehJS stands at its head.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


def _folder() -> Path:
    """Return the folder of the installed bokeh package, without importing it."""
    spec = importlib.util.find_spec("bokeh")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'bokeh'", name="bokeh")
    return Path(spec.submodule_search_locations[0])


OLDEST, NEWEST = (3, 9), (3, 10)  # of the versions of Bokeh that this was written for
FOLDER = _folder()
IN_THREADS = (FOLDER / "util" / "asyncio.py").exists()  # that is how Bokeh calls callbacks, from 3.10 on
PINS = "bokeh==3.10.2" if sys.version_info >= (3, 12) else "bokeh==3.9.2"


class VersionError(RuntimeError):
    """This version of Bokeh cannot be used; the message says which can."""


class Use(NamedTuple):
    """What is made of private names, and what the site does without where one of them has changed.

    A name is "module:name", with what is expected of it: its parameters, separated by spaces; or, with a # before each, the
    digests of its source in the versions that are known; or nothing, when it only has to be there.
    """

    without: str  # follows "off: " in the log
    names: Mapping[str, str]


HANDLER, TORNADO = "bokeh.server.views.ws:WSHandler", "tornado.websocket:WebSocketProtocol13"
USES = {
    "defaults": Use(  # bokeh_dyno/bokeh/properties.py
        "the defaults of models worked out once, so that a view costs up to twice the CPU",
        {
            "bokeh.core.has_props:HasProps.query_properties_with_values": "#e864a09d",
            "bokeh.core.has_props:HasProps.themed_values": "#668c1fc0",
            "bokeh.core.has_props:HasProps._overridden_defaults": "#c3b1c82a #ec9e67e2",
            "bokeh.core.property.bases:Property.__init__": "#3eafb45f",  # sets _default
            "bokeh.core.property.descriptors:PropertyDescriptor.has_unstable_default": "#5508a373 #2d569c98",
            "bokeh.core.property.singletons:Undefined": "",
            "bokeh.core.property.wrappers:PropertyValueContainer": "",
        },
    ),
    "ends": Use(  # bokeh_dyno/bokeh/worker.py
        "one collection of garbage for many sessions, so that 300 that end together stop a worker for half a minute",
        {
            "bokeh.core.has_props:_default_resolver.remove": "",
            "bokeh.document.document:gc": "",
            "bokeh.document.modules:DocumentModuleManager.destroy": "#da2ebe2e #ff028bac",
        },
    ),
    "reading": Use(  # bokeh_dyno/bokeh/reading.py
        "limits on what a message holds: BOKEH_MESSAGE_MEMORY and BOKEH_MESSAGE_SECONDS",
        {
            "bokeh.core.property.visual:Image.transform": "self value",
            "bokeh.core.serialization:Deserializer.decode": "self obj buffers",
            "bokeh.core.serialization:gzip": "",
            "bokeh.protocol.message:Message.__repr__": "self",
        },
    ),
    "applying": Use(  # bokeh_dyno/bokeh/reading.py
        "the same limits while a message is applied",
        {
            "bokeh.document.callbacks:invoke_with_curdoc": "doc f",
            "bokeh.protocol.messages.patch_doc:invoke_with_curdoc": "doc f",
            **({"bokeh.server.session:_run_in_executor": "func args kwargs"} if IN_THREADS else {}),
        },
    ),
    "faults": Use(  # bokeh_dyno/bokeh/faults.py
        "sys.exit() in a callback as an error of its app alone, and the seconds of callbacks in /metrics",
        {"bokeh.document.callbacks:invoke_with_curdoc": "doc f"},
    ),
    "errors": Use(  # bokeh_dyno/bokeh/app.py
        "the errors of an app's main.py for SENTRY_DSN",
        {"bokeh.application.handlers.code_runner:handle_exception": "handler e"},
    ),
    "requests": Use(  # bokeh_dyno/bokeh/faults.py
        "process_request of app_hooks.py",
        {
            "bokeh.server.contexts:BokehSessionContext.token_payload": "",  # of its _token
            "bokeh.server.contexts:_RequestProxy.__init__": "self request arguments cookies headers",  # sets _request
        },
    ),
    "ids": Use(  # bokeh_dyno/shared/tokens.py
        "the choice of the least busy worker for a new session, and server_session()",
        {"bokeh.util.token:_signature": "base_id secret_key"},
    ),
    "websocket": Use(  # bokeh_dyno/bokeh/websocket.py
        "the document that comes without being asked for, BOKEH_MAX_SESSIONS and BOKEH_UNFINISHED_MEMORY",
        {
            "bokeh.server.urls:per_app_patterns": "",
            f"{HANDLER}._async_open": "self token",
            f"{HANDLER}._handle": "self message",
            f"{HANDLER}._internal_error": "self message",
            f"{HANDLER}._protocol_error": "self message",
            f"{HANDLER}._receive": "self fragment",
            f"{HANDLER}.send_message": "self message",
            f"{HANDLER}.write_message": "self message binary locked",
            f"{TORNADO}._abort": "self",
            f"{TORNADO}._read_bytes": "self n",
            f"{TORNADO}._receive_frame": "self",
            f"{TORNADO}._write_frame": "self fin opcode data flags",
            f"{TORNADO}.write_message": "self message binary",
        },
    ),
    "scripts": Use(  # bokeh_dyno/page/needs.py
        "only the scripts that a page needs, BOKEH_RESOURCES=cdn and models of an app's own",
        {
            "bokeh.embed.bundle:Bundle.__init__": "self js_files js_raw css_files css_raw hashes",
            "bokeh.embed.bundle:bundle_for_objs_and_resources": "objs resources",
            "bokeh.embed.bundle:extension_dirs": "",
            "bokeh.resources:Resources._resolve": "self kind",
        },
    ),
    "pages": Use(  # bokeh_dyno/bokeh/own_page.py
        "the recovery of the apps' own pages",
        {
            "bokeh.embed.bundle:bundle_models": "models",
            "bokeh.embed.elements:html_page_for_render_items": "#ee58406a #b64b6c95",
            "bokeh.embed.server:bundle_for_objs_and_resources": "objs resources",
        },
    ),
    "warm": Use(  # bokeh_dyno/bokeh/__main__.py
        "the run of each app before the port opens",
        {
            "bokeh.embed.server:server_html_page_for_session": "session resources title template template_variables",
            "bokeh.server.contexts:ApplicationContext.create_session_if_needed": "self session_id request token",
            "bokeh.server.contexts:ApplicationContext._discard_session": "self session should_discard",
            "bokeh.server.session:ServerSession.expiration_blocked": "",
            "bokeh.server.session:ServerSession.with_document_locked": "",
        },
    ),
}


def check_version(version: str = "") -> None:
    """Raise VersionError when the installed bokeh package, or the `version` given, is too old for this."""
    version = version or _installed()
    if _minor(version) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise VersionError(f"Bokeh {version} is too old, {oldest} is needed: write {PINS} into requirements.txt")


def _installed() -> str:
    for info in FOLDER.parent.glob("bokeh-*.dist-info"):
        return info.name.removeprefix("bokeh-").removesuffix(".dist-info")
    return importlib.import_module("bokeh").__version__


def warning(version: str) -> str:
    """Return what the log should say of this version of Bokeh, in one line; nothing when all is as it should be."""
    off = [use.without for name, use in USES.items() if not has(name)]
    newer = _minor(version) > NEWEST
    if not newer and not off:
        return ""
    what = f"warning: Bokeh {version} is " + (
        f"newer than {'.'.join(map(str, NEWEST))}, the newest that is known here" if newer else "not as expected"
    )
    return f"{what}; off: {'; '.join(off) or 'nothing'}"


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


@functools.cache
def has(use: str) -> bool:
    """Return whether all names that a use of USES needs are as expected."""
    return all(_is(name, expected) for name, expected in USES[use].names.items())


def find(name: str) -> Any:
    """Return what has this name, "module:name"; of a class method, its function."""
    import inspect  # not at once: the start script asks for the version only

    module, _, path = name.partition(":")
    thing = importlib.import_module(module)
    for part in path.split("."):
        thing = inspect.getattr_static(thing, part)
    return getattr(thing, "__func__", thing)


def replace(name: str, by: object) -> Any:
    """Put `by` in the place of what has this name; return what was there, as `find` does."""
    before = find(name)
    module, _, path = name.partition(":")
    *owners, last = path.split(".")
    setattr(functools.reduce(getattr, owners, importlib.import_module(module)), last, by)
    return before


def _is(name: str, expected: str) -> bool:
    import inspect

    try:
        thing = find(name)
        if expected.startswith("#"):
            return _digest(thing) in expected.split()
        return not expected or " ".join(inspect.signature(thing).parameters) == expected
    except (ImportError, AttributeError, OSError, TypeError, ValueError):  # gone, without a source, no function
        return False


def _digest(function: Callable[..., object]) -> str:
    import inspect

    return "#" + hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:8]


def _print_table() -> None:
    import inspect

    for use in USES.values():
        for name, expected in use.names.items():
            try:
                thing = find(name)
                now = f"{_digest(thing)} ({' '.join(inspect.signature(thing).parameters)})"
            except (ImportError, AttributeError) as error:
                now = str(error)
            except (OSError, TypeError, ValueError):
                now = "is there"
            print(f"{'as expected' if _is(name, expected) else 'CHANGED    '} {name} {now}")


if __name__ == "__main__":
    _print_table()
