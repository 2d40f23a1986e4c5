"""Every config var: its name, its default, what is allowed, and one sentence about it.

The one source of them: the start script checks all at once before anything starts and hands the complete set on to
its children; the README's table and the fallbacks in the routing are tested against it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

from bokeh_dyno.shared import allowed

# the project that is served: the folder with config/, bokeh_app/ and the Procfiles
ROOT = Path(os.path.abspath(os.environ.get("DYNO_ROOT") or "."))  # which may be a link to what is there now


class SettingsError(ValueError):
    """One or more config vars are wrong; the message has one line for each."""


class Setting(NamedTuple):
    """A config var.

    check returns the value as Python wants it, or raises ValueError; `allowed` completes "NAME=… is not allowed: …".
    """

    default: str
    allowed: str
    about: str
    check: Callable[[str], object]
    secret: bool = False


def _setting(
    default: str, allowed: str, about: str, check: Callable[[str], object], *, secret: bool = False
) -> Any:  # what `check` returns, which the annotation of the field says
    return Setting(default, allowed, about, check, secret)


class Settings:
    """The config vars as Python wants them; an attribute has the name of its config var, in lower case. None changes.

    No dataclass: the import of that costs the start script, which has few others, 12 ms and 2 MB.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is a config var: what it is was said when the process began")

    port: int = _setting(
        "5000",
        "a whole number, 1 to 65535",
        "The one port; nginx listens on it.",
        allowed.whole(1, 65535),
    )
    web_concurrency: int = _setting(
        "2",
        "a whole number, 0 to 64",
        "gunicorn's worker processes (the name is gunicorn's; Heroku sets it); 0: no site here, Bokeh alone.",
        allowed.whole(0, 64),
    )
    bokeh_workers: int = _setting(
        "2",
        "a whole number, 1 to 64",
        "Processes of the Bokeh server, each on a unix socket of its own.",
        allowed.whole(1, 64),
    )
    bokeh_upstream: tuple[str, ...] = _setting(
        "",
        "HOST:PORT, separated by commas",
        "Dynos elsewhere that run the Bokeh apps; then no Bokeh worker is started here.",
        allowed.upstreams,
    )
    bokeh_prefix: str = _setting(
        "/bkapp",
        "a path of letters, digits, `_`, `.` and `-`, such as /bkapp or /a/b, not / and not ending in /",
        "Where the Bokeh apps live: nginx, the Bokeh server, the embedding pages and the static files follow.",
        allowed.match(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9_.-]+)+"),
    )
    force_https: bool = _setting(
        "0",
        "0 or 1",
        "1 redirects http to https (308); the platform's router has to send X-Forwarded-Proto.",
        allowed.switch,
    )
    run_dir: Path = _setting(
        "run",
        'a folder name without `"`, `$`, `;`, braces or line breaks, 80 characters at most',
        "Sockets and whatever else lives only as long as the dyno; relative to the project.",
        allowed.folder(r"[^\"$;{}\\\n\r\0]{1,80}"),
    )
    boot_timeout: int = _setting(
        "55",
        "seconds, 1 to 3600",
        "How long the backends may take to answer before the dyno gives up (the platform allows 60 s).",
        allowed.whole(1, 3600),
    )
    bokeh_warm: bool = _setting(
        "1",
        "0 or 1",
        "1 runs each app once before the port opens: no visitor waits for imports, and one that fails is named.",
        allowed.switch,
    )
    generation_lifetime: int = _setting(
        "3600",
        "seconds, 0 to 86400",
        "How long pages may stay with the generation that SIGUSR2 has replaced; then they come over, with their values.",
        allowed.whole(0, 86400),
    )
    bokeh_hang_timeout: int = _setting(
        "60",
        "seconds, 0 to 86400",
        "A Bokeh worker that does nothing else for this long is replaced (see Long work); 0: never.",
        allowed.whole(0, 86400),
    )
    bokeh_max_memory: int = _setting(
        "0",
        "MB (resident), 0 to 1000000",
        "A Bokeh worker that grows above this is replaced, one at a time; 0: never.",
        allowed.whole(0, 1000000),
    )
    bokeh_message_memory: int = _setting(
        "200",
        "MB, 0 to 1000000",
        "What a visitor's messages may add to a Bokeh worker; past it, that session ends. 0: any amount.",
        allowed.whole(0, 1000000),
    )
    bokeh_message_seconds: int = _setting(
        "2",
        "seconds, 0 to 3600",
        "CPU that reading one message may take, the app's callbacks not counted; past it, that session ends. 0: any.",
        allowed.whole(0, 3600),
    )
    bokeh_unfinished_memory: int = _setting(
        "64",
        "MB, 1 to 1000000",
        "What the messages that are still arriving may hold in a Bokeh worker, half of it for one address.",
        allowed.whole(1, 1000000),
    )
    bokeh_max_sessions: int = _setting(
        "400",
        "a whole number, 1 to 1000000",
        "Sessions of a Bokeh worker; past it, a page says that it is full, and tries again by itself.",
        allowed.whole(1, 1000000),
    )
    bokeh_max_starts: int = _setting(
        "20",
        "a whole number, 1 to 10000",
        "Sessions that wait to be started in a Bokeh worker, a quarter of them of one address; past it, as above.",
        allowed.whole(1, 10000),
    )
    visitor_sessions: int = _setting(
        "100",
        "a whole number, 1 to 1000000",
        "Sessions of one address in a Bokeh worker.",
        allowed.whole(1, 1000000),
    )
    visitor_connections: int = _setting(
        "500",
        "a whole number, 1 to 65536",
        "Requests and open plots of one address at a time; past it, 429.",
        allowed.whole(1, 65536),
    )
    nginx_workers: int = _setting(
        "2",
        "a whole number, 1 to 64",
        "nginx's worker processes (the name is the nginx buildpack's).",
        allowed.whole(1, 64),
    )
    nginx_worker_connections: int = _setting(
        "6000",
        "a whole number, 32 to 65536",
        "Connections per nginx worker, those to the backends included.",
        allowed.whole(32, 65536),
    )
    nginx_access_log_path: str = _setting(
        "/dev/stdout",
        "a path without spaces, or `off`",
        "Where nginx logs requests.",
        allowed.match(r"[^\s\"';{}$\\]+"),
    )
    nginx_error_log_path: str = _setting(
        "stderr",
        "a path without spaces, or `stderr`",
        "Where nginx logs what went wrong; in a file it names whole addresses, with what follows the `?`.",
        allowed.match(r"[^\s\"';{}$\\]+"),
    )
    forwarded_allow_ips: tuple[str, ...] = _setting(
        "127.0.0.1,::1",
        "`*`, or addresses and networks, separated by commas",
        "Routers whose X-Forwarded-For is believed (the name is gunicorn's; Heroku sets `*`).",
        allowed.addresses,
    )
    bokeh_sessions: str = _setting(
        "open",
        "open or flask",
        "`flask`: only sessions from a page of the site; the apps' own pages and autoload.js are refused (403).",
        allowed.match("open|flask"),
    )
    bokeh_resources: str = _setting(
        "",  # `server` would be what file_html() of the site's own takes, too
        "server or cdn",
        "`cdn`: pages load BokehJS from Bokeh's CDN, with integrity hashes, not from here (the name is Bokeh's).",
        allowed.match("(server|cdn)?"),
    )
    bokeh_secret_key: str = _setting(
        "",
        "32 characters or more, without a pattern: `python3 -c 'import secrets; print(secrets.token_hex(32))'` makes one",
        "Signs the sessions (the name is Bokeh's); without one, each boot makes its own.",
        allowed.key,
        secret=True,
    )
    bokeh_token_lifetime: int = _setting(
        "93600",
        "seconds, 60 to 31536000",
        "How long an open page may come back to its session, 26 hours: longer than a dyno lives.",
        allowed.whole(60, 31536000),
    )
    bokeh_allow_ws_origin: tuple[str, ...] = _setting(
        "",
        "HOST or HOST:PORT, separated by commas, `*` as a part of a host stands for any",
        "Other sites that may embed the apps: their pages' hosts (the name and the syntax are Bokeh's).",
        allowed.listed(rf"(\*|(\*\.)?({allowed.HOST}))(:([0-9]{{1,5}}|\*))?"),
    )
    bokeh_py_log_level: str = _setting(
        "info",
        "trace, debug, info, warning, error, critical, none",
        "How much the Bokeh server logs (the name is Bokeh's).",
        allowed.match(r"(?i:trace|debug|info|warning|error|critical|none)"),
    )


