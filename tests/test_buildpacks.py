"""Cloud Native Buildpacks, as those of Heroku document them: packages unpacked in a layer, no hook in the build.

project.toml against https://github.com/buildpacks/spec/blob/main/extensions/project-descriptor.md; the layer as
https://github.com/heroku/buildpacks-deb-packages makes it (src/install_packages.rs): `data.tar` unpacked, no script of a package
run, PATH and LD_LIBRARY_PATH set. https://github.com/heroku/buildpacks-python runs nothing of ours.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dyno_under_test import OTHER_SITE, ROOT, Dyno, copy_project, procfile_line, temporary_folder
from test_start import as_an_ordinary_user, assert_the_site_works

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and later can read TOML")
PROJECT = tomllib.loads((ROOT / "project.toml").read_text())
BIN = ("bin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin")


def test_the_descriptor_names_the_buildpacks_in_their_order_and_what_the_first_installs() -> None:
    assert PROJECT["_"]["schema-version"] == "0.2"
    group = [one["id"] for one in PROJECT["io"]["buildpacks"]["group"]]
    assert group == ["heroku/deb-packages", "heroku/python", "heroku/procfile"]
    installed = PROJECT["com"]["heroku"]["buildpacks"]["deb-packages"]["install"]
    # what bin/setup installs: the Aptfile's, and ruby for erb
    listed = [line for line in (ROOT / "Aptfile").read_text().split("\n") if line and not line.startswith("#")]
    assert installed == [*listed, "ruby"]
    assert (ROOT / ".python-version").is_file()


@pytest.fixture(scope="module")
def layer() -> Iterator[Path]:
    """The layer of heroku/deb-packages: its packages, fetched and unpacked. Those that they need are on every base image."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("no apt-get and dpkg here: packages cannot be fetched and unpacked")
    depends = subprocess.run(["apt-cache", "depends", "ruby"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"Depends: ruby([0-9.]+)$", depends, re.MULTILINE)
    version = found[1] if found else pytest.skip("apt-get knows no ruby here")
    names = [*PROJECT["com"]["heroku"]["buildpacks"]["deb-packages"]["install"], f"ruby{version}", f"libruby{version}"]
    folder = temporary_folder()
    try:
        fetch = subprocess.run(["apt-get", "download", *names], cwd=folder, capture_output=True, text=True, check=False)
        if fetch.returncode:
            pytest.skip(f"packages cannot be fetched here: {fetch.stderr.strip().splitlines()[-1:]}")
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder / "layer"], check=True)
        yield folder / "layer"
    finally:
        shutil.rmtree(folder)


def environment(layer: Path) -> dict[str, str]:
    """Return PATH and LD_LIBRARY_PATH as the buildpack sets them, before what is there."""
    libraries = []
    for top in (lib for name in ("usr/lib", "lib") for lib in [*layer.glob(f"{name}/*-linux-*"), layer / name]):
        with_some = {path.parent for path in top.rglob("*.so*")}
        libraries += [*sorted(with_some, key=lambda path: -len(str(path))), top]
    path = [*(str(layer / name) for name in BIN), str(Path(sys.prefix, "bin")), "/usr/bin:/bin"]
    return {"PATH": ":".join(path), "LD_LIBRARY_PATH": ":".join(map(str, dict.fromkeys(libraries)))}


def hidden(scratch: Path) -> str:
    """Return the commands that hide this machine's own nginx and ruby. Skips where nothing can be hidden."""
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("this machine's own nginx and ruby cannot be hidden here")
    (scratch / "nothing").mkdir()
    found = [Path(path) for name in ("nginx", "ruby", "erb") for path in ("/usr/sbin/" + name, "/usr/bin/" + name)]
    found += [*Path("/usr/lib").glob("*/libruby*.so.*"), *Path("/usr/lib").glob("*/ruby"), Path("/usr/lib/ruby")]
    found += [
        Path(name) for name in ("/etc/nginx", "/usr/share/nginx", "/usr/lib/nginx", "/var/lib/nginx", "/var/log/nginx")
    ]
    paths = sorted({path.resolve() for path in found if path.exists()})
    return "".join(f"mount --bind {scratch / 'nothing' if path.is_dir() else '/dev/null'} {path} && " for path in paths)


def test_a_layer_of_packages_serves_the_site_from_its_first_boot(
    layer: Path, scratch: Path, dyno: Callable[..., Dyno]
) -> None:
    app = copy_project(scratch / "workspace", OTHER_SITE)
    for made in (app / ".static", *app.rglob("__pycache__")):  # by a build that there is not
        shutil.rmtree(made, ignore_errors=True)
    user = " ".join(as_an_ordinary_user(app))
    # as the buildpack for the Procfile has it: one line of bash
    line = f'{hidden(scratch)} exec {user} bash -c "{procfile_line(app)}"'
    one = dyno(app, environment(layer), ["unshare", "--mount", "bash", "-c", line]).start()
    assert_the_site_works(one)
    assert f" {layer}/usr/sbin/nginx -p . " in " ".join(one.find("^nginx: master process")[0].cmdline())
    for encoding, name in (("br", "br"), ("gzip", "gzip")):
        answer = one.get("/bkapp/static/js/bokeh.min.js", Accept_Encoding=encoding, X_Forwarded_Proto="https")
        assert answer.headers["content-encoding"] == name
    one.process.send_signal(signal.SIGHUP)  # erb once more
    one.wait_for_log("nginx reloads its configuration")
    assert one.stop(signal.SIGTERM) == 0


def test_without_a_ruby_that_runs_one_line_says_so(scratch: Path, project: Path) -> None:
    (scratch / "erb").write_text("#!/nowhere/ruby3.2\n")
    (scratch / "erb").chmod(0o755)
    env = {
        "PATH": f"{scratch}:{os.path.dirname(sys.executable)}",
        "HOME": str(project),
        "RUN_DIR": str(scratch / "run"),
    }
    command = [sys.executable, "-m", "bokeh_dyno", "start", "true"]
    shutil.copy(shutil.which("true"), scratch / "true")
    run = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == f"error: {scratch}/erb does not run: No such file or directory (the ruby of its first line?)\n"
