"""Apps and sites of other people's: whatever plain `bokeh serve` shows is shown, and what must not be forked is not."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from browsing import turn_slider
from dyno_under_test import OTHER_SITE, ROOT, Dyno, copy_project, temporary_folder, wait_for

MakeDyno = Callable[..., Dyno]
THEIRS = Path(__file__).parent / "theirs" / "bokeh_app"
# what each app shows, and what has to be installed for it
SHOWS = {
    "native": ("groups 3", "polars"),
    "kmeans": ("clusters 4", "sklearn"),
    "threads": ("thread answers", ""),
    "connection": ("asked and answered", ""),
    "drawn": ("a number", ""),
    "pool": ("pool 55, sleep -15", ""),
    "panel": ("squared 9", "panel"),
    "data": ("model 3", ""),
    "text": ("templated", ""),
    "own_tags": ("tagged", ""),
    "custom": ("shouted", ""),
    "twin_one": ("part of one", ""),
    "twin_two": ("part of two", ""),
    "single": ("single file", ""),
    "ticking": ("ticked", ""),
    "names": ("a temporary name", ""),
    "roots": ("This plot is empty so far.", ""),
}
LEFT = {"native": "thread", "kmeans": "thread", "threads": "1 thread (answers)", "connection": "a connection"}
LEFT |= {"drawn": "a source of random numbers", "pool": "a process"}


@pytest.fixture(scope="module")
def theirs() -> Iterator[Dyno]:
    folder = temporary_folder()
    project = copy_project(folder / "app", OTHER_SITE)
    shutil.copytree(THEIRS, project / "bokeh_app", dirs_exist_ok=True)
    for name, (_, package) in SHOWS.items():
        if package and importlib.util.find_spec(package) is None:
            shutil.rmtree(project / "bokeh_app" / name)
    one = Dyno(project, {"VISITOR_SESSIONS": "500", "BOKEH_MAX_SESSIONS": "500"}).start()
    yield one
    try:  # a pool of processes that an app has left makes the stop no slower
        assert one.stop(signal.SIGTERM) == 0
        assert "killed what had not stopped" not in one.log()
        one.assert_nothing_left()
    finally:
        one.clean_up()
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["/bkapp/", "/with/"])
@pytest.mark.parametrize("name", SHOWS)
def test_an_app_shows_what_it_shows_elsewhere(theirs: Dyno, page, name: str, kind: str) -> None:
    text, package = SHOWS[name]
    if package:
        pytest.importorskip(package)
    page.goto(f"http://127.0.0.1:{theirs.port}{kind}{name}")
    page.get_by_text(text).first.wait_for()
    if name == "custom":
        page.wait_for_function("document.querySelector('[href=\"/styles.css?shout\"]') != null")
    if name == "panel":
        turn_slider(page)
        page.get_by_text("squared 16").first.wait_for()
    if name in ("panel", "custom"):  # stylesheets that are not to be had here, of which one may still be waited for
        page.close()
        page.complaints.clear()


def test_what_must_not_be_shared_by_fork_is_not(theirs: Dyno) -> None:
    for name, what in LEFT.items():
        if name in theirs.get("/healthz").text or not (theirs.folder / "bokeh_app" / name).exists():
            continue
        assert re.search(
            f"bokeh_app/{name} leaves .*{re.escape(what)}.* each worker runs it by itself, ", theirs.log()
        ), name
    for name in SHOWS.keys() - LEFT.keys():
        assert f"bokeh_app/{name} leaves" not in theirs.log()
    for _ in range(10):
        theirs.token("/bkapp/drawn")
    drawn = wait_for("numbers", lambda: len(found := re.findall("drawn ([0-9.]+)", theirs.log())) >= 12 and found)
    assert len(set(drawn)) == len(drawn)


def test_a_child_hears_the_sigterm_that_comes_before_it_has_begun() -> None:
    program = """if True:
        import os, signal, time
        os.register_at_fork(after_in_child=lambda: time.sleep(0.5))  # before ours
        from bokeh_dyno.shared import sigterm
        sigterm.disregard()
        if not (child := os.fork()):
            time.sleep(20)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        print(os.waitpid(child, 0)[1], signal.pthread_sigmask(signal.SIG_BLOCK, ()))"""
    env = {**os.environ, "DYNO_PID": "1"}
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert run.stdout == f"{signal.SIGTERM:d} set()\n"


def test_the_boot_says_what_may_surprise(theirs: Dyno) -> None:
    assert "bokeh_app/stray.py is no app, for it has neither curdoc nor servable" in theirs.log()
    assert "bokeh_app/twin_one and bokeh_app/twin_two both have a module part" in theirs.log()
    assert "ended with goodbye" in theirs.log()  # the session of the run before the port opened
    theirs.wait_for_log("session gone")  # in a worker, which runs an app with hooks by itself
    theirs.wait_for_log("ticking is over")
    assert "came back to life" not in theirs.log()
    wait_for("the hook, in each worker", lambda: theirs.log().count("hooked") == 2)


def test_panel_is_no_app_elses(theirs: Dyno) -> None:
    pytest.importorskip("panel")
    theirs.get("/bkapp/panel")
    for path in ("/bkapp/counter", "/with/counter"):
        assert "panel" not in theirs.get(path).text


def test_a_session_whose_callbacks_are_late_ends_too(project: Path, dyno: MakeDyno) -> None:
    shutil.copytree(THEIRS / "roots", project / "bokeh_app" / "late")
    main = project / "bokeh_app" / "late" / "main.py"
    main.write_text(f"{main.read_text()}import time\ncurdoc().add_periodic_callback(lambda: time.sleep(0.05), 10)\n")
    procfile = project / "Procfile.dyno"
    procfile.write_text(
        procfile.read_text().replace("bokeh_dyno.bokeh", "bokeh_dyno.bokeh --unused-session-lifetime 100")
    )
    one = dyno(project).start()
    before = one.log().count("ended with goodbye")
    status, websocket = one.handshake("/bkapp/late/ws", one.token("/with/late"))
    with websocket:
        assert status == 101
        assert websocket.recv(1)  # the session is there
    wait_for("the end of the session", lambda: one.log().count("ended with goodbye") > before)


def test_panels_page_comes_back_with_its_values(project: Path, dyno: MakeDyno, page) -> None:
    pytest.importorskip("panel")
    shutil.copytree(THEIRS / "panel", project / "bokeh_app" / "panel")
    one = dyno(project, {"BOKEH_WORKERS": "1"}).start()
    page.goto(f"http://127.0.0.1:{one.port}/with/panel")
    page.get_by_text("squared 9").first.wait_for()
    turn_slider(page)
    page.get_by_text("squared 16").first.wait_for()
    page.evaluate("document.querySelector('[data-bokeh-app] > div').isOld = true")
    one.bokeh_workers()[0].kill()
    page.wait_for_function("[...document.querySelectorAll('[data-bokeh-app] > div')].every((place) => !place.isOld)")
    page.get_by_text("squared 16").first.wait_for()
    turn_slider(page, -1)
    page.get_by_text("squared 9").first.wait_for()
    page.close()
    page.complaints.clear()


def test_what_a_killed_worker_had_started_goes_with_it(project: Path, dyno: MakeDyno) -> None:
    main = project / "bokeh_app" / "counter" / "main.py"
    main.write_text(f"import subprocess\nsubprocess.Popen(['sleep', '1000'])\n{main.read_text()}")
    one = dyno(project, {"BOKEH_WORKERS": "1"}).start()
    (worker,) = one.bokeh_workers()
    sleeping = wait_for("its process", worker.children)
    worker.kill()
    wait_for("another worker", lambda: [new.pid for new in one.bokeh_workers()] not in ([], [worker.pid]))
    wait_for("the end of the process", lambda: not any(psutil.pid_exists(child.pid) for child in sleeping))


SITE_THAT_LEAVES = {
    "thread": "threading.Thread(target=threading.Event().wait, name='mine', daemon=True).start()",
    "connection": "app.pair = socket.socketpair()",
    "source of random numbers": "app.source = numpy.random.default_rng()",
}


def test_a_site_that_must_not_be_shared_is_made_by_each_worker(project: Path, dyno: MakeDyno) -> None:
    init = project / "flask_app" / "__init__.py"
    lines = [f"    {line}\n" for line in SITE_THAT_LEAVES.values()]
    text = init.read_text().replace("    BokehApps(app)\n", "".join(["    BokehApps(app)\n", *lines]))
    page = """
    @app.route("/leaves")
    def leaves():
        import subprocess
        sleeping = subprocess.Popen(["sleep", "1000"])
        sleeping.terminate()
        names = [thread.name for thread in threading.enumerate()]
        return {"pid": os.getpid(), "drawn": app.source.random(), "thread": "mine" in names, "sleep": sleeping.wait(5)}

    return app
