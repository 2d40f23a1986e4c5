"""erb: how it is started, also where its packages are unpacked in a folder of their own, as buildpacks do."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bokeh_dyno.shared.signals import die_with_parent


def find() -> str | None:
    """Return the path of erb, None when there is none."""
    return shutil.which("erb")


def start(erb: str, template: Path, folder: Path, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start erb on a template, in a folder. Raises OSError when neither its own ruby nor the one beside it runs.

    Its first line names the ruby where the package would have put it. Heroku's buildpack for .deb packages puts them into a
    layer of the image, and that ruby is not there: the layer's has to be told where its own library is.
    """
    try:
        return _start([erb, str(template)], folder, environ)
    except OSError:
        if not (ruby := shutil.which("ruby", path=str(Path(erb).parent)) or shutil.which("ruby")):
            raise
    libraries = [option for path in _libraries(Path(ruby).resolve()) for option in ("-I", str(path))]
    return _start([ruby, "--disable-gems", *libraries, erb, str(template)], folder, environ)


def _start(command: list[str], folder: Path, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # to be ended with all that the template has started
        preexec_fn=lambda: die_with_parent(signal.SIGKILL),
    )


def _libraries(ruby: Path) -> list[Path]:
    """Return the folders of a ruby's library in its own tree, as Debian and Ubuntu have them, for ruby3.2 those of 3.2.0."""
    lib, found = ruby.parent.parent / "lib", re.search(r"(?<![0-9.])[0-9.]+$", ruby.name)
    version = f"{found[0] if found else ''}*"
    folders = ("ruby/vendor_ruby", f"ruby/vendor_ruby/{version}", f"ruby/{version}", f"*/ruby/{version}")
    return [path for folder in folders for path in sorted(lib.glob(folder)) if path.is_dir()]
