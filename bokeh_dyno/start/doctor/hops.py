"""A site asked through each hop before it, and which one has failed: router, nginx, Flask, Bokeh, the WebSocket's way."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator, Sequence
from urllib.parse import urljoin, urlsplit

from bokeh_dyno.start.doctor.visit import FULL, Answer, Opened, Site, why

REDIRECTS = 4
LINES = 40  # of /healthz, that are repeated
# how a page has the app that it shows, and its session's token (bokeh_dyno/flask/embed.py, bokeh/own_page.py)
APP = re.compile(r'data-bokeh-app="([^"]+)"\s+data-bokeh-token="([^"]+)"')


def ask(site: Site, prefix: str, names: Sequence[str], has_key: bool) -> Iterator[str]:
    """Yield lines about a site: /healthz, a page, a WebSocket.

    prefix is BOKEH_PREFIX, names are those of the apps, has_key says whether BOKEH_SECRET_KEY is set here.
    """
    try:
        health = site.get("/healthz")
    except OSError as error:
        yield f"WRONG {site.name} does not answer: {why(error)}"
        return
    yield from _of_health(site, health)
    found = None
    try:
        for path in (site.path, *(f"{prefix}/{name}" for name in names)):
            page = yield from _page(site, path, tells=path == site.path)
            if page is None:
                return
            if found := APP.search(page):
                break
        if found:
            app, token = found.groups()
            if has_key and not _is_ours(token):
                yield f"note {site.name} signs with another key than BOKEH_SECRET_KEY here: restart it, if that is its key"
        elif has_key and names:
            app, token = f"{prefix}/{names[0]}", _minted(names[0])
        else:
            yield f"note no page with a plot was found: name one, --url {site.name}/its/page"
            return
        yield from _websocket(site, app, token, is_minted=not found)
    except OSError as error:
        yield f"WRONG {site.name} does not answer any more: {why(error)}"


def _of_health(site: Site, answer: Answer) -> Iterator[str]:
    shown, lines = f"{site.name}/healthz", answer.text.splitlines()
    is_text = answer.headers.get("content-type", "").startswith("text/plain")
    if answer.status == 200 and lines[:1] == ["ok"]:
        yield f"ok   {shown} says that all is well" if lines == ["ok"] else f"ok   {shown} says that the site can serve"
        lines = lines[1:]
    elif answer.status == 503 and is_text and re.search("^stopping$|does not answer", answer.text, re.MULTILINE):
        pass
    elif "herokucdn.com" in answer.text or "no-such-app" in answer.text:
        yield f"WRONG Heroku's router has no dyno that answers ({answer.status}): `heroku logs --tail` has the code, such as H10"
        return
    elif answer.status == 401:
        yield f"WRONG {shown} asks for a password, which no platform's router has: let /healthz through"
        return
    elif answer.status in (502, 503, 504):
        yield f"WRONG {shown} answers {answer.status}: the router reaches no dyno: does one run, on that port?"
        return
    else:
        yield f"WRONG {shown} answers {answer.status}, and not as a dyno does: what else has that address, or path?"
        return
    for line in lines[:LINES]:
        if line == "stopping":
            yield f"note {site.name} is stopping: ask again when it is back"
        elif "could not run" in line:
            yield f"WRONG {line}: the log has its traceback"
        else:
            yield f"WRONG {line}: is it busy, or was it killed? The lines of {line.split(' ')[0]} in the log say why"


def _page(site: Site, path: str, *, tells: bool) -> Generator[str, None, str | None]:
    """Yield lines about a page, the good ones only when it `tells`; return its text, None when no other needs to be asked for."""
    for _ in range(REDIRECTS):
        answer = site.get(path)
        if not (300 <= answer.status < 400 and (target := answer.headers.get("location"))):
            break
        parts = urlsplit(urljoin(f"{site.name}{path}", target))
        new_path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if parts.scheme == "https" and not site.is_https and not site.is_local:
            yield f"note {site.name} redirects to https: ask --url https://{parts.netloc}{new_path}"
            return None
        if parts.netloc.lower() != site.host.lower() and not site.is_local:
            yield f"note {site.name}{path} redirects to another site: ask --url {parts.scheme}://{parts.netloc}"
            return None
        if site.is_https and new_path == path and "Sec-Fetch-Mode" not in site.headers:
            yield (
                f"WRONG {site.name}{path} redirects to itself (FORCE_HTTPS): the router does not say `X-Forwarded-Proto: https`; "
                "have it do so"
            )
            site.headers["Sec-Fetch-Mode"] = "navigate"  # with which browsers get through
        path = new_path
    else:
        yield f"WRONG {site.name}{path} redirects again and again: do the site and the router each want another address?"
        return None
    yield from _of_page(site, path, answer, tells=tells)
    return None if answer.status in (401, 421, 502) else answer.text


def _of_page(site: Site, path: str, answer: Answer, *, tells: bool) -> Iterator[str]:
    status, shown = answer.status, f"{site.name}{path.partition('?')[0]}"
    if status == 401:
        yield f"note {shown} asks for a password: --url {site.name.replace('://', '://NAME:PASSWORD@')}"
    elif status == 421:
        yield (
            f"WRONG {shown} answers 421, as a site without that name does: add it to ALLOWED_HOSTS, or have {site.between} pass "
            "Host on as it came"
        )
    elif status == 502:
        yield f"WRONG {shown} answers 502: nginx, or a router, reaches no Flask: the lines of `flask` in the log say why"
    elif "dyno-maintenance" in answer.headers:
        yield f"note {shown} says that the site is being worked on: MAINTENANCE=0 ends that"
    elif status == 429:
        yield f"WRONG {shown} answers 429, too many: {FULL}"
    elif status == 504:
        yield f"WRONG {shown} answers 504: the site takes longer than REQUEST_TIMEOUT: see what it waits for"
    elif status >= 500:
        yield f"WRONG {shown} answers {status}: the log has the traceback"
    elif status >= 400 and tells:
        yield f"note {shown} answers {status}: name a page of the site, --url {site.name}/its/page"
    elif status < 300 and tells:
        yield f"ok   {shown}: a page of {len(answer.text) / 1000:.0f} kB"
    if site.is_https and re.search(rf'(?:src|href|action)="http://{re.escape(site.host)}', answer.text):
        yield (
            f"WRONG {shown} has addresses with http:// (mixed content): have the router say `X-Forwarded-Proto: https`, and take "
            "addresses from url_for()"
        )
    if site.is_https and tells and status < 300 and "strict-transport-security" not in answer.headers:
        yield f"note {site.name} is answered over http, too, or its router does not say `X-Forwarded-Proto: https`: FORCE_HTTPS=1"


def _websocket(site: Site, app: str, token: str, *, is_minted: bool) -> Iterator[str]:
    """Yield a line about the WebSocket of a session of the app at this path; is_minted: its token is not of a page there."""
    name, began = f"the WebSocket {site.name}{app}/ws", time.monotonic()
    try:
        opened = site.open(app, token)
        without = site.open(app, token, origin=False).status if opened.status == 403 else 0
    except OSError as error:
        yield f"WRONG {name} is not answered: {why(error)}; does {site.between} pass the upgrade to WebSockets on?"
        return
    if opened.status == 101 and not opened.fault:
        yield f"ok   {name} is open after {time.monotonic() - began:.2f} s, and answers"
    elif opened.status == 101:
        yield f"WRONG {name}: {opened.fault}"
    elif is_minted and opened.status == without == 403:
        yield (
            f"note {site.name} has another BOKEH_SECRET_KEY than is set here, and no page with a plot was found: name one, "
            f"--url {site.name}/its/page"
        )
    else:
        yield f"WRONG {name} is answered with {opened.status}: {_refused(site, opened, without)}"


def _refused(site: Site, opened: Opened, without_origin: int) -> str:
    """Return why a WebSocket was answered with something else than 101, and what to do."""
    if opened.status == 403 and without_origin == 101:
        return (
            f"Origin is {site.name}, and the Host that arrives is another: have {site.between} pass Host on as it came, or set "
            f"BOKEH_ALLOW_WS_ORIGIN={site.host}"
        )
    if opened.status == 403:
        return (
            f"the page's token is refused: all dynos need the same BOKEH_SECRET_KEY, and {site.between} has to pass "
            "Sec-WebSocket-Protocol on"
        )
    if opened.status in (200, 426, 501) or (opened.status == 400 and "upgrade" in opened.text.lower()):
        return f"{site.between} does not pass the upgrade on: have it send Upgrade and Connection with HTTP/1.1 to the dyno"
    if 300 <= opened.status < 400:
        return (
            f"no browser follows a redirect: {site.between} has to say `X-Forwarded-Proto: https`, or set FORCE_HTTPS=0"
        )
    if opened.status == 404:
        return f"{site.between} leads the path elsewhere, or the site that answers has another BOKEH_PREFIX"
    if opened.status == 429:
        return f"too many are open: {FULL}"
    if opened.status in (502, 503, 504):
        return f"nginx, or {site.between}, reaches no Bokeh worker: the lines of `bokeh` in the log say why"
    return f"is it a dyno that answers, and does {site.between} pass WebSockets on?"


def _is_ours(token: str) -> bool:
    from bokeh_dyno.shared import tokens

    return tokens.is_valid(token, expired=True)


def _minted(name: str) -> str:
    from bokeh_dyno.shared import tokens

    return tokens.mint(60, app=name)
