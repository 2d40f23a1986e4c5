"""The `bokeh` process: imports everything once, runs every app once, then forks the workers (dyno/master.py).

Each worker (dyno/worker.py) is `bokeh serve` on a unix socket of its own, run/bokeh.N.sock; what follows
`python -m dyno.bokeh` in the Procfile is passed to `bokeh serve`. Sessions live in one process, so nginx sends a session
to the worker that has it.
"""
# ruff: noqa: E402 (two things have to come before the imports)

from __future__ import annotations

import gc

gc.disable()  # until everything is imported: collecting after every few hundred of Bokeh's classes costs a sixth of it

import asyncio
import json
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__":
    from dyno import buildpack, idle, private
    from dyno.log import print_whole_lines

    print_whole_lines()  # before the imports, for logging takes what sys.stderr is then
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of an interrupted import
    buildpack.stand_in()
    if os.environ.get("BOKEH_UPSTREAM"):
        sys.exit(idle.main())
    try:
        private.check_version()
    except private.VersionError as error:
        sys.exit(f"error: {error}")

# A worker is one of several processes and serves many visitors: threads of numpy's linear algebra would fight for the
# cores, and they do not survive the fork. Set the variable yourself to have them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import bokeh
import numpy.ma  # noqa: F401 (Bokeh imports it for the first array, which makes cycles that hold on to the app's module)
import psutil
from bokeh.application import Application
from bokeh.application.handlers.handler import Handler
from bokeh.resources import Resources
from bokeh.server.contexts import ApplicationContext
from bokeh.server.views.static_handler import StaticHandler
from bokeh.util.token import get_session_id
from jinja2 import Template
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.ioloop import IOLoop

from dyno import apps, private, settings, static, tokens
from dyno.faults import AppHandler, Faults
from dyno.log import one_line
from dyno.master import BokehError, Master
from dyno.reading import Memory
from dyno.worker import Worker

if private.has("defaults"):
    import dyno.properties  # noqa: F401 (for its effect)


class _PageScript(Handler):
    """Has dyno/page.js show an app's own page, whatever its template, as it shows an app in a page of the site.

    It takes the place of Bokeh's script, and only the parts of BokehJS that the document needs that of all.
    """

    TEMPLATE = Template("""
{%- extends app_page -%}
{%- set needed = scripts() -%}
{%- set bokeh_js -%}
<script src="{{ page_script }}" data-bokeh-app="{{ app_path }}" data-bokeh-token="{{ doc.token }}"
  data-bokeh-roots="{{ roots | map(attribute="elementid") | join(" ") }}"
  data-bokeh-later="{{ all_scripts | reject("in", needed) | list | tojson | forceescape }}"></script>
{%- for script in needed %}
<script{{ script | xmlattr }}></script>
{%- endfor %}
{%- endset -%}
{%- set plot_script = "" -%}
""")

    def __init__(self, values: Mapping[str, object], path: str, all_scripts: list[dict[str, str]]) -> None:
        super().__init__()
        self._values = values
        self._variables = {
            "app_path": path,
            "page_script": f"{values['BOKEH_PREFIX']}/static/{static.versioned(static.PAGE_SCRIPT_NAME)}",
            "all_scripts": all_scripts,
        }

    def modify_document(self, doc) -> None:
        this = weakref.ref(doc)  # a reference to it from itself would keep it until the garbage collector comes
        doc.template_variables.update(
            self._variables, scripts=lambda: static.scripts(self._values, this()), app_page=doc.template
        )
        doc.template = self.TEMPLATE


