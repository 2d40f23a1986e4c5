"""The pages of the example in a browser: every one shows its plot, nothing complains, what the visitor does is seen."""

from __future__ import annotations

import html
import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.robotparser import RobotFileParser

import pytest
from browsing import assert_plots_are_drawn, source_values, turn_slider
from conftest import run_for_the_session
from dyno_under_test import ROOT, Dyno, free_port, installed, is_alive, temporary_folder, token_in, wait_for
from PIL import Image

from bokeh_dyno.shared import apps
from flask_app import create_app, gallery

FOLDERS = sorted(path.parent.name for path in (ROOT / "bokeh_app").glob("*/main.py"))
BEHIND_THE_LOGIN = {"greeter"}
INSIDE = {"dyno"}  # has a page of the site, for those who are logged in or local; its own page is a sentence
APPS = [name for name in FOLDERS if name not in BEHIND_THE_LOGIN]
WHERE = ("apps", "bkapp")
SHOWN = [f"/{where}/{name}" for where in WHERE for name in APPS if where == "apps" or name not in INSIDE]
ROUTER = """
daemon off; pid {folder}/pid; error_log stderr; worker_processes 1; {user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
        location / {{
            proxy_pass http://127.0.0.1:{to}; proxy_http_version 1.1; proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto https; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;
        }}
    }}
}}
"""


def run_router(to: int) -> Iterator[str]:
    """Run what stands before a dyno on a platform: it ends https, says so in X-Forwarded-Proto, and speaks http inwards."""
    nginx = installed("nginx")
    folder, port = temporary_folder(), free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "conf").write_text(ROUTER.format(folder=folder, port=port, to=to, user=user))
    router = subprocess.Popen([nginx, "-e", "stderr", "-p", folder, "-c", folder / "conf"], stderr=subprocess.DEVNULL)
    try:

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for("the router", listens)
        yield f"https://127.0.0.1:{port}"
    finally:
        router.send_signal(signal.SIGTERM)
        router.wait(10)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def example_behind_https(example_site: Dyno) -> Iterator[str]:
    """The example's address behind a router that ends https."""
    yield from run_router(example_site.port)


@pytest.fixture(scope="session")
def routed_behind_https(routed_site: Dyno) -> Iterator[str]:
    """The address of the site with https only and another prefix, behind a router that ends https."""
    yield from run_router(routed_site.port)


@pytest.fixture(scope="module")
def one_worker() -> Iterator[Dyno]:
    """The example with one worker, so that all visitors have the same."""
    yield from run_for_the_session(None, "installed", BOKEH_WORKERS="1")


def open_page(page, url: str) -> None:
    """Open a page and expect a good answer."""
    assert page.goto(url).status == 200, url


def base(one: Dyno) -> str:
    """Return a dyno's address."""
    return f"http://127.0.0.1:{one.port}"


# --- every page -------------------------------------------------------------------------------------------------------


def test_the_example_starts_without_a_warning(example_site: Dyno) -> None:
    boot = example_site.log().partition("ready after")[0]
    assert not re.findall(r".*(?:warning|error|WARN|ERROR|both have|leaves ).*", boot)


def test_the_landing_page_lists_every_app(example_site: Dyno, page) -> None:
    open_page(page, f"{base(example_site)}/")
    links = page.eval_on_selector_all("a[href]", "links => links.map((link) => link.getAttribute('href'))")
    assert {link for link in links if link.startswith("/apps/")} == {f"/apps/{name}" for name in APPS}
    assert {"/plot", "/pair", "/members"} <= set(links)
    shapes = page.eval_on_selector_all(".cards img", "all => all.map((one) => one.offsetWidth / one.offsetHeight)")
    assert len(shapes) == len(APPS) + 3
    assert all(1.55 < shape < 1.65 for shape in shapes)


@pytest.mark.parametrize("path", SHOWN)
def test_every_app_shows_its_plot(example_site: Dyno, page, path: str) -> None:
    open_page(page, f"{base(example_site)}{path}")
    assert_plots_are_drawn(page, 1)


