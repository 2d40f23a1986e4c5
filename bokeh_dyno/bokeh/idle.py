"""The `bokeh` process when the Bokeh workers are elsewhere: it is there, for honcho ends all when one process ends."""

from __future__ import annotations

import os
import signal

from bokeh_dyno.page import static
from bokeh_dyno.shared import buildpack, settings, sigterm
from bokeh_dyno.shared.signals import Inbox, start_script_is_gone


def main() -> int:
    """Provide the static files, then wait until told to stop."""
    values = settings.read()
    run_dir = values.run_dir
    static.link(run_dir)
    inbox = Inbox(signal.SIGUSR1, *(stops := sigterm.stops()))
    (run_dir / "bokeh.pid").write_text(str(os.getpid()))
    print(f"no worker here: Bokeh is at {', '.join(values.bokeh_upstream)}", flush=True)
    announced = False
    while not inbox.wait(1.0) & stops and not start_script_is_gone():
        announced = announced or buildpack.announce(values)
    return 0
