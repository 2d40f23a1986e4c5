"""The command `bokeh-dyno`, or `python -m bokeh_dyno`: what there is to do with the machinery."""

from __future__ import annotations

import _signal  # what `signal` wraps: that one takes 10 ms to import
import os
import sys


def main() -> int:
    """Run the command that the command line names; return the exit code."""
    try:
        code = _run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # of `| head`, which has all that it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter would complain at its end
        return 1


def _run() -> int:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C before there is anything to stop: no traceback
    root = os.environ.get("DYNO_ROOT")
    if root and not os.path.isdir(root):
        print(f"error: DYNO_ROOT={root!r} is not allowed: the folder of a project", file=sys.stderr)
        return 1
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in ("start", "server"):
        # the first process of a container does not hear what it does not handle yet; what is blocked waits (signals.Inbox)
        _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGTERM})
    if name == "start":
        from bokeh_dyno.start import dyno

        return dyno.main(arguments)
    if name == "static":
        from bokeh_dyno.start import check

        return check.prepare_static()
    if name == "init":
        from bokeh_dyno.start import init

        return init.main(arguments)
    if name in ("new-app", "new-page"):
        from bokeh_dyno.start import new

        return new.app(arguments) if name == "new-app" else new.page(arguments)
    if name == "dev":
        from bokeh_dyno.start import dev

        return dev.main(arguments)
    if name == "server":
        from bokeh_dyno.start import start_script

        start_script.become()
    if name == "check":
        from bokeh_dyno.start import check

        return check.main(arguments)
    if name == "doctor":
        from bokeh_dyno.start import doctor

        return doctor.main(arguments)
    if name == "routing":
        from bokeh_dyno.start import nginx

        print(nginx.ROUTING)
        return 0
    if name == "settings":
        from bokeh_dyno.start import check

        print(check.table())
        return 0
    if name in ("-h", "--help", "--version"):
        from bokeh_dyno import __version__

        print(__version__ if name == "--version" else USAGE)
        return 0
    print(f"error: {name!r} is no command\n" * bool(name) + USAGE, file=sys.stderr)
    return 2


USAGE = """usage: bokeh-dyno start [-f] COMMAND...   start COMMAND and, once it answers, nginx on $PORT
       bokeh-dyno dev [--open]           start it for development: each saved edit is seen on the open page
       bokeh-dyno server                 start what `web` is in the Procfile, with .env, as `honcho start web` does
       bokeh-dyno check [--env]          check the settings, the apps and the routing; --env: what honcho reads
       bokeh-dyno doctor [--start] [--url URL]   say what is wrong with machine, folder, settings and dyno, and what to do
       bokeh-dyno init [--app MODULE:NAME] [--diff]   add what a Flask site lacks to be a dyno; --diff: say what differs
       bokeh-dyno new-app NAME [--from slider|table|stream|upload|panel|notebook]   make a Bokeh app that works, and its test
       bokeh-dyno new-page NAME          make a page of the site, and its test
       bokeh-dyno static                 compress what browsers get, for the dyno to send; a build does that
       bokeh-dyno settings               print every config var, as a table in Markdown
       bokeh-dyno routing                print the file that config/nginx.conf.erb loads"""


if __name__ == "__main__":
    sys.exit(main())