def test_two_apps_are_beside_each_other_where_there_is_room(example_site: Dyno, page) -> None:
    open_page(page, f"{base(example_site)}/pair")
    assert_plots_are_drawn(page, 2)
    tops = "() => [...document.querySelectorAll('.sheet')].map((sheet) => sheet.getBoundingClientRect().top)"
    above, below = page.evaluate(tops)
    assert above == below
    page.set_viewport_size({"width": 320, "height": 640})
    above, below = page.evaluate(tops)
    assert above + 400 < below


@pytest.mark.parametrize("name", [name for name in APPS if name not in INSIDE])
def test_behind_https_nothing_is_asked_for_over_http(example_behind_https: str, page, name: str) -> None:
    plain = []
    page.on("request", lambda request: request.url.startswith("http:") and plain.append(request.url))
    sockets = []
    page.on("websocket", lambda websocket: sockets.append(websocket.url))
    for where in ("apps", "bkapp"):
        open_page(page, f"{example_behind_https}/{where}/{name}")
        assert_plots_are_drawn(page, 1)
    assert plain == []
    assert len(sockets) == 2
    assert all(url.startswith("wss://") for url in sockets), sockets


def test_https_only_and_another_prefix_work_together_in_a_browser(routed_behind_https: str, page) -> None:
    addresses = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("websocket", lambda websocket: addresses.append(websocket.url))
    open_page(page, f"{routed_behind_https}/with/counter+plain.one")
    assert_plots_are_drawn(page, 2)
    before = source_values(page)
    turn_slider(page)
    source_values(page, different_from=before)
    open_page(page, f"{routed_behind_https}/plots/live.v1/counter")
    assert_plots_are_drawn(page, 1)
    assert {address.split(":")[0] for address in addresses if not address.startswith("data:")} == {"https", "wss"}


@pytest.mark.parametrize("path", ["/", "/plot", "/pair", "/login", *SHOWN])
def test_no_html_behind_https_names_an_http_address_of_the_site(example_site: Dyno, path: str) -> None:
    answer = example_site.request("GET", path, {"Host": "www.example.com", "X-Forwarded-Proto": "https"})
    assert answer.status == 200
    assert "http://www.example.com" not in answer.text
    assert not re.search(r"""(src|href|action)=["']http:""", answer.text)
    assert not re.search(r"ws://|http://(localhost|127\.0\.0\.1)", answer.text)


@pytest.mark.parametrize(("path", "is_open"), [("/", False), ("/apps/sliders", True), ("/apps/dyno", False)])
def test_no_link_leads_to_a_page_that_is_refused(monkeypatch, path: str, is_open: bool) -> None:
    monkeypatch.setenv("BOKEH_SECRET_KEY", secrets.token_hex(32))
    for sessions, linked in (("open", is_open), ("flask", False)):
        text = create_app({"BOKEH_SESSIONS": sessions}).test_client().get(path).text
        assert ('href="/bkapp/' in text) == linked


