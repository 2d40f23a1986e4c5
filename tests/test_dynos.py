"""Several dynos of one source behind a router that sends every request to any of them: haproxy, config/haproxy.cfg."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import bokeh
import pytest
from browsing import assert_plots_are_drawn, source_values, turn_slider
from dyno_under_test import (
    OTHER_SITE,
    ROOT,
    Dyno,
    copy_project,
    free_port,
    installed,
    temporary_folder,
    wait_for,
)
from playwright.sync_api import Page
from router import Views, router, view
from test_drain import send_to_all
from test_recovery import assert_whole, open_page, take_out_what_the_absence_caused

ENOUGH = 200  # views


def test_pages_are_viewed_without_a_failure_while_each_dyno_is_replaced(
    scratch: Path, dyno: Callable[..., Dyno], page: Page, record_property
) -> None:
    shared = {
        "BOKEH_SECRET_KEY": secrets.token_hex(32),
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
        "BOKEH_WORKERS": "1",
        "TEST_COUNTER": str(scratch / "runs"),
    }
    dynos = [dyno(copy_project(scratch / f"web.{number}", OTHER_SITE), shared).launch() for number in (1, 2, 3)]
    for one in dynos:
        one.wait_until_it_answers()
    site = router(scratch / "router", dynos, dyno).start()
    assert site.get("/echo", X_Forwarded_For="6.6.6.6").json["remote_addr"] == "127.0.0.1"
    open_page(page, site)
    views = Views(site, ["/with/counter", "/bkapp/counter"], 4).start()
    for number, one in enumerate(dynos, 1):
        seen = views.count()
        wait_for("views on all of them", lambda seen=seen: views.count() > seen + 20, 60)
        send_to_all(one, signal.SIGTERM)
        assert one.wait() == 0
        site.wait_for_log(rf"web\.{number} is DOWN")
        one.start()
        site.wait_for_log(rf"web\.{number} is UP")
    seen = views.count()
    wait_for("enough views", lambda: views.count() > max(ENOUGH, seen + 40), 60)
    outcomes = views.stop()
    record_property("figure", f"{outcomes.get('seen', 0)} views, each dyno replaced once, others: {len(outcomes) - 1}")
    assert list(outcomes) == ["seen"], site.log()
    assert_whole(page)  # it has been on each of them, and has the value that its visitor has left
    assert {line.split()[1] for line in Path(shared["TEST_COUNTER"]).read_text().splitlines()} >= {
        str(worker.pid) for one in dynos for worker in one.bokeh_workers()
    }
    take_out_what_the_absence_caused(page)
    page.goto(f"http://127.0.0.1:{site.port}/bkapp/counter")  # the page from one dyno, its WebSocket to another
    assert_plots_are_drawn(page, 1)
    before = source_values(page)
    turn_slider(page, 3)
    assert source_values(page, different_from=before) != before


class Deploy:
    """Two versions of a project behind one router: another page script each, another BokehJS each."""

    def __init__(self, scratch: Path, dyno: Callable[..., Dyno]) -> None:
        """Start both dynos and the router; `dyno` makes them."""
        shared = {"BOKEH_SECRET_KEY": secrets.token_hex(32), "BOKEH_WORKERS": "1", "WEB_CONCURRENCY": "1"}
        self.dynos = []
        for number in (1, 2):
            project, packages = copy_project(scratch / f"web.{number}", OTHER_SITE), scratch / f"packages.{number}"
            unused = shutil.ignore_patterns("lib", "*.map", "compiler.js", "__pycache__")
            shutil.copytree(Path(bokeh.__file__).parent, packages / "bokeh", ignore=unused)
            for script, name in (
                (project / "bokeh_dyno/page/page.js", "page_script"),
                (packages / "bokeh/server/static/js/bokeh.min.js", "bokehjs"),
            ):
                script.write_text(f"{script.read_text()}\nwindow.{name} = {number}\n")
            path = {"PYTHONPATH": str(packages)}
            self.dynos.append(dyno(project, {**shared, **path}).launch())
        for one in self.dynos:
            one.wait_until_it_answers()
        self.router = router(scratch / "router", self.dynos, dyno).start()


@pytest.fixture(scope="module")
def deploy() -> Iterator[Deploy]:
    """Both, for the tests of this module; the last of them stops the first dyno."""
    scratch = temporary_folder()
    made: list[Dyno] = []

    def new(*arguments) -> Dyno:
        made.append(Dyno(*arguments))
        return made[-1]

    try:
        yield Deploy(scratch, new)
    finally:
        for one in made:
            one.clean_up()
        shutil.rmtree(scratch)


def versions(one: Dyno) -> list[str]:
    """Return the versions that a page of a dyno has its script, and BokehJS, in."""
    text = one.get("/with/counter").text
    return [re.search(rf"/static/([0-9a-f]{{16}})/{name}", text)[1] for name in ("dyno.js", "js/bokeh.min.js")]


SCRIPTS = """() => [...document.scripts].map((script) => script.src).concat(`${page_script}`, `${bokehjs}`)"""


def assert_the_page_has_its_own_scripts(page: Page, deploy: Deploy) -> int:
    """Wait for the plot; return which of the two versions the page and its scripts are."""
    assert_plots_are_drawn(page, 1)
    *urls, page_script, bokehjs = page.evaluate(SCRIPTS)
    assert page_script == bokehjs
    for version in versions(deploy.dynos[int(bokehjs) - 1]):
        assert any(f"/{version}/" in url for url in urls), (bokehjs, urls)
    return int(bokehjs)


def test_in_a_deploy_every_page_gets_the_scripts_that_it_was_made_for(deploy: Deploy, browser, record_property) -> None:
    assert not set(versions(deploy.dynos[0])) & set(versions(deploy.dynos[1]))
    seen, sent_round, wrong = [], [], []

    def check(answer) -> None:
        version = re.search(r"/static/([0-9a-f]{16})/", answer.url)
        if version and answer.status == 307:
            sent_round.append(answer.url)
        elif (
            version
            and "immutable" in answer.headers.get("cache-control", "")
            and hashlib.sha512(answer.body()).hexdigest()[:16] != version[1]
        ):
            wrong.append(answer.url)

    returning = browser.new_context()  # with what it has kept
    for number in range(18):
        context = returning if number % 3 == 0 else browser.new_context()
        page = context.new_page()
        page.on("response", check)
        page.goto(f"http://127.0.0.1:{deploy.router.port}{['/with/counter', '/bkapp/counter'][number % 2]}")
        seen.append(assert_the_page_has_its_own_scripts(page, deploy))
        page.close()
        if context is not returning:
            context.close()
    returning.close()
    record_property("figure", f"{len(seen)} pages, {len(sent_round)} scripts asked for once more, {len(wrong)} wrong")
    assert set(seen) == {1, 2}
    assert sent_round
    assert not wrong


def test_a_page_of_a_version_that_is_gone_is_loaded_anew(deploy: Deploy, page: Page) -> None:
    old, _ = deploy.dynos
    text = old.get("/with/counter").text
    assert old.stop() == 0
    deploy.router.wait_for_log(r"web\.1 is DOWN")
    loads = []

    def give_the_old_page_first(route) -> None:
        loads.append(route.request.url)
        route.fulfill(body=text, content_type="text/html") if len(loads) == 1 else route.continue_()

    page.route("**/with/counter", give_the_old_page_first)
    page.goto(f"http://127.0.0.1:{deploy.router.port}/with/counter")
    assert_plots_are_drawn(page, 1)
    assert assert_the_page_has_its_own_scripts(page, deploy) == 2
    assert len(loads) == 2
    page.complaints.clear()  # of the first, which had a part of its scripts


def test_a_page_that_stays_old_is_not_loaded_again_and_again(site: Dyno, page: Page) -> None:
    text = re.sub(r"/static/[0-9a-f]{16}/", "/static/0123456789abcdef/", site.get("/with/counter").text)
    loads = []

    def give_the_old_page(route) -> None:
        loads.append(route.request.url)
        route.fulfill(body=text, content_type="text/html")

    page.route("**/with/counter", give_the_old_page)
    page.goto(f"http://127.0.0.1:{site.port}/with/counter")
    wait_for("the second load", lambda: page.wait_for_timeout(100) or len(loads) == 2)
    page.wait_for_timeout(4000)
    assert len(loads) == 2
    page.complaints.clear()


def test_the_nginx_of_the_docs_is_a_router_too(site: Dyno, scratch: Path, dyno: Callable[..., Dyno]) -> None:
    text = (ROOT / "docs" / "deploy.md").read_text()
    block = re.search(r"<!-- nginx -->\n(.*?)<!-- /nginx -->", text, re.DOTALL)[1]
    port = free_port()
    block = block.replace("listen 80", f"listen 127.0.0.1:{port}")
    block = block.replace("127.0.0.1:5001", f"127.0.0.1:{site.port}").replace("server 127.0.0.1:5002;", "")
    user = "user root;" if os.getuid() == 0 else ""
    temporary = "".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (scratch / "nginx.conf").write_text(
        f"{user} daemon off; pid nginx.pid; events {{}}\nhttp {{ access_log off; {temporary}\n{block}}}\n"
    )
    nginx = installed("nginx")
    command = [nginx, "-p", str(scratch), "-c", "nginx.conf", "-e", "stderr"]
    front = dyno(scratch, {"PORT": str(port)}, command).start()
    echo = front.get("/echo", X_Forwarded_For="6.6.6.6", X_Forwarded_Proto="https").json
    assert (echo["remote_addr"], echo["scheme"]) == ("127.0.0.1", "http")
    assert echo["url_root"] == f"http://127.0.0.1:{port}/"
    for page in ("/with/counter", "/bkapp/counter"):
        view(front, page).close()
    token = front.token("/with/counter")
    for origin, expected in ((f"http://127.0.0.1:{port}", 101), ("http://stranger.example", 403)):
        status, client = front.handshake("/bkapp/counter/ws", token, Origin=origin)
        client.close()
        assert status == expected
