"""The options of `bokeh serve`: those that every worker has, and what may follow bokeh_dyno.bokeh in Procfile.dyno."""

from __future__ import annotations

import argparse
import os
from typing import NoReturn

from bokeh.command.subcommands.serve import Serve
from bokeh.settings import settings as bokeh_settings

from bokeh_dyno.bokeh import BokehError
from bokeh_dyno.shared.settings import Settings

# every option: nothing where it works here, or else what there is instead
IN_REQUEST = "not needed: no token has any; session_context.request has those of the request that opens the session"
HTTPS = "https ends at the platform's router: use that, or config/nginx.conf.erb"
OPTIONS = {
    "address": "use PORT, and `listen` in config/nginx.conf.erb",
    "allow_websocket_origin": "use BOKEH_ALLOW_WS_ORIGIN, which nginx reads",
    "args": "",
    "auth_module": "",
    "check_unused_sessions": "",
    "cookie_secret": "",
    "dev": "use bin/dev, in the place of bin/server",
    "disable_index": "",
    "disable_index_redirect": "",
    "enable_xsrf_cookies": "",
    "exclude_cookies": IN_REQUEST,
    "exclude_headers": IN_REQUEST,
    "files": "use bokeh_app/, where each folder and file is an app",
    "glob": "use bokeh_app/, where each folder and file is an app",
    "ico_path": "use a page /favicon.ico of the site",
    "include_cookies": IN_REQUEST,
    "include_headers": IN_REQUEST,
    "index": "use a page of the site",
    "keep_alive": "",
    "log_file": "",
    "log_format": "",
    "log_level": "",
    "mem_log_frequency": "",
    "num_procs": "use BOKEH_WORKERS",
    "port": "use PORT",
    "prefix": "use BOKEH_PREFIX",
    "session_ids": "use BOKEH_SECRET_KEY: all of them are signed",
    "session_token_expiration": "use BOKEH_TOKEN_LIFETIME",
    "show": "use `bin/dev --open`, or a browser: the log names the address",
    "ssl_certfile": HTTPS,
    "ssl_keyfile": HTTPS,
    "stats_log_frequency": "",
    "unix_socket": "use RUN_DIR, where the sockets are",
    "unused_session_lifetime": "",
    "use_config": "use Bokeh's own config vars, BOKEH_…: Flask reads them, too",
    "use_xheaders": "",
    "websocket_compression_level": "",
    "websocket_compression_mem_level": "",
    "websocket_max_message_size": "",
}


def ours(values: Settings) -> list[str]:
    """Return the options of every worker, given the settings; each puts its number where {number} stands."""
    return [
        "--unix-socket", os.path.join(values.run_dir, "bokeh.{number}.sock"),
        "--prefix", values.bokeh_prefix,
        # it names all apps, also those behind a login, and asks other hosts for fonts
        "--disable-index",
        # only sessions with a token that we signed; see bokeh_dyno/bokeh/gate.py
        "--session-ids", "external-signed",
        # the scheme and the address that nginx passes on
        "--use-xheaders",
        # a token is readable by whoever has it: the visitor's headers and cookies stay out of it
        "--include-headers", "Host", "--include-cookies", "none",
        # a visitor whose network was gone for two minutes finds everything as it was (Bokeh's default is 15 s); looked
        # for every second, for gate.Room lets some end earlier
        "--unused-session-lifetime", "180000",
        "--check-unused-sessions", "1000",
        # Level 1: most of what there is to gain, for the least CPU (bench/RESULTS.md, WebSocket compression)
        "--websocket-compression-level", "1",
        # of a message, as nginx has it of a request's body
        "--websocket-max-message-size", str(values.max_upload_mb << 20),
        "--log-format", "%(levelname)s [worker {number}] %(message)s",
    ]  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BokehError(f"Procfile.dyno: what follows bokeh_dyno.bokeh are options of `bokeh serve`: {message}")


def parse(values: Settings, further: list[str]) -> argparse.Namespace:
    """Return the options of the workers, given the settings, with `further` ones added, those of Procfile.dyno.

    Raises BokehError when something in further is no option of `bokeh serve`, or one that has no place here.
    """
    parser = _Parser(prog="python -m bokeh_dyno.bokeh")
    Serve(parser=parser)
    refused = {name: instead for name, instead in OPTIONS.items() if instead}
    # without their defaults, which nobody has given
    given = vars(parser.parse_args(further, argparse.Namespace(**dict.fromkeys(refused))))
    for name, instead in refused.items():
        if name == "files" and given[name]:
            raise BokehError(f"Procfile.dyno: {given[name][0]}: {instead}")
        if name != "files" and given[name] is not None:
            raise BokehError(f"Procfile.dyno: --{name.replace('_', '-')}: {instead}")
    module = bokeh_settings.auth_module(given["auth_module"])
    if module and not os.path.isfile(module):
        raise BokehError(f"Procfile.dyno: --auth-module {module}: there is no such file")
    return parser.parse_args([*ours(values), *further])