@pytest.mark.parametrize("path", ["/", "/plot", "/pair", "/login", "/nope", "/apps/sea_surface", "/apps/dyno"])
@pytest.mark.parametrize("width", [320, 640, 1280])
def test_no_page_scrolls_sideways_or_moves_while_it_loads(example_site: Dyno, page, path: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    page.add_init_script("""
        window.moved = []
        new PerformanceObserver((list) => moved.push(...list.getEntries().map((entry) => entry.value)))
          .observe({type: "layout-shift", buffered: true})
    """)
    page.goto(f"{base(example_site)}{path}", wait_until="networkidle")
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    assert sum(page.evaluate("() => moved")) < 0.02
    page.complaints[:] = [one for one in page.complaints if "404" not in one or path != "/nope"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_an_unknown_app_or_page_is_a_404_of_the_site(example_site: Dyno, method: str) -> None:
    for path in ("/nope", *(("/apps/nope", "/apps/", "/bkapp/nope") if method == "GET" else ())):
        answer = example_site.request(method, path)
        assert answer.status == 404, path
        assert "<nav" in answer.text, path


def test_a_page_that_takes_no_form_says_so(example_site: Dyno) -> None:
    answer = example_site.request("POST", "/pair")
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


# --- what is said of an app -------------------------------------------------------------------------------------------

DESCRIBED = """Draws
what <you> like.

More of it, for those who read the source: nothing of this is shown.

Try: this, over
  two lines, in `code`.
- That.
Tags: one, two words,
  three
Source: shown
"""


def test_the_docstring_of_an_app_is_what_the_gallery_says_of_it() -> None:
    app = gallery.described("my_own", DESCRIBED)
    assert app == gallery.App(
        "my_own",
        "Draws what <you> like.",
        ("This, over two lines, in `code`.", "That."),
        ("one", "two words", "three"),
        True,
    )
    assert app.title == "My own"
    assert gallery.described("bare", "") == gallery.App("bare")
    assert gallery.described("bare", "One line.\n\nSource: hidden\nTags:\nTry:") == gallery.App("bare", "One line.")


@pytest.fixture
def apps_of(scratch: Path, monkeypatch) -> Path:
    """An empty folder in the place of bokeh_app/."""
    monkeypatch.setattr(apps, "FOLDER", scratch)
    monkeypatch.setenv("BOKEH_SECRET_KEY", secrets.token_hex(32))
    return scratch


def page_of(name: str) -> str:
    """Return the page of an app."""
    answer = create_app().test_client().get(f"/apps/{name}")
    assert answer.status_code == 200
    return answer.text


def test_an_app_of_any_kind_has_a_card_and_a_page(apps_of: Path) -> None:
    (apps_of / "a_script.py").write_text('"""Is one file."""\nfrom bokeh.io import curdoc\n')
    cells = [{"cell_type": "markdown", "source": ["# a_notebook\n", "\n", "Is a notebook.\n", "\n", "Tags: cells"]}]
    (apps_of / "a_notebook.ipynb").write_text(json.dumps({"cells": cells}))
    (apps_of / "broken").mkdir()
    (apps_of / "broken" / "main.py").write_text("this is no Python")
    (apps_of / "broken.ipynb").write_text("[]")
    (apps_of / "empty").mkdir()
    (apps_of / "empty" / "main.py").write_text("")
    client = create_app().test_client()
    text = client.get("/").text
    for sentence in ("Is one file.", "Is a notebook.", "<li>cells</li>", "Broken", "Empty"):
        assert sentence in text
    stand_ins = re.findall(r'class="stand-in" src="([^"]*)"', text)
    assert len(stand_ins) == 5
    with client.get(stand_ins[0]) as picture:
        assert picture.mimetype == "image/svg+xml"
    for name in ("a_script", "a_notebook", "broken", "empty"):
        assert f'data-bokeh-app="/bkapp/{name}"' in page_of(name)
        assert "<details" not in page_of(name)


def test_the_source_of_an_app_is_shown_when_it_says_so(apps_of: Path) -> None:
    folder = apps_of / "mine"
    (folder / "parts" / ".hidden").mkdir(parents=True)
    main = folder / "main.py"
    main.write_text('"""Mine."""\nSECRET = "s3cret"\n')
    assert "s3cret" not in page_of("mine")
    main.write_text('"""Mine.\n\nSource: shown\n"""\nx = "<script>" + \'&amp;\'  # why\n')
    (folder / "parts" / "curve.js").write_text("const y = 2 // js\n")
    for name in ("__init__.py", "_private.py", "parts/.hidden/x.py", ".env", "data.csv", "password.txt"):
        (folder / name).write_text("s3cret")
    (apps_of / "elsewhere.html").write_text("s3cret")
    (folder / "link.html").symlink_to(apps_of / "elsewhere.html")
    text = page_of("mine")
    assert "s3cret" not in text
    assert re.findall(r"<summary><code>(.*?)</code> <span>(\d+) lines", text) == [
        ("main.py", "5"),
        ("parts/curve.js", "1"),
    ]
    assert '<span class="s">&#34;&lt;script&gt;&#34;</span>' in text
    assert '<span class="c"># why\n</span>' in text or '<span class="c"># why</span>' in text
    # as it is in the file, but for the colours
    shown = html.unescape(re.sub(r"<[^>]*>", "", re.search(r"<pre[^>]*>(.*?)</pre>", text, re.DOTALL)[1]))
    assert shown == main.read_text()


def test_from_each_app_there_is_a_way_to_the_one_before_and_after(apps_of: Path) -> None:
    for name in ("a", "b", "c"):
        (apps_of / name).mkdir()
        (apps_of / name / "main.py").write_text('"""One."""')
    found = {name: re.findall(r'<a rel="(prev|next)" href="/apps/(\w)">', page_of(name)) for name in "abc"}
    assert found == {"a": [("next", "b")], "b": [("prev", "a"), ("next", "c")], "c": [("prev", "b")]}


def test_there_is_a_small_picture_of_every_app_light_and_dark() -> None:
    names = {path.name for path in gallery.PICTURES.glob("*.webp")}
    assert names == {f"{name}-{scheme}.webp" for name in (*FOLDERS, "pair", "plot") for scheme in ("light", "dark")}
    for name in names:
        assert (gallery.PICTURES / name).stat().st_size <= 25_000, name
        with Image.open(gallery.PICTURES / name) as picture:
            assert picture.size == (640, 400), name


# --- for those who link to the site -----------------------------------------------------------------------------------


def meta(text: str) -> dict[str, str]:
    """Return what a page says of itself to others."""
    found = re.findall(r'<meta (?:name|property)="([\w:]+)" content="([^"]*)">', text)
    return {name: html.unescape(content) for name, content in found}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("path", "picture"), [("/", "preview"), ("/pair", "preview"), ("/apps/sliders", "sliders-light")]
)
def test_a_link_to_a_page_can_be_shown_with_a_picture(example_site: Dyno, path: str, picture: str, scheme: str) -> None:
    headers = {"Host": "www.example.com", "X-Forwarded-Proto": scheme}
    said = meta(example_site.request("GET", path, headers).text)
    assert len(said["description"]) > 40
    assert said["og:description"] == said["description"]
    assert said["og:title"]
    address, _, there = said["og:image"].partition("/static/")
    assert address == f"{scheme}://www.example.com"
    assert picture in there
    answer = example_site.get(f"/static/{there}")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/webp")


def test_crawlers_are_kept_from_the_apps_own_pages(example_site: Dyno) -> None:
    answer = example_site.get("/robots.txt")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    robots = RobotFileParser()
    robots.parse(answer.text.splitlines())
    for path, is_allowed in (
        ("/", True),
        ("/apps/sliders", True),
        ("/bkapp/sliders", False),
        ("/bkapp/static/dyno.js", True),
    ):
        assert robots.can_fetch("Somebot", f"http://www.example.com{path}") is is_allowed, path


def test_the_apps_own_pages_have_the_icon_of_the_site(example_site: Dyno) -> None:
    answer = example_site.get("/favicon.ico")
    assert answer.status == 200
    with Image.open(io.BytesIO(answer.body)) as icon:
        assert (icon.format, icon.size) == ("ICO", (48, 48))
    assert len(answer.body) < 6000


# --- the app that shows what goes on inside ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def routed_example() -> Iterator[Dyno]:
    """The example as on a platform, where its router is believed, with somebody who can log in."""
    yield from run_for_the_session(
        None, "installed", FORWARDED_ALLOW_IPS="*", DEMO_PASSWORD="pass-word", BOKEH_WORKERS="1"
    )


@pytest.mark.parametrize("address", ["203.0.113.7", "127.0.0.1", "::1", "127.0.0.1, 203.0.113.7", ""])
def test_nobody_from_elsewhere_sees_what_goes_on_inside(routed_example: Dyno, address: str) -> None:
    headers = {"X-Forwarded-For": address, "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1", "Host": "localhost"}
    assert "/apps/dyno" not in routed_example.request("GET", "/", headers).text
    answer = routed_example.request("GET", "/apps/dyno", headers)
    assert (answer.status, answer.headers["location"]) == (302, "/login?next=%2Fapps%2Fdyno")


def test_an_address_that_only_the_visitor_gives_is_not_believed(example_site: Dyno) -> None:
    assert "/apps/dyno" in example_site.get("/").text
    # the router on this machine says that the visitor is elsewhere, whatever the visitor has said
    for said in ("203.0.113.7", "127.0.0.1, 203.0.113.7"):
        headers = {"X-Forwarded-For": said, "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"}
        assert "/apps/dyno" not in example_site.request("GET", "/", headers).text
        assert example_site.request("GET", "/apps/dyno", headers).status == 302


def test_who_is_logged_in_sees_what_goes_on_inside(routed_example: Dyno, page) -> None:
    page.goto(f"{base(routed_example)}/apps/dyno")
    page.get_by_label("Name").fill("demo")
    page.get_by_label("Password").fill("pass-word")
    page.locator("main button").click()
    page.wait_for_url("**/apps/dyno")
    assert_plots_are_drawn(page, 2)
    page.get_by_role("cell", name="bokeh master").wait_for()


def test_the_own_page_of_what_goes_on_inside_is_a_sentence(example_site: Dyno, page) -> None:
    for query in ("", "?inside=True", "?inside=1&visitor=%7B%22inside%22%3A+true%7D"):
        open_page(page, f"{base(example_site)}/bkapp/dyno{query}")
        page.get_by_text("for those who log in").wait_for()
        assert page.get_by_role("cell").count() == 0
        assert all(values == [] for source in source_values(page) for _, values in source)
        assert page.locator("canvas").first.is_hidden()


@pytest.mark.parametrize("host", ["x" * 64, ".example.com"])
def test_a_host_that_cannot_be_is_not_an_error_of_ours(example_site: Dyno, host: str) -> None:
    assert example_site.get("/", Host=host).status == 400


def test_the_run_of_every_app_at_boot_leaves_no_word_in_the_log(example_site: Dyno) -> None:
    boot = example_site.log().partition("ready after")[0]
    assert "starting honcho" in boot
    assert not re.findall(r"\b(?:WARNING|ERROR|Traceback|Exception)\b.*", boot)


# --- what a visitor does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/apps/sliders", "/bkapp/sliders", "/apps/sea_surface", "/bkapp/sea_surface"])
def test_a_slider_moves_the_plot(example_site: Dyno, page, path: str) -> None:
    open_page(page, f"{base(example_site)}{path}")
    assert_plots_are_drawn(page, 1)
    before = source_values(page)
    turn_slider(page, 3)
    assert source_values(page, different_from=before) != before


def test_arguments_of_the_page_reach_the_app(example_site: Dyno, page) -> None:
    for where in ("apps", "bkapp"):
        open_page(page, f"{base(example_site)}/{where}/sliders?title=Hello%20%26%20welcome&offset=2")
        assert_plots_are_drawn(page, 1)
        assert page.locator("input[type=text]").input_value() == "Hello & welcome"
        curve = dict(source_values(page)[0])["y"]
        assert 2.5 < max(curve) <= 3


def test_a_form_that_posts_reaches_flask(example_site: Dyno, page) -> None:
    open_page(page, f"{base(example_site)}/plot")
    assert_plots_are_drawn(page, 1)
    page.locator("textarea").fill("1, 2.5, -7e2\n4")
    with page.expect_navigation() as posted:  # the plot of the page before is drawn, too
        page.locator("main button").click()
    assert (posted.value.request.method, posted.value.status) == ("POST", 200)
    assert_plots_are_drawn(page, 1)
    assert dict(source_values(page)[0])["y"] == [1, 2.5, -700, 4]


def test_a_form_that_cannot_be_drawn_says_why(example_site: Dyno, page) -> None:
    open_page(page, f"{base(example_site)}/plot")
    page.locator("textarea").fill("1, two, 3")
    page.locator("main button").click()
    page.get_by_role("alert").filter(has_text="“two” is not a number").wait_for()
    assert page.complaints.pop().startswith(("400", "console"))
    page.complaints.clear()
    page.locator("textarea").fill("5, 6")
    page.locator("main button").click()
    assert_plots_are_drawn(page, 1)


@pytest.mark.parametrize("digits", ["1" * 400_000, f"{'1' * 200_000}.{'1' * 200_000}", "1" * 999])
def test_a_long_word_that_is_no_number_is_refused_at_once(digits: str) -> None:
    client = create_app().test_client()
    began = time.process_time()
    answer = client.post("/plot", data={"numbers": f"1, {digits}x"})
    assert time.process_time() - began < 2
    assert answer.status_code == 400
    assert "too long to be a number" in answer.text or "is not a number" in answer.text


def test_the_static_plot_needs_no_bokeh_server(example: Path, dyno, page) -> None:
    one = dyno(example).start()
    workers = one.bokeh_workers()
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    try:
        open_page(page, f"{base(one)}/plot")
        assert_plots_are_drawn(page, 1)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGCONT)


