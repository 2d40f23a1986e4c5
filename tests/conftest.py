"""Fixtures: copies of the project, dynos in them, a browser.

A test that changes or stops a dyno makes its own with `dyno`; all others share the running ones.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import browsing  # noqa: F401 (for its effect on playwright)
import pytest
from dyno_under_test import OTHER_SITE, Dyno, copy_project, temporary_folder

# further nginx binaries to run the site with, such as the buildpack's: TEST_NGINX=/some/where/nginx bin/test
NGINXES = ["installed", *filter(None, [os.environ.get("TEST_NGINX")])]

# in the background of a script (bin/test &) it is ignored, also by whatever the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the figures that tests have noted with `record_property("figure", …)`."""
    reports = [report for of_outcome in terminalreporter.stats.values() for report in of_outcome]
    lines = [
        f"{report.nodeid.split('::')[-1]}: {text}"
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, text in report.user_properties
        if name == "figure"
    ]
    if lines:
        terminalreporter.section("figures")
        terminalreporter.write("\n".join([*sorted(lines), ""]))


@pytest.fixture
def scratch() -> Iterator[Path]:
    """An empty folder with a short path, which everybody may read."""
    folder = temporary_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def project(scratch: Path) -> Path:
    """A copy of the project with the site of the tests in the place of the example, to change at will."""
    return copy_project(scratch / "app", OTHER_SITE)


@pytest.fixture
def example(scratch: Path) -> Path:
    """A copy of the project as it is, to change at will."""
    return copy_project(scratch / "example")


@pytest.fixture
def dyno() -> Iterator[Callable[..., Dyno]]:
    """Make dynos, not yet started, with the arguments of `Dyno`; those still running at the end are stopped."""
    made = []

    def make(*arguments, **keywords) -> Dyno:
        made.append(Dyno(*arguments, **keywords))
        return made[-1]

    yield make
    try:
        for one in made:
            if one.process and one.process.poll() is None:
                one.process.send_signal(signal.SIGINT)
                one.wait()
        for one in made:  # after all of them have stopped: some share a folder
            one.assert_nothing_left()
    finally:
        for one in made:
            one.clean_up()


def run_for_the_session(site: Path | None, nginx: str, **env: str) -> Iterator[Dyno]:
    """Run a dyno in a copy of its own until the session ends, and see that nothing is left of it."""
    scratch = temporary_folder()
    one = None
    try:
        folder = copy_project(scratch / "app", site)
        if nginx != "installed":
            (folder / "bin" / "nginx").symlink_to(Path(nginx).resolve())
        one = Dyno(folder, {"TEST_COUNTER": str(scratch / "runs"), **env})
        yield one.start()
        assert one.stop() == 0, one.log()
    finally:
        if one:
            one.clean_up()
        shutil.rmtree(scratch)


@pytest.fixture(scope="session", params=NGINXES)
def site(request: pytest.FixtureRequest) -> Iterator[Dyno]:
    """The site of the tests, running with its defaults and with what Heroku's Python buildpack sets for gunicorn."""
    yield from run_for_the_session(OTHER_SITE, request.param, GUNICORN_CMD_ARGS="--access-logfile -")


@pytest.fixture(scope="session", params=NGINXES)
def routed_site(request: pytest.FixtureRequest) -> Iterator[Dyno]:
    """The site of the tests behind a router: trusted, https only, another prefix, a friend that may embed the apps."""
    yield from run_for_the_session(
        OTHER_SITE,
        request.param,
        FORWARDED_ALLOW_IPS="*",
        FORCE_HTTPS="1",
        BOKEH_PREFIX="/plots/live.v1",
        BOKEH_ALLOW_WS_ORIGIN="friend.example,*.partner.example:8443",
        BOKEH_WORKERS="4",
    )


@pytest.fixture(scope="session", params=NGINXES)
def example_site(request: pytest.FixtureRequest) -> Iterator[Dyno]:
    """The example, running as it is."""
    yield from run_for_the_session(None, request.param)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A Chromium without a window: the system's, or the one that playwright has installed."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "google-chrome", "google-chrome-stable")
    installed = (path for path in map(shutil.which, names) if path and not path.startswith("/snap/"))
    with sync_playwright() as playwright:
        # one process for all pages: to start another takes as much CPU as a page with a plot
        arguments = ["--no-sandbox", "--process-per-site"]
        chromium = playwright.chromium.launch(executable_path=next(installed, None), args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def context(browser) -> Iterator:
    """A browser's profile, for one page after the other; a page that stays open keeps the process of the others alive."""
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1000, "height": 900})
    first = context.new_page()
    first.route("**", lambda route: route.fulfill(body="", content_type="text/html"))
    first.goto("http://127.0.0.1/")
    context.wire = context.new_cdp_session(first)
    yield context
    context.close()


@pytest.fixture
def page(context) -> Iterator:
    """A page of a browser that has kept nothing.

    It fails the test for any error in the console, failed request, or http:// address behind https. What a test expects to
    go wrong it takes out of `page.complaints`.
    """
    context.clear_cookies()
    context.wire.send("Network.clearBrowserCache")
    page = context.new_page()
    page.complaints = complaints = []

    def note(message) -> None:
        # what changes while the connection is being lost is sent for nothing, and entered again later
        if message.type == "error" and message.text != "WebSocket is already in CLOSING or CLOSED state.":
            complaints.append(f"console: {message.text}")

    begun, given_up = set(), set()

    def begin(request) -> None:
        if request.is_navigation_request():
            given_up.update(begun)
        begun.add(request)

    def fail(request) -> None:
        # a page that is left gives up what is still on its way, such as the script that comes a second after all others
        if request not in given_up or request.failure != "net::ERR_ABORTED":
            complaints.append(f"request failed: {request.url} {request.failure}")

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", begin)
    page.on("requestfailed", fail)
    page.on("response", lambda answer: answer.status >= 400 and complaints.append(f"{answer.status}: {answer.url}"))
    yield page
    for one in context.pages[1:]:  # those too that it has opened
        one.close()
    assert complaints == []
