"""The Content-Security-Policy of pages: their scripts are the site's own files, or have the nonce of this very answer.

The nonce is put where a template's source has a script tag, of whatever template of Jinja's: of the site, of an app, of Bokeh
itself (components() of a static plot, server_document()), of an extension (mark_templates). What is not in a template's source,
such as what a visitor has typed and a template shows, has none. In the source it is a mark, the same for all, which nobody
sees: each answer gets a nonce of its own in its place.

What an app needs beyond that (bokeh_dyno/page/needs.py) is allowed on the pages that show it, and on no others.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import jinja2

from bokeh_dyno.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

ON, REPORT_ONLY = "Content-Security-Policy", "Content-Security-Policy-Report-Only"
# Scripts are what matters: a page may show pictures, fonts and frames of anybody's, and fetch data from everywhere, as maps and
# the sources of plots do. blob: in script-src is what server_document() makes; no markup can name one.
POLICY = {
    "default-src": "* data: blob:",
    "script-src": "'self' blob:",
    "style-src": "* 'unsafe-inline' data: blob:",
    "object-src": "'self'",
    "base-uri": "'self'",
}
SCRIPT = re.compile(r"<script(?=[\s>{])(?![^<>]*\snonce\b)", re.IGNORECASE)
NO_PAGE = re.compile(r"\.(js|css|json|txt|xml|svg|xhtml)(\.\w+)?$")
# what a nonce cannot be given to: code in an attribute
HANDLER = re.compile(
    r"<[a-z][^<>]*?(\son[a-z]{1,30}\s{0,9}=\s{0,9}[\"'{]|\s(?:href|action)\s{0,9}=\s{0,9}[\"']?\s{0,9}javascript:)",
    re.IGNORECASE,
)


def _mark() -> str:
    # the same on all dynos: the site may keep a page, or a part of one, and send it from another
    key = os.environ.get("BOKEH_SECRET_KEY") or secrets.token_hex(32)
    return "dyno" + hmac.digest(key.encode(), b"bokeh_dyno nonce", hashlib.sha256).hex()[:20]


MARK = _mark()


def nonce() -> str:
    """Return a nonce for one answer, as long as the mark: no answer changes its length."""
    return secrets.token_urlsafe(18)


def marked(source: str) -> str:
    """Return a template's source with the mark in script tags that have no nonce; without quotes, for a tag may be in some."""
    return SCRIPT.sub(lambda tag: f"{tag[0]} nonce={MARK}", source)


def is_marking() -> bool:
    """Return whether mark_templates was called in this process."""
    return getattr(jinja2.Environment.preprocess, "marks", False)


def mark_templates() -> None:
    """Have Jinja mark the script tags of every template that it compiles from now on."""
    if is_marking():
        return
    preprocess: Callable[..., str] = jinja2.Environment.preprocess

    def marking(self: jinja2.Environment, source: str, name: str | None = None, filename: str | None = None) -> str:
        source = preprocess(self, source, name, filename)
        return source if NO_PAGE.search(name or "") else marked(source)

    marking.marks = True  # type: ignore[attr-defined]
    jinja2.Environment.preprocess = marking  # type: ignore[method-assign] # a hook of Jinja's, for its extensions


def refused(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the code's beginning of each place in a template that the policy refuses: code in attributes."""
    for found in HANDLER.finditer(source):
        yield source.count("\n", 0, found.start(1)) + 1, found[1].strip().rstrip("\"'{= ")


def headers(values: Settings, fresh: str, further: Iterable[str] = (), *, of_app: bool = False) -> dict[str, str]:
    """Return the headers for a page with the nonce `fresh`; further: what its apps' scripts need (needs.Needs.sources).

    of_app: it is an app's own page, which the sites of BOKEH_ALLOW_WS_ORIGIN may show, too.
    """
    framed = frame_ancestors(values, of_app=of_app)
    if values.content_security_policy == "off":
        return {ON: framed}
    parts = dict(POLICY)
    parts["script-src"] = " ".join(dict.fromkeys([*parts["script-src"].split(), f"'nonce-{fresh}'", *further]))
    policy = "; ".join(f"{name} {sources}" for name, sources in parts.items())
    if values.content_security_policy == "report":
        return {ON: framed, REPORT_ONLY: policy}
    return {ON: f"{policy}; {framed}"}


def frame_ancestors(values: Settings, *, of_app: bool) -> str:
    """Return who may show a page in a frame."""
    friends = values.bokeh_allow_ws_origin if of_app else ()
    sites = [site for site in values.frame_ancestors if not friends or site != "none"]
    return " ".join(
        ["frame-ancestors", *(f"'{site}'" if site in ("self", "none") else site for site in sites), *friends]
    )


def is_text(content_type: str) -> bool:
    """Return whether an answer of this type may have come out of a template."""
    return bool(re.match(r"(text/|application/(json|xml|xhtml|javascript)|image/svg)|.*\+(json|xml)", content_type))


def unmarked(chunks: Iterable[bytes | str], fresh: str) -> Iterator[bytes]:
    """Yield the parts of an answer with the nonce in the place of the mark, each as it comes."""
    mark, held = MARK.encode(), b""
    try:
        for chunk in chunks:
            data = (held + (chunk.encode() if isinstance(chunk, str) else chunk)).replace(mark, fresh.encode())
            # the beginning of a mark, perhaps
            count = next((size for size in range(len(mark) - 1, 0, -1) if data.endswith(mark[:size])), 0)
            data, held = data[: len(data) - count], data[len(data) - count :]
            if data:
                yield data
        if held:
            yield held
    finally:
        if close := getattr(chunks, "close", None):
            close()