def test_the_dyno_app_streams(example_site: Dyno, page) -> None:
    open_page(page, f"{base(example_site)}/apps/dyno")
    assert_plots_are_drawn(page, 1)
    first = source_values(page)
    second = source_values(page, different_from=first)
    third = source_values(page, different_from=second)
    lengths = [sum(len(values) for source in values_of for _, values in source) for values_of in (first, second, third)]
    assert lengths[0] < lengths[1] < lengths[2]


def test_long_work_shows_how_far_it_is_and_can_be_cancelled(example_site: Dyno, page) -> None:
    open_page(page, f"{base(example_site)}/apps/sea_surface")
    assert_plots_are_drawn(page, 1)
    begin, cancel = (page.get_by_role("button", name=name) for name in ("How sure is it?", "Cancel"))

    def percent() -> int:
        return page.evaluate("Bokeh.documents[0].get_model_by_name('progress').value")

    def band() -> list:
        return next(dict(values)["low"] for values in source_values(page) if "low" in dict(values))

    begin.click()
    first = wait_for("some progress", percent, 60)
    process = example_site.find(r"sea_surface\.band")[0]
    assert example_site.get("/healthz").status == 200
    for _ in range(4):  # of both workers
        assert example_site.get("/bkapp/sliders").status == 200
    wait_for("more progress", lambda: percent() > first, 60)
    process.suspend()  # or it may be done before that
    cancel.click()
    page.locator(".sheet").get_by_text("Cancelled.").wait_for()
    wait_for("the end of the process", lambda: not is_alive(process))
    assert band() == []
    begin.click()
    page.locator(".sheet").get_by_text("it is in the orange band").wait_for(timeout=120_000)
    assert len(band()) > 500
    wait_for("the process, which has said all, to end", lambda: not example_site.find(r"sea_surface\.band"))
    turn_slider(page, 3)
    wait_for("no band around another average", lambda: band() == [])


