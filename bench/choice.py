"""What to choose: the same slider and curve in what people pick, and what becomes of an open page when its server was away."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from statistics import median

from dyno_under_test import free_port

from bench.browser import on_a_slow_line, wait_until_idle
from bench.client import WrongAnswer, get
from bench.edits import APP, PANEL, SLIDER, STREAMLIT, other, run_alone, titled
from bench.line import Direction
from bench.peers import PATH, dyno, lasting
from bench.server import Server, Urls
from bench.tables import Run, Table, part

AWAY = 8.0  # s, from the end of the server to its start
PATIENCE = 60.0  # s, for a page to come back by itself, and for its first view
STEPS = 3  # of the slider, before the server goes
DASH = """import numpy as np
from dash import Dash, Input, Output, dcc, html

TITLE = "edit 0"
x = np.linspace(0, 10, 200)
app = Dash()
server = app.server
app.layout = html.Div([
    html.P(id="text"), dcc.Slider(0, 100, 1, value=1, marks=None, id="height"), dcc.Graph(id="plot"),
])


@server.get("/site")
def site():
    return "A page"


@app.callback(Output("text", "children"), Output("plot", "figure"), Input("height", "value"))
def move(value):
    return f"{TITLE}: {value:.0f}.", {"data": [{"x": x, "y": value * np.cos(x)}]}
"""
# every element of a page, in whatever shadow root
ALL = """const all = (root) => [...root.querySelectorAll("*")]
  .flatMap((one) => [one, ...(one.shadowRoot ? all(one.shadowRoot) : [])])
const number = () => all(document).filter((one) => ["P", "DIV"].includes(one.tagName))
  .map((one) => /edit 0: (\\d+)\\./.exec(one.textContent)?.[1]).find((one) => one != null)"""
NUMBER = f"() => {{ {ALL}\n return Number(number() ?? 0) }}"
# the text and a drawing are there
ALIVE = f"""() => new Promise((resolve) => {{
  {ALL}
  const is_drawn = () => all(document).some((one) => ["canvas", "svg"].includes(one.tagName.toLowerCase()) &&
    one.getBoundingClientRect().width > 200 && one.getBoundingClientRect().height > 100)
  const look = () => document.body != null && number() == "1" && is_drawn() ? resolve(performance.now() / 1000)
    : requestAnimationFrame(look)
  look()
}})"""


def bokeh_dyno(server: Server) -> Urls:
    """**this**"""
    urls = dyno(server, further={"edited": APP}, BOKEH_SECRET_KEY=secrets.token_hex(32))
    return Urls(urls.site, urls.ready, views=f"{urls.site}/view/edited")


def bokeh_serve(server: Server) -> Urls:
    """`bokeh serve`"""
    return alone(server, APP, "bokeh serve edited --port {port}", "/edited/metadata", "/edited")


def panel_serve(server: Server) -> Urls:
    """`panel serve`"""
    return alone(server, PANEL, "panel serve edited/main.py --port {port}", "/main", "/main")


def streamlit_run(server: Server) -> Urls:
    """Streamlit"""
    options = "--server.headless true --server.address 127.0.0.1 --browser.gatherUsageStats false"
    return alone(
        server, STREAMLIT, f"streamlit run edited/main.py {options} --server.port {{port}}", "/_stcore/health", "/"
    )


def dash_gunicorn(server: Server) -> Urls:
    """Dash, gunicorn"""
    command = "gunicorn --workers 2 --bind 127.0.0.1:{port} edited.main:server"
    urls = alone(server, DASH, command, "/", "/")
    return Urls(urls.views + "site", urls.ready, views=urls.views)


def bokeh_asgi(server: Server) -> Urls:
    """BokehASGI, uvicorn, Flask mounted"""
    port = free_port()
    server.prepare()
    (server.folder / "bokeh_app" / "curve" / "main.py").write_text(APP)
    site = f"http://127.0.0.1:{port}"
    server.run(
        f"uvicorn --factory bench.peer_servers:asgi --port {port} --no-access-log",
        PYTHONPATH=PATH, BENCH_BOKEH_URL=f"{site}/bkapp", **lasting(0),
    )  # fmt: skip
    return Urls(site, [site], views=f"{site}/view/curve")


def alone(server: Server, app: str, command: str, ready: str, views: str) -> Urls:
    """Run a server that has one app, and no site."""
    urls = other(server, app, command, ready, views)
    return Urls("", urls.ready, views=urls.views)


def named(adapter: Callable[[Server], Urls]) -> str:
    """Return the name of a server in the table, with its version where that is not the first word of its function."""
    return adapter.__doc__ if adapter is bokeh_dyno else titled(adapter)


CHOICES = {named(one): one for one in (bokeh_dyno, bokeh_serve, bokeh_asgi, panel_serve, streamlit_run, dash_gunicorn)}


def look(browser, down: Direction, server: Server) -> dict[str, float]:
    """Open the page of a server, move its slider, have the server go and come back; return the figures."""
    context = browser.new_context(viewport={"width": 1000, "height": 900}, bypass_csp=True)
    try:
        page = context.new_page()
        wait_until_idle()
        before = down.bytes
        page.goto(server.urls.views, wait_until="commit")
        figures = {"alive s": page.evaluate(ALIVE)}
        page.wait_for_load_state("networkidle")
        figures["kB"] = (down.bytes - before) / 1000
        figures["one port"] = float(has_site(server))
        for step in range(STEPS):
            press(page)
            if not follows(page, lambda number, step=step: number == step + 2, PATIENCE):
                raise WrongAnswer(f"the slider was moved to {step + 2}, the page says {page.evaluate(NUMBER)}")
        server.crash()
        time.sleep(AWAY)
        server.start_again()
        return figures | after_restart(page)
    finally:
        context.close()


def after_restart(page) -> dict[str, float]:
    """Return when the text follows the slider again, and whether from where it was; 0 and nothing when it never does."""
    from playwright.sync_api import Error

    began = time.monotonic()
    while (seconds := time.monotonic() - began) < PATIENCE:
        with contextlib.suppress(Error):  # it is being replaced
            was = page.evaluate(NUMBER)
            press(page)
            if follows(page, lambda number, was=was: number not in (0, was), 1):
                return {"comes back": 1, "values kept": float(page.evaluate(NUMBER) > STEPS + 1), "after s": seconds}
    return {"comes back": 0, "values kept": 0}


def press(page) -> None:
    """Move the slider by a step, as somebody at the keyboard does."""
    page.locator(SLIDER).first.press("ArrowRight", timeout=1000)


def follows(page, is_so: Callable[[float], bool], seconds: float) -> bool:
    """Wait until the number in the page's text is as wanted; return whether it is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so(page.evaluate(NUMBER)):
            return True
        page.wait_for_timeout(50)
    return False


