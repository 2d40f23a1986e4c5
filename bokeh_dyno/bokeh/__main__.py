"""The `bokeh` process: imports everything once, runs every app once, then forks the workers (bokeh_dyno/bokeh/master.py).

Each worker (bokeh_dyno/bokeh/worker.py) is `bokeh serve` on a unix socket of its own, run/bokeh.N.sock; what follows
`python -m bokeh_dyno.bokeh` in the Procfile is passed to `bokeh serve`. Sessions live in one process, so nginx sends a session
to the worker that has it.
"""
# ruff: noqa: E402 (three things have to come before the imports)

from __future__ import annotations

import gc
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of an interrupted import
gc.disable()  # until everything is imported: collecting after every few hundred of Bokeh's classes costs a sixth of it

import asyncio
import logging
import os
import sys
import time
import traceback
from collections.abc import Mapping

if __name__ == "__main__":
    from bokeh_dyno.bokeh import idle
    from bokeh_dyno.shared import buildpack, private, sigterm
    from bokeh_dyno.shared.log import guard, print_whole_lines

    print_whole_lines()  # before the imports, for logging takes what sys.stderr is then
    guard()
    sigterm.disregard()
    buildpack.prepare()
    if os.environ.get("BOKEH_UPSTREAM"):
        sys.exit(idle.main())
    try:
        private.check_version()
    except private.VersionError as error:
        sys.exit(f"error: {error}")

# A worker is one of several processes and serves many visitors: threads of numpy's linear algebra would fight for the
# cores, and they do not survive the fork. Set the variable yourself to have them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from bokeh_dyno.page import policy

policy.mark_templates()  # before Bokeh's are compiled

import bokeh
import numpy.ma  # noqa: F401 (Bokeh imports it for the first array, which makes cycles that hold on to the app's module)
import psutil
from bokeh.application import Application
from bokeh.application.handlers.document_lifecycle import DocumentLifecycleHandler
from bokeh.application.handlers.handler import Handler
from bokeh.server.views.static_handler import StaticHandler
from bokeh.util import logconfig

from bokeh_dyno.bokeh import BokehError, metrics, options, warm
from bokeh_dyno.bokeh.app import App
from bokeh_dyno.bokeh.faults import Faults
from bokeh_dyno.bokeh.master import Master
from bokeh_dyno.bokeh.own_page import PageScript
from bokeh_dyno.bokeh.reading import Memory
from bokeh_dyno.bokeh.worker import Forget, Worker
from bokeh_dyno.page import needs, static
from bokeh_dyno.shared import apps, container, errors, fork, health, private, run_dir, settings, spare
from bokeh_dyno.shared.log import Discreet, one_line
from bokeh_dyno.shared.settings import Settings

if logconfig.default_handler:  # until the workers have their own
    logconfig.default_handler.setFormatter(Discreet(logging.BASIC_FORMAT))
if private.has("defaults"):
    import bokeh_dyno.bokeh.properties  # noqa: F401 (for its effect)


# Apps that cannot be shared, as the process found that was this one before (_start_anew), and those that have ended it or
# did not end, as the start script found
NOT_SHARED, SUSPECT = "DYNO_NOT_SHARED", "DYNO_SUSPECT"