def test_long_work_waits_for_other_visitors_and_ends_when_its_own_leaves(one_worker: Dyno, browser, page) -> None:
    first = browser.new_page()
    try:
        for visitor in (first, page):
            open_page(visitor, f"{base(one_worker)}/bkapp/sea_surface")
            assert_plots_are_drawn(visitor, 1)
        first.get_by_role("button", name="How sure is it?").click()
        process = wait_for("the process", lambda: one_worker.find(r"sea_surface\.band"))[0]
        process.suspend()  # or it may be done before the other visitor comes
        page.get_by_role("button", name="How sure is it?").click()
        page.get_by_text("Waiting until another visitor's work is done").wait_for()
        process.resume()
    finally:
        first.close()
    page.get_by_text("Computing").wait_for()
    assert not is_alive(process)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.").wait_for()


GOOD_CSV = b"day,north,south\n2026-01-01,1.5,7\n2026-01-02,2.5,8\n2026-01-03,,9\n"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001e5"
)


@pytest.mark.parametrize("where", ["apps", "bkapp"])
def test_a_csv_is_drawn_and_what_is_none_gets_a_sentence(example_site: Dyno, page, where: str, scratch: Path) -> None:
    open_page(page, f"{base(example_site)}/{where}/upload")
    assert_plots_are_drawn(page, 1)

    def upload(name: str, content: bytes, sentence: str) -> None:
        (scratch / name).write_bytes(content)
        page.locator("input[type=file]").set_input_files(scratch / name)
        page.get_by_text(re.compile(rf"^{re.escape(name)}: .*{sentence}")).wait_for(timeout=60_000)

    upload("picture.csv", PNG, "not a CSV")
    upload("empty.csv", b"", "empty")
    upload("huge.csv", b"1,2,3\n" * 10_000_000, "60.0 MB; at most 10 MB")
    upload("words.csv", b"name,city\nAda,London\n", "no column of numbers")
    upload("large.csv", b"123,456789\n" * 800_000, "800,000 rows")  # 8.8 MB, 11.7 on the WebSocket
    upload("good.csv", GOOD_CSV, "3 rows, 2 columns of numbers")
    drawn = [dict(values) for values in source_values(page) if values]
    assert [1.5, 2.5] in [values["y"][:2] for values in drawn if "y" in values]
    assert [7, 8, 9] in [values["y"] for values in drawn if "y" in values]
    assert_plots_are_drawn(page, 1)


