"""What can be checked of the project without starting it: bin/post_compile does in a build, bin/lint on a laptop."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dyno import apps, nginx, settings


def main() -> int:
    """Check the config vars, the folders of bokeh_app/ and the routing; print a line for each error."""
    try:
        os.chdir(settings.ROOT)
        values = settings.read()
        # names elsewhere need not be known where this runs, and nginx -t would ask for them
        settings.complete()
        os.environ["BOKEH_UPSTREAM"] = ""
        apps.check()
        _check_routing(settings.make_run_dir(values) / "nginx.check")
    except (settings.SettingsError, apps.AppsError, nginx.NginxError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    return 0


def _check_routing(conf: Path) -> None:
    try:
        binary = nginx.find()
        os.environ["NGINX_VERSION"] = nginx.version(binary)
        erb = nginx.rendering()
    except nginx.NotInstalledError as error:  # a buildpack that comes later brings it
        print(f"config/nginx.conf.erb is checked when the dyno starts: here, {error}")
        return
    nginx.rendered(erb, conf)
    nginx.test(binary, conf)
    conf.unlink()


if __name__ == "__main__":
    sys.exit(main())