def has_site(server: Server) -> bool:
    """Return whether a page of the site is at the port where the plots are."""
    if not server.urls.site:
        return False
    return b"A page" in get(server.urls.site)


@part
def choice(run: Run) -> Iterator[Table]:
    """the same slider and curve in what people pick: alive, kB, an open page after its server was away; writes README"""
    table = Table(
        "What to choose",
        "A slider, a text and a curve, in Chromium, cold, 10 Mbit/s and 80 ms. alive: the text and a drawing are there; kB: all "
        f"that the browser received. Then the slider is moved by {STEPS}, every process is killed, and started again after "
        f"{AWAY:.0f} s. comes back: 1 where, within {PATIENCE:.0f} s and without a reload by hand, the text follows the slider; "
        "after s: once the server answers; values kept: 1 where the slider goes on from where it was. one port: 1 where a "
        "page of a site is there, too.",
    )

    def once(name: str) -> None:
        def use(server: Server, _: float) -> None:
            with on_a_slow_line() as (browser, down):
                table.add(name, look(browser, down, server))

        run_alone(name, CHOICES[name], use)

    run.in_turns(table, CHOICES, once)
    yield table


def summary(table: Table, taken: str) -> str:
    """Return the table for README, in words where a figure is one."""

    def page(cells: dict[str, list[float]]) -> str:
        if not median(cells["comes back"]):
            return "is lost"
        kept = "its values are kept" if median(cells["values kept"]) else "its values are lost"
        seconds = round(median(cells["after s"]))
        return f"comes back {f'after {seconds} s' if seconds else 'at once'}, {kept}"

    rows = [
        f"| {name} | {page(cells)} | {median(cells['alive s']):.1f} | {median(cells['kB']):,.0f} | "
        f"{'yes' if median(cells['one port']) else 'no'} |"
        for name, cells in table.rows.items()
        if name not in table.failures
    ]
    head = f"| | an open page, when the server was away for {AWAY:.0f} s | alive, s | kB | site and plots on one port |"
    how = f"The same slider and curve in each, cold, at 10 Mbit/s and 80 ms ({taken}; `bin/bench choice` measures it):"
    return "\n".join([how, "", head, "|---|---|---|---|---|", *rows])