# --- sessions ---------------------------------------------------------------------------------------------------------


def runs(one: Dyno) -> list[list[str]]:
    """Return [session id, worker's pid] for each run of the counter app so far."""
    file = Path(one.env["TEST_COUNTER"])
    return [line.split() for line in file.read_text().splitlines()]


@pytest.mark.parametrize("path", ["/with/counter", "/plots/live.v1/counter"], ids=["embedded", "own page"])
def test_24_views_run_the_app_24_times_and_spread_over_the_workers(routed_site: Dyno, path: str) -> None:
    https = {"X-Forwarded-Proto": "https"}
    before = len(runs(routed_site))
    for _ in range(24):
        text = routed_site.request("GET", path, https).text
        token = token_in(text)
        status, websocket = routed_site.handshake("/plots/live.v1/counter/ws", token, **https)
        with websocket:
            assert status == 101
            assert websocket.recv(100)  # the session is there, so the app has run
    fresh = runs(routed_site)[before:]
    assert len(fresh) == 24
    assert len({session for session, _ in fresh}) == 24
    assert len({pid for _, pid in fresh}) >= 2


def test_a_view_in_the_browser_runs_the_app_once(site: Dyno, page) -> None:
    before = len(runs(site))
    for path, count in (("/with/counter", 1), ("/bkapp/counter", 1), ("/with/counter+counter", 2)):
        open_page(page, f"{base(site)}{path}")
        assert_plots_are_drawn(page, count)
        assert len(runs(site)) == before + count
        before += count


def test_a_new_folder_is_a_new_app_with_no_other_file_touched(example: Path, dyno, page) -> None:
    shutil.copytree(ROOT / "tests" / "site" / "bokeh_app" / "plain.one", example / "bokeh_app" / "brand_new")
    one = dyno(example).start()
    open_page(page, f"{base(one)}/")
    page.locator('a[href="/apps/brand_new"]').click()
    assert_plots_are_drawn(page, 1)
    open_page(page, f"{base(one)}/bkapp/brand_new")
    assert_plots_are_drawn(page, 1)
