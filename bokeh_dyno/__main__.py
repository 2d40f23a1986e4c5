"""The command `bokeh-dyno`, or `python -m bokeh_dyno`: what there is to do with the machinery."""

from __future__ import annotations

import _signal  # what `signal` wraps: that one takes 10 ms to import
import sys


def main() -> int:
    """Run the command that the command line names; return the exit code."""
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C before there is anything to stop: no traceback
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name == "start":
        from bokeh_dyno.start import dyno

        return dyno.main(arguments)
    if name == "check":
        from bokeh_dyno.start import check

        return check.main(arguments)
    if name == "settings":
        from bokeh_dyno.shared import settings

        print(settings.table())
        return 0
    print(f"error: {name!r} is no command\n" * bool(name) + USAGE, file=sys.stderr)
    return 2


USAGE = """usage: bokeh-dyno start [-f] COMMAND...   start COMMAND and, once it answers, nginx on $PORT
       bokeh-dyno check [--env]          check the settings, the apps and the routing; --env: only what .env says
       bokeh-dyno settings               print every config var, as a table in Markdown"""


if __name__ == "__main__":
    sys.exit(main())