class Apps:
    """All apps, tried before the port opens as far as that is safe."""

    def __init__(self, values: Settings, faults: Faults, argv: list[str]) -> None:
        """Take the settings, who is to blame, and what the apps find in sys.argv behind their own name."""
        self._values, self._faults, self._argv = values, faults, argv
        self._run_dir = values.run_dir
        self._all_scripts = needs.of(values).scripts
        self.applications: dict[str, Application] = {}  # by path
        self.for_workers: list[str] = []  # names of those that each worker has to try by itself
        self._not_shared = _names(NOT_SHARED)
        self._suspect = _names(SUSPECT)

    def load(self) -> None:
        """Make every app and run it once: the workers share its imports, and the first visitor waits for none.

        What fails is told, and that app's pages say so; what leaves something that must not be shared by fork is left to each
        worker, as is an app with hooks, whose on_server_loaded would come first. With BOKEH_WARM=0 none is run. Meanwhile
        RUN_DIR/trying holds the app's name, for the start script to tell which one never ends, or ends the process. Raises
        BokehError when no app can run.
        """
        for file in (static.source() / "js").glob("*.min.js"):
            StaticHandler.append_version(f"js/{file.name}")  # Bokeh hashes each once; before the fork, that is for all
        needs.save(self._run_dir, "", needs.of(self._values))
        failed, left, trying = [], {}, self._run_dir / "trying"
        for number, path in enumerate(apps.paths(), 1):
            name = apps.name(path)
            may_share = fork.CAN_SEE and name not in [*self._not_shared, *self._suspect]
            trying.write_text(name)
            before, began = fork.Before(), time.monotonic()
            app = App(path, self._run_dir, self._faults, number, self._argv, read=may_share)
            self.applications[f"/{name}"] = application = self._make(name, app)
            if name in self._suspect:
                self._faults.suspect(name)
                failed.append((name, "it ended the whole process, or did not end"))
            elif app.failed:  # it is no Python
                app.note_error()
                failed.append((name, one_line(app.error_detail or app.error)))
            elif self._values.bokeh_warm and private.has("warm") and not spare.is_known(path, self._run_dir):
                if app.has_hooks or not may_share:
                    self.for_workers.append(name)
                elif problem := self._try(app, application, name):
                    failed.append((name, problem))
            if may_share and (what := before.left()):
                left[name] = f"leaves {what} behind, which a fork must not share: each worker runs it by itself, "
                left[name] += f"{before.grown():.0f} MB and {time.monotonic() - began:.1f} s more for each"
            trying.unlink()
        if left and len(failed) < len(self.applications):
            _start_anew(left, self._not_shared)  # where all is told that is told below
        self._tell(failed)

    def _tell(self, failed: list[tuple[str, str]]) -> None:
        for line in apps.strays():
            print(line, flush=True)
        for module, (one, other, *_) in apps.twins().items():
            if (one / "__init__.py").exists() and (other / "__init__.py").exists():
                continue
            print(
                f"bokeh_app/{one.name} and bokeh_app/{other.name} both have a module {module}: each app is run with its own; "
                f"with an empty __init__.py beside it, `from . import {module}` is sure in callbacks, too", flush=True,
            )  # fmt: skip
        for name, problem in failed:
            print(f"error: bokeh_app/{name} cannot run: {problem}", file=sys.stderr, flush=True)
            health.note_failure(self._run_dir, name, problem)
        if len(failed) == len(self.applications):
            raise BokehError("no app of bokeh_app/ can run")

    def _make(self, name: str, app: App) -> Application:
        handlers: list[Handler] = [app]
        if private.has("pages"):
            handlers.append(PageScript(self._values, f"{self._values.bokeh_prefix}/{name}", self._all_scripts))
        # Bokeh would add the first of these itself, which calls what is to be called before the second
        return Application(*handlers, DocumentLifecycleHandler(), Forget())

    def _try(self, app: App, application: Application, name: str) -> str:
        """Run an app once; return what is wrong with it, if anything is."""
        problem = ""
        try:
            asyncio.run(warm.run(application, name, self._values))
        except (Exception, SystemExit):  # a template that cannot be rendered, say
            problem = one_line(traceback.format_exc())
            errors.note(f"bokeh_app/{name}", traceback.format_exc())
        return one_line(app.error_detail or app.error) if app.failed else problem


def _names(variable: str) -> list[str]:
    return list(filter(None, os.environ.get(variable, "").split(",")))


def _start_anew(left: Mapping[str, str], not_shared: list[str]) -> None:
    """Become a process that has run none of the apps that leave something behind. The same one, for honcho."""
    for name, what in left.items():
        print(f"bokeh_app/{name} {what}", flush=True)
    os.environ[NOT_SHARED] = ",".join([*not_shared, *left])
    fork.execute_again()


def main(arguments: list[str]) -> int:
    """Run the Bokeh server until it is told to stop; arguments are further options of `bokeh serve`."""
    try:
        values = settings.read()
        serve_options = options.parse(values, arguments)
        run_dir.make(values)
        static.link(values.run_dir)
        spare.wait("bokeh")
        apps.check()
        (values.run_dir / "bokeh.pid").write_text(str(os.getpid()))
        faults = Faults(apps.names(), values.bokeh_workers, values.run_dir / "workers")
        metrics.share(values.run_dir, values.bokeh_workers)
        if line := private.warning(bokeh.__version__):
            print(line, flush=True)
        found = Apps(values, faults, serve_options.args or [])
        found.load()
        spare.note("bokeh")
        if values.bokeh_warm:
            # Bokeh's checks of each document, which only log, have had their say: they are a tenth of a view's CPU
            os.environ.setdefault("BOKEH_VALIDATE_DOC", "0")
        gc.unfreeze()  # bokeh_dyno/shared/fork.py
        gc.collect()
        Memory().give_back()
        gc.freeze()  # what the workers share stays shared: the collector would write to every page
        gc.enable()
        size, limit = psutil.Process().memory_info().rss / 1e6, values.bokeh_max_memory
        if container.is_derived("BOKEH_MAX_MEMORY") and limit < 1.25 * size:  # apps that are large are no leak
            os.environ["BOKEH_MAX_MEMORY"] = "0"
            values, limit = settings.read(), 0
            print(f"the apps take {size:.0f} MB without a visitor: no BOKEH_MAX_MEMORY unless you set it", flush=True)
        if 0 < limit < size:
            raise BokehError(f"BOKEH_MAX_MEMORY={limit} is below what the apps take without a visitor: {size:.0f} MB")
        Master(values, Worker(values, found.applications, found.for_workers, faults, serve_options).run, faults).run()
    except (settings.SettingsError, apps.AppsError, BokehError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
