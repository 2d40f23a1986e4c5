"""Every config var: its name, its default, what is allowed, and one sentence about it.

The one source of them: the start script checks all at once before anything starts and hands the complete set on to
its children; the README's table and the fallbacks in `config/nginx.conf.erb` are tested against it.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class SettingsError(ValueError):
    """One or more config vars are wrong; the message has one line for each."""


class Setting(NamedTuple):
    """A config var.

    check returns the value as Python wants it, or raises ValueError; `allowed` completes "NAME=… is not allowed: …".
    """

    name: str
    default: str
    allowed: str
    about: str
    check: Callable[[str], object]
    secret: bool = False


def _whole(low: int, high: int) -> Callable[[str], int]:
    def check(text: str) -> int:
        # int() would take " 7", "+7", "1_000" and other alphabets' digits; nginx and gunicorn would not
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return check


def _match(pattern: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return check


def _switch(text: str) -> bool:
    return {"0": False, "1": True}[_match("[01]")(text)]


def _list(pattern: str) -> Callable[[str], tuple[str, ...]]:
    def check(text: str) -> tuple[str, ...]:
        parts = tuple(part.strip() for part in text.split(",")) if text else ()
        for part in parts:
            _match(pattern)(part)
        return parts

    return check


def _key(text: str) -> str:
    # what zlib can make much shorter is a word or a pattern, not a key; 14 bytes of what it returns are its frame
    if text and (len(text) < 32 or len(zlib.compress(text.encode(), 9)) - 14 < 16):
        raise ValueError
    return text


def _addresses(text: str) -> tuple[str, ...]:
    import ipaddress

    parts = _list(r"\S+")(text)
    for part in parts:
        if part != "*":
            ipaddress.ip_network(part, strict=False)  # raises a ValueError
    return parts


_HOST = r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\]"


def _upstreams(text: str) -> tuple[str, ...]:
    addresses = _list(rf"({_HOST}):[0-9]{{1,5}}")(text)
    for address in addresses:
        _whole(1, 65535)(address.rpartition(":")[2])
    return addresses


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("PORT", "5000", "a whole number, 1 to 65535", "The one port; nginx listens on it.", _whole(1, 65535)),
        Setting(
            "WEB_CONCURRENCY",
            "2",
            "a whole number, 0 to 64",
            "gunicorn's worker processes (the name is gunicorn's; Heroku sets it); 0: no site here, Bokeh alone.",
            _whole(0, 64),
        ),
        Setting(
            "BOKEH_WORKERS",
            "2",
            "a whole number, 1 to 64",
            "Processes of the Bokeh server, each on a unix socket of its own.",
            _whole(1, 64),
        ),
        Setting(
            "BOKEH_UPSTREAM",
            "",
            "HOST:PORT, separated by commas",
            "Dynos elsewhere that run the Bokeh apps; then no Bokeh worker is started here.",
            _upstreams,
        ),
        Setting(
            "BOKEH_PREFIX",
            "/bkapp",
            "a path of letters, digits, `_`, `.` and `-`, such as /bkapp or /a/b, not / and not ending in /",
            "Where the Bokeh apps live: nginx, the Bokeh server, the embedding pages and the static files follow.",
            _match(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9_.-]+)+"),
        ),
        Setting(
            "FORCE_HTTPS",
            "0",
            "0 or 1",
            "1 redirects http to https (308); the platform's router has to send X-Forwarded-Proto.",
            _switch,
        ),
        Setting(
            "RUN_DIR",
            "run",
            'a folder name without `"`, `$`, `;`, braces or line breaks, 80 characters at most',
            "Sockets and whatever else lives only as long as the dyno; relative to the project.",
            _match(r"[^\"$;{}\\\n\r\0]{1,80}"),
        ),
        Setting(
            "BOOT_TIMEOUT",
            "55",
            "seconds, 1 to 3600",
            "How long the backends may take to answer before the dyno gives up (the platform allows 60 s).",
            _whole(1, 3600),
        ),
        Setting(
            "BOKEH_WARM",
            "1",
            "0 or 1",
            "1 runs each app once before the port opens: no visitor waits for imports, and one that fails is named.",
            _switch,
        ),
        Setting(
            "BOKEH_HANG_TIMEOUT",
            "60",
            "seconds, 0 to 86400",
            "A Bokeh worker that does nothing else for this long is replaced (see Long work); 0: never.",
            _whole(0, 86400),
        ),
        Setting(
            "BOKEH_MAX_MEMORY",
            "0",
            "MB (resident), 0 to 1000000",
            "A Bokeh worker that grows above this is replaced, one at a time; 0: never.",
            _whole(0, 1000000),
        ),
        Setting(
            "BOKEH_MESSAGE_MEMORY",
            "200",
            "MB, 0 to 1000000",
            "What a visitor's messages may add to a Bokeh worker; past it, that session ends. 0: any amount.",
            _whole(0, 1000000),
        ),
        Setting(
            "BOKEH_MESSAGE_SECONDS",
            "2",
            "seconds, 0 to 3600",
            "CPU that reading one message may take, the app's callbacks not counted; past it, that session ends. 0: any.",
            _whole(0, 3600),
        ),
        Setting(
            "BOKEH_UNFINISHED_MEMORY",
            "64",
            "MB, 1 to 1000000",
            "What the messages that are still arriving may hold in a Bokeh worker, half of it for one address.",
            _whole(1, 1000000),
        ),
        Setting(
            "BOKEH_MAX_SESSIONS",
            "400",
            "a whole number, 1 to 1000000",
            "Sessions of a Bokeh worker; past it, a page says that it is full, and tries again by itself.",
            _whole(1, 1000000),
        ),
        Setting(
            "BOKEH_MAX_STARTS",
            "20",
            "a whole number, 1 to 10000",
            "Sessions that wait to be started in a Bokeh worker, a quarter of them of one address; past it, as above.",
            _whole(1, 10000),
        ),
        Setting(
            "VISITOR_SESSIONS",
            "100",
            "a whole number, 1 to 1000000",
            "Sessions of one address in a Bokeh worker.",
            _whole(1, 1000000),
        ),
        Setting(
            "VISITOR_CONNECTIONS",
            "500",
            "a whole number, 1 to 65536",
            "Requests and open plots of one address at a time; past it, 429.",
            _whole(1, 65536),
        ),
        Setting(
            "NGINX_WORKERS",
            "2",
            "a whole number, 1 to 64",
            "nginx's worker processes (the name is the nginx buildpack's).",
            _whole(1, 64),
        ),
        Setting(
            "NGINX_WORKER_CONNECTIONS",
            "6000",
            "a whole number, 32 to 65536",
            "Connections per nginx worker, those to the backends included.",
            _whole(32, 65536),
        ),
        Setting(
            "NGINX_ACCESS_LOG_PATH",
            "/dev/stdout",
            "a path without spaces, or `off`",
            "Where nginx logs requests.",
            _match(r"[^\s\"';{}$\\]+"),
        ),
        Setting(
            "NGINX_ERROR_LOG_PATH",
            "stderr",
            "a path without spaces, or `stderr`",
            "Where nginx logs what went wrong; in a file it names whole addresses, with what follows the `?`.",
            _match(r"[^\s\"';{}$\\]+"),
        ),
        Setting(
            "FORWARDED_ALLOW_IPS",
            "127.0.0.1,::1",
            "`*`, or addresses and networks, separated by commas",
            "Routers whose X-Forwarded-For is believed (the name is gunicorn's; Heroku sets `*`).",
            _addresses,
        ),
        Setting(
            "BOKEH_SESSIONS",
            "open",
            "open or flask",
            "`flask`: only sessions from a page of the site; the apps' own pages and autoload.js are refused (403).",
            _match("open|flask"),
        ),
        Setting(
            "BOKEH_RESOURCES",
            "",  # `server` would be what file_html() of the site's own takes, too
            "server or cdn",
            "`cdn`: pages load BokehJS from Bokeh's CDN, with integrity hashes, not from here (the name is Bokeh's).",
            _match("(server|cdn)?"),
        ),
        Setting(
            "BOKEH_SECRET_KEY",
            "",
            "32 characters or more, without a pattern: `python3 -c 'import secrets; print(secrets.token_hex(32))'` makes one",
            "Signs the sessions (the name is Bokeh's); without one, each boot makes its own.",
            _key,
            secret=True,
        ),
        Setting(
            "BOKEH_TOKEN_LIFETIME",
            "93600",
            "seconds, 60 to 31536000",
            "How long an open page may come back to its session, 26 hours: longer than a dyno lives.",
            _whole(60, 31536000),
        ),
        Setting(
            "BOKEH_ALLOW_WS_ORIGIN",
            "",
            "HOST or HOST:PORT, separated by commas, `*` as a part of a host stands for any",
            "Other sites that may embed the apps: their pages' hosts (the name and the syntax are Bokeh's).",
            _list(rf"(\*|(\*\.)?({_HOST}))(:([0-9]{{1,5}}|\*))?"),
        ),
        Setting(
            "BOKEH_PY_LOG_LEVEL",
            "info",
            "trace, debug, info, warning, error, critical, none",
            "How much the Bokeh server logs (the name is Bokeh's).",
            _match(r"(?i:trace|debug|info|warning|error|critical|none)"),
        ),
    )
}


def read(environ: Mapping[str, str] = os.environ) -> dict[str, object]:
    """Check every config var in `environ` and return {name: value}; an empty one counts as not set.

    Raises SettingsError with a line for each wrong one.
    """
    values: dict[str, object] = {}
    wrong = []
    for setting in SETTINGS.values():
        text = environ.get(setting.name, "") or setting.default
        try:
            values[setting.name] = setting.check(text)
        except ValueError:
            shown = f"of {len(text)} characters" if setting.secret else f"{text!r}"
            wrong.append(f"{setting.name}={shown} is not allowed: {setting.allowed}")
    if not wrong:
        wrong = _contradictions(values)
    if wrong:
        raise SettingsError("\n".join(wrong))
    return values


def _contradictions(values: dict[str, object]) -> list[str]:
    """Return a line for each pair of config vars that are right alone and wrong together."""
    wrong = []
    one_tier_of_two = "BOKEH_UPSTREAM" if values["BOKEH_UPSTREAM"] else "WEB_CONCURRENCY=0"
    if values["BOKEH_UPSTREAM"] and not values["WEB_CONCURRENCY"]:
        wrong.append("WEB_CONCURRENCY=0 is not allowed with BOKEH_UPSTREAM: neither Flask nor Bokeh would run here")
    if (values["BOKEH_UPSTREAM"] or not values["WEB_CONCURRENCY"]) and not values["BOKEH_SECRET_KEY"]:
        wrong.append(
            f"BOKEH_SECRET_KEY is not set: with {one_tier_of_two}, Flask's dynos and Bokeh's need the same one"
        )
    return wrong


def make_run_dir(values: Mapping[str, object]) -> Path:
    """Make RUN_DIR, which only its owner may enter: whoever reaches a socket in it speaks as nginx does. Return its path.

    Raises SettingsError when it cannot be, or is a folder that others use, such as /tmp.
    """
    path = Path(str(values["RUN_DIR"]))
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode
        if mode & 0o077:
            ours = ROOT in path.resolve().parents or (path / "lock").exists() or not any(path.iterdir())
            if mode & 0o002 or not ours:
                raise SettingsError(f"RUN_DIR={path} is a folder of others, too: name one that is for the dyno alone")
            path.chmod(0o700)
    except OSError as error:
        raise SettingsError(f"RUN_DIR={path} cannot be used: {error.strerror}") from error
    return path


def complete(environ: MutableMapping[str, str] = os.environ) -> None:
    """Fill the defaults in, for the children of the start script; drop what is empty, which Bokeh takes for a value."""
    for name, setting in SETTINGS.items():
        if text := environ.pop(name, "") or setting.default:
            environ[name] = text
    environ["BOKEH_SIGN_SESSIONS"] = "yes"  # for pull_session() in a view; read when Bokeh is imported


def misspelled(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return a line for each name in `environ` that is nearly, but not quite, that of a config var."""
    import difflib

    # Bokeh's own BOKEH_LOG_LEVEL is this near to BOKEH_PY_LOG_LEVEL: 0.91
    near = {name: difflib.get_close_matches(name, SETTINGS, 1, 0.93) for name in environ if name not in SETTINGS}
    return [f"{name} is no config var: {found[0]} is" for name, found in near.items() if found]


def table() -> str:
    """Return the README's table of settings, in Markdown."""
    rows = ["| config var | default | allowed | what it does |", "|---|---|---|---|"]
    for setting in SETTINGS.values():
        default = f"`{setting.default}`" if setting.default else "not set"
        rows.append(f"| `{setting.name}` | {default} | {setting.allowed} | {setting.about} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