"""
    init.write_text("import socket\nimport threading\n\nimport numpy\n" + text.rsplit("    return app\n", 1)[0] + page)
    one = dyno(project).start()
    one.wait_for_log(r"the site leaves 1 thread \(mine\), a connection, a source of random numbers behind")

    def ask() -> dict[int, dict]:
        with ThreadPoolExecutor(8) as pool:  # at once, or nginx has one kept connection ask one worker
            return {answer["pid"]: answer for answer in pool.map(lambda _: one.get("/leaves").json, range(30))}

    answers = wait_for("both workers", lambda: len(found := ask()) == 2 and list(found.values()))
    assert len({answer["drawn"] for answer in answers}) == 2
    assert all(answer["thread"] and answer["sleep"] == -signal.SIGTERM for answer in answers)
    # a reload of gunicorn's own replaces its workers, and loses no request
    (master,) = {psutil.Process(answer["pid"]).ppid() for answer in answers}
    psutil.Process(master).send_signal(signal.SIGHUP)
    before = {answer["pid"] for answer in answers}
    wait_for("other workers", lambda: not before & ask().keys())
    wait_for("the end of the old ones", lambda: not any(psutil.pid_exists(pid) for pid in before))
    assert one.stop(signal.SIGTERM) == 0


def test_a_model_that_cannot_be_compiled_costs_only_its_app(project: Path, dyno: MakeDyno, page) -> None:
    shutil.copytree(THEIRS / "custom", project / "bokeh_app" / "custom")
    model = project / "bokeh_app" / "custom" / "model.py"
    model.write_text(model.read_text().replace("JavaScript", "TypeScript").replace("const {Div,", "cnst {Div,"))
    one = dyno(project).start()
    workers = {worker.pid for worker in one.bokeh_workers()}
    one.wait_for_log("error: bokeh_app/custom cannot run: .*CompileError", 60)
    for kind in ("/bkapp/", "/with/"):
        page.goto(f"http://127.0.0.1:{one.port}{kind}custom")
        page.get_by_text("This plot cannot be shown").first.wait_for()
    page.complaints.clear()
    assert one.get("/bkapp/counter").status == 200
    for _ in range(4):  # of both workers; it has the scripts of all classes
        assert one.get("/bkapp/counter/autoload.js?bokeh-autoload-element=a").status == 200
    assert {worker.pid for worker in one.bokeh_workers()} == workers
