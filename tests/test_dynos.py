"""Several dynos of one source behind a router that sends every request to any of them: haproxy, config/haproxy.cfg."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from browsing import assert_plots_are_drawn, source_values, turn_slider
from dyno_under_test import OTHER_SITE, ROOT, Dyno, copy_project, free_port, wait_for
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
    assert list(outcomes) == ["seen"]
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
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")
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
