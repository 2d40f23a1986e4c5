"""The shield against SIGTERM: what is started behind it does not hear the signal, nor does anything that it starts.

Heroku sends SIGTERM to every process of a dyno. nginx drops its requests at that, and honcho kills its children 5 s
after the first has stopped. A seccomp filter that answers rt_sigaction(SIGTERM, …) with success and does nothing,
loaded while SIGTERM is ignored and before exec, leaves it ignored for good: only the start script hears it, and stops
all in order. The price: nothing behind the shield can be stopped with SIGTERM (it takes SIGINT or SIGQUIT).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


def shield() -> tuple[Callable[[], None] | None, str]:
    """Return (what a child has to call before exec, ""), or (None, why there is no shield on this system)."""
    if sys.platform != "linux":
        return None, "it needs Linux"
    try:
        import pyseccomp

        rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        rules.add_rule(pyseccomp.ERRNO(0), "rt_sigaction", pyseccomp.Arg(0, pyseccomp.EQ, signal.SIGTERM))
    except Exception as error:  # the package, the system's libseccomp, or something of this kernel's is missing
        return None, f"{type(error).__name__}: {error}"

    def enter() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        rules.load()

    pid = os.fork()  # a filter cannot be taken back: a child tries it
    if pid == 0:
        try:
            enter()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        return None, "the system forbids seccomp filters"
    return enter, ""
