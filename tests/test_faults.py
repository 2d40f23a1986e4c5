"""What goes wrong around a dyno: signals at any moment, processes that stand still, a RUN_DIR that is removed."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from dyno_under_test import BOOT, Dyno, procfile_line, wait_for

MakeDyno = Callable[..., Dyno]


def test_a_pause_of_all_processes_ends_none(project: Path, dyno: MakeDyno) -> None:
    env = {"BOKEH_HANG_TIMEOUT": "6", "GUNICORN_CMD_ARGS": "--timeout 6", "BOKEH_SECRET_KEY": os.urandom(32).hex()}
    one = dyno(project, env).start()
    status, websocket = one.handshake("/bkapp/counter/ws", one.token("/with/counter"))
    assert status == 101
    before = {process.pid for process in one.processes()}
    for process in one.processes():
        process.send_signal(signal.SIGSTOP)
    time.sleep(9)  # longer than each of them
    for process in reversed(one.processes()):  # the masters last: they have to find that all were silent
        process.send_signal(signal.SIGCONT)
    for _ in range(5):  # seconds, for that is how often they look
        wait_for("the site", lambda: one.get("/healthz?all=1").status == 200)
        time.sleep(1)
    assert {process.pid for process in one.processes()} == before
    websocket.close()


def test_run_dir_may_be_removed(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project).start()
    status, websocket = one.handshake("/bkapp/counter/ws", one.token("/with/counter"))
    assert status == 101
    before = one.bokeh_workers()
    shutil.rmtree(project / "run")
    one.wait_for_log("RUN_DIR=run has been removed: making it anew")
    wait_for("the site", lambda: one.get("/healthz").status == 200, BOOT)
    assert one.get("/with/counter").status == 200
    assert one.get("/bkapp/static/js/bokeh.min.js").status == 200
    websocket.settimeout(20)
    assert websocket.recv(1)  # it is still open, or told to come back: not cut off
    websocket.close()
    wait_for(
        "the workers to be there, or their end to be told",
        lambda: all(worker.is_running() for worker in before) or re.search(r"generation \w+ ends", one.log()),
    )
    assert one.stop(signal.SIGTERM) == 0
    assert "Traceback" not in one.log()


def test_files_of_others_in_run_dir_do_no_harm(project: Path, dyno: MakeDyno) -> None:
    one = dyno(project).start()
    generation = next(path for path in (project / "run").iterdir() if path.is_dir() and (path / "flask.pid").exists())
    for folder in (project / "run", generation):
        (folder / "mine.pid").write_text("1")
        (folder / "other.pid").write_text("no number")
    for _ in range(3):
        time.sleep(1)  # the start script looks once a second
        wait_for("all to answer in time", lambda: one.get("/healthz").text == "ok\n")


@pytest.mark.parametrize("port", ["65500", "65535"])
def test_a_port_to_which_honcho_cannot_add_is_no_matter(project: Path, dyno: MakeDyno, port: str) -> None:
    one = dyno(project, {"PORT": port}).start()
    assert one.get("/bkapp/counter").status == 200


def test_a_wrong_port_is_named_with_all_the_others(project: Path, dyno: MakeDyno) -> None:
    env = {"PORT": "abc", "FORCE_HTTPS": "yes"}
    one = dyno(project, env).launch()
    assert one.wait() == 1
    assert "error: PORT='abc' is not allowed: a whole number, 1 to 65535\nerror: FORCE_HTTPS='yes' is not" in one.log()
    (project / ".env").write_text("PORT=abc\nBOKEH_WORKERS=none\n")
    checked = subprocess.run(
        ["python3", "-m", "bokeh_dyno", "check", "--env"], cwd=project, env={"PATH": one.env["PATH"]},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 1
    assert checked.stderr.splitlines() == [
        "error: PORT='abc' is not allowed: a whole number, 1 to 65535",
        "error: BOKEH_WORKERS='none' is not allowed: a whole number, 1 to 64",
    ]


def test_an_erb_whose_ruby_is_absent_is_named(project: Path, dyno: MakeDyno) -> None:
    folder = project / "programs"
    folder.mkdir()
    for name in ("erb", "ruby"):  # which would be asked to run it
        (folder / name).write_text("#!/no/such/ruby\n")
        (folder / name).chmod(0o755)
    one = dyno(project)
    one.env["PATH"] = f"{folder}{os.pathsep}{one.env['PATH']}"
    one.launch()
    assert one.wait() == 1
    assert re.search(r"^error: .*programs/erb does not run: No such file", one.log(), re.MULTILINE)
    assert "Traceback" not in one.log()


def test_a_template_that_never_ends_is_ended_with_all_that_it_started(project: Path, dyno: MakeDyno) -> None:
    template = project / "config" / "nginx.conf.erb"
    template.write_text("<% `sleep 1000` %>\n" + template.read_text())
    one = dyno(project).launch()
    assert one.wait() == 1
    assert "error: config/nginx.conf.erb does not render: erb still runs after 10 s" in one.log()
    one.assert_nothing_left()


@pytest.mark.parametrize("how", ["honcho above", "the start script alone"])
def test_closing_the_terminal_ends_the_dyno(project: Path, dyno: MakeDyno, how: str) -> None:
    one = dyno(project)
    line = "honcho start web" if how == "honcho above" else procfile_line(project)
    child, terminal = pty.fork()
    if not child:
        os.chdir(project)
        os.execvpe("bash", ["bash", "-i", "-c", f"exec {line}"], {**one.env, "HISTFILE": "/dev/null"})
    try:
        read = b""
        while b"ready after" not in read:
            read += os.read(terminal, 65536)
    finally:
        os.close(terminal)
    os.waitpid(child, 0)
    wait_for("the end", lambda: not one.describe(), 40)
    one.assert_nothing_left()


def hears_sigterm(pid: int) -> bool:
    """Return whether a process handles SIGTERM, or has it wait."""
    masks = re.findall(r"Sig(?:Blk|Cgt):\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return any(int(mask, 16) & 1 << signal.SIGTERM - 1 for mask in masks)


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1, 0.3])
def test_the_first_process_of_a_container_hears_sigterm_from_its_first_line(
    project: Path, dyno: MakeDyno, after: float
) -> None:
    if os.geteuid() or subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], check=False).returncode:
        pytest.skip("no PID namespace for this user")
    line = procfile_line(project).split()
    one = dyno(project, command=["unshare", "--pid", "--fork", "--mount-proc", *line]).launch()
    first = wait_for("the first process", lambda: psutil.Process(one.process.pid).children())[0]
    # unshare has it wait, too, until it is about to become another program
    wait_for("its first line", lambda: first.name() != "unshare" and hears_sigterm(first.pid))
    time.sleep(after)
    first.send_signal(signal.SIGTERM)
    assert one.wait() == 0, one.log()
    one.assert_nothing_left()
