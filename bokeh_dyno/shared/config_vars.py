"""Every config var: its name, its default, what is allowed, and one sentence about it.

The one source of them; bokeh_dyno/shared/settings.py reads them. The table of docs/settings.md and the fallbacks in the
routing are tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bokeh_dyno.shared import allowed
from bokeh_dyno.shared.allowed import Setting


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
    allowed_hosts: tuple[str, ...] = _setting(
        "",
        "hosts, separated by commas, `*.` in front of one stands for any part",
        "The names that the site has; a request for another one is refused (421). Not set: any.",
        allowed.listed(rf"(\*\.)?({allowed.HOST})"),
    )
    maintenance: bool = _setting(
        "0",
        "0 or 1",
        "1 shows a page that says so (503) in the place of the site; /healthz and open plots go on.",
        allowed.switch,
    )
    max_upload_mb: int = _setting(
        "20",
        "MB, 1 to 10000",
        "What a visitor may send at once: a request's body, a message of an open plot; past it, 413.",
        allowed.whole(1, 10000),
    )
    request_timeout: int = _setting(
        "29",
        "seconds, 1 to 86400",
        "How long the site may take to answer a request; past it, 504 (the platform cuts at 30 s: H12).",
        allowed.whole(1, 86400),
    )
    content_security_policy: str = _setting(
        "on",
        "on, report or off",
        "Scripts run only when they are the site's own files or have its nonce; `report`: browsers only say so.",
        allowed.match("on|report|off"),
    )
    frame_ancestors: tuple[str, ...] = _setting(
        "self",
        "self, none, *, or sites such as https://a.example, separated by commas",
        "Who may show the pages in a frame; those of BOKEH_ALLOW_WS_ORIGIN may show the apps' own.",
        allowed.listed(rf"self|none|\*|https?://(\*\.)?({allowed.HOST})(:[0-9]{{1,5}})?"),
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
    stop_linger: int = _setting(
        "3",
        "seconds, 0 to 20",
        "How long a dyno that stops takes new requests, while /healthz is 503; longer than the router's check needs.",
        allowed.whole(0, 20),
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
        "A Bokeh worker that does nothing else for this long is replaced (see docs/state.md); 0: never.",
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
    log_format: str = _setting(
        "text",
        "text or json",
        "`json`: each event is one line, an object.",
        allowed.match("text|json"),
    )
    metrics_token: str = _setting(
        "",
        "16 to 200 characters without spaces",
        "Who asks /metrics with `Authorization: Bearer` and this one is answered.",
        allowed.match(r"([!-~]{16,200})?"),
        secret=True,
    )
    metrics_allow_ips: tuple[str, ...] = _setting(
        "127.0.0.1,::1",
        "`*`, or addresses and networks, separated by commas",
        "Who else is: visitors with these addresses.",
        allowed.addresses,
    )
    sentry_dsn: str = _setting(
        "",
        "an address of Sentry's: https://KEY@HOST/NUMBER",
        "Where unhandled errors are sent, of the site and of the apps; needs the package sentry-sdk.",
        allowed.match(r"(https?://[\w:-]+@[\w.:-]+(/[\w-]+)*/[0-9]+)?"),
        secret=True,
    )
    forwarded_allow_ips: tuple[str, ...] = _setting(
        "127.0.0.1,::1",
        "`*`, or addresses and networks, separated by commas",
        "Routers whose X-Forwarded-For is believed (the name is gunicorn's; Heroku sets `*`).",
        allowed.addresses,
    )
    real_ip_header: str = _setting(
        "X-Forwarded-For",
        "a header's name: letters, digits and `-`",
        "Where those routers write the visitor's address, as its last entry (the name is nginx's; see docs/platforms).",
        allowed.match(r"[A-Za-z][A-Za-z0-9-]{0,63}"),
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