def load(
    values: Mapping[str, object], faults: Faults
) -> tuple[dict[str, Application], dict[str, list[dict[str, str]]]]:
    """Make every app and run it once: the workers share its imports, and the first visitor waits for none.

    Returns the applications by their path, and by app name the scripts that its document needs (by "": all of BokehJS).
    Raises BokehError, naming the file and the line, when an app cannot run. Meanwhile RUN_DIR/trying holds the app's
    name, for the start script to tell which one never ends, or ends the process. With BOKEH_WARM=0 none is run.
    """
    applications, scripts = {}, {"": static.scripts(values)}
    for path in (static.source() / "js").glob("*.min.js"):
        StaticHandler.append_version(f"js/{path.name}")  # Bokeh hashes each once; before the fork, it is done for all
    prefix, trying = values["BOKEH_PREFIX"], Path(str(values["RUN_DIR"]), "trying")
    for number, (name, folder) in enumerate(zip(apps.names(), apps.folders(), strict=True), 1):
        trying.write_text(name)
        try:
            handlers = [AppHandler(folder, faults, number)]
            if private.has("pages"):
                handlers.append(_PageScript(values, f"{prefix}/{name}", scripts[""]))
            applications[f"/{name}"] = application = Application(*handlers)
            # with hooks, on_server_loaded would come first, and what it starts (threads) does not survive the fork
            has_hooks = any((folder / hooks).exists() for hooks in ("app_hooks.py", "server_lifecycle.py"))
            if values["BOKEH_WARM"] and not has_hooks and private.has("warm"):
                before = threading.enumerate()
                scripts[name] = asyncio.run(_try(application, name, values))
                if left := [thread.name for thread in threading.enumerate() if thread not in before]:
                    print(
                        f"bokeh_app/{name} has started {left[0]}, which the workers are forked without: "
                        "BOKEH_WARM=0 if they need it", flush=True,
                    )  # fmt: skip
        except (Exception, SystemExit) as error:  # a file in another encoding, say
            raise BokehError(f"bokeh_app/{name} cannot run: {one_line(traceback.format_exc())}") from error
        finally:
            trying.unlink()
        for handler in application.handlers:
            if handler.failed:
                raise BokehError(f"bokeh_app/{name} cannot run: {one_line(handler.error_detail or handler.error)}")
    return applications, scripts


async def _try(application: Application, name: str, values: Mapping[str, object]) -> list[dict[str, str]]:
    from bokeh.embed.server import server_html_page_for_session

    context = ApplicationContext(application, io_loop=IOLoop.current(), url=f"/{name}")
    application.on_server_loaded(context.server_context)
    token = tokens.mint(60)
    start_line = RequestStartLine("GET", f"/{name}", "HTTP/1.1")
    headers = HTTPHeaders({"Host": "localhost"})
    request = HTTPServerRequest(start_line=start_line, headers=headers, connection=_NoConnection())
    session = await context.create_session_if_needed(get_session_id(token), request, token)
    scripts = static.scripts(values, session.document)
    document = session.document
    document.to_json()
    # its own page, whose template may fail
    server_html_page_for_session(session, Resources("server"), name, document.template, document.template_variables)
    session.destroy()
    return scripts


class _NoConnection:
    context = None


def main(arguments: list[str]) -> int:
    """Run the Bokeh server until it is told to stop; arguments are further options of `bokeh serve`."""
    try:
        values = settings.read()
        apps.check()
        run_dir = settings.make_run_dir(values)
        static.link(run_dir)
        (run_dir / "bokeh.pid").write_text(str(os.getpid()))
        faults = Faults(apps.names(), int(values["BOKEH_WORKERS"]))
        if line := private.warning(bokeh.__version__):
            print(line, flush=True)
        applications, scripts = load(values, faults)
        if values["BOKEH_WARM"]:
            # Bokeh's checks of each document, which only log, have had their say: they are a tenth of a view's CPU
            os.environ.setdefault("BOKEH_VALIDATE_DOC", "0")
        (run_dir / "scripts.json").write_text(json.dumps(scripts))
        gc.collect()
        Memory().give_back()
        gc.freeze()  # what the workers share stays shared: the collector would write to every page
        gc.enable()
        size, limit = psutil.Process().memory_info().rss / 1e6, int(values["BOKEH_MAX_MEMORY"])
        if 0 < limit < size:
            raise BokehError(f"BOKEH_MAX_MEMORY={limit} is below what the apps take without a visitor: {size:.0f} MB")
        Master(values, Worker(values, applications, faults, arguments).run, faults).run()
    except (settings.SettingsError, apps.AppsError, BokehError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