SETTINGS = {name.upper(): one for name, one in vars(Settings).items() if isinstance(one, Setting)}


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """Check every config var in `environ` and return their values; an empty one counts as not set.

    In a process of a generation (DYNO_GENERATION, bokeh_dyno/start/generation.py) run_dir is the folder of that one.
    Raises SettingsError with a line for each wrong one.
    """
    checked: dict[str, Any] = {}
    wrong = []
    for name, setting in SETTINGS.items():
        text = environ.get(name, "") or setting.default
        try:
            checked[name.lower()] = setting.check(text)
        except ValueError:
            shown = f"of {len(text)} characters" if setting.secret else f"{text!r}"
            wrong.append(f"{name}={shown} is not allowed: {setting.allowed}")
    if wrong:
        raise SettingsError("\n".join(wrong))
    if generation := environ.get("DYNO_GENERATION"):
        checked["run_dir"] /= generation
    values = Settings(checked)
    if wrong := _contradictions(values):
        raise SettingsError("\n".join(wrong))
    return values


def _contradictions(values: Settings) -> list[str]:
    """Return a line for each pair of config vars that are right alone and wrong together."""
    wrong = []
    one_tier_of_two = "BOKEH_UPSTREAM" if values.bokeh_upstream else "WEB_CONCURRENCY=0"
    if values.bokeh_upstream and not values.web_concurrency:
        wrong.append("WEB_CONCURRENCY=0 is not allowed with BOKEH_UPSTREAM: neither Flask nor Bokeh would run here")
    if (values.bokeh_upstream or not values.web_concurrency) and not values.bokeh_secret_key:
        wrong.append(
            f"BOKEH_SECRET_KEY is not set: with {one_tier_of_two}, Flask's dynos and Bokeh's need the same one"
        )
    return wrong


def complete(environ: MutableMapping[str, str] = os.environ) -> None:
    """Fill the defaults in, for the children of the start script; drop what is empty, which Bokeh takes for a value."""
    for name, setting in SETTINGS.items():
        if text := environ.pop(name, "") or setting.default:
            environ[name] = text
    environ["BOKEH_SIGN_SESSIONS"] = "yes"  # for pull_session() in a view; read when Bokeh is imported
