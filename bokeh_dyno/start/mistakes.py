"""What is wrong with a project, as bin/dev tells it: what has failed, and what would fail in production only."""

from __future__ import annotations

import re
from typing import Any

from bokeh_dyno.shared.settings import ROOT, Settings
from bokeh_dyno.start import init, nginx

ROUTING = str(nginx.TEMPLATE.relative_to(ROOT))


def notices(values: Settings, environ: dict[str, str]) -> list[str]:
    """Return a sentence for what a production would refuse, or which is noticed there only."""
    lines = []
    if not values.bokeh_secret_key:
        lines.append("BOKEH_SECRET_KEY has to be set, or open pages do not outlive a deploy; here, one was made")
    if values.force_https:
        lines.append("FORCE_HTTPS=1 redirects to https, which the platform's router has and this dyno has not")
    if "*" in values.bokeh_allow_ws_origin:
        lines.append("BOKEH_ALLOW_WS_ORIGIN=* lets the pages of any site use the apps' sessions")
    if "*" in values.forwarded_allow_ips:
        lines.append("FORWARDED_ALLOW_IPS=* is for a dyno that nothing but a router can reach")
    if environ.get("FLASK_DEBUG"):
        lines.append("FLASK_DEBUG does nothing: the debugger is there below bin/dev, and nowhere else")
    return lines + init.lacking(ROOT)


def of_line(text: str) -> dict[str, Any]:
    """Return as an error of the site what the start script has said in a line."""
    before, quote, rest = text.partition('File "')
    app = re.match(r"(bokeh_app/[^\s/]+) cannot run: ", before)
    error = {"where": app[1] if app else "site", "file": None, "line": None, "message": text, "traceback": ""}
    if quote and (place := re.match(r'([^"]+)", line (\d+): ', rest)):
        error.update(file=place[1], line=int(place[2]), message=rest[place.end() :])
    return error


def of_routing(text: str) -> dict[str, Any]:
    """Return what is wrong with config/nginx.conf.erb, with its line: nginx quotes one of what was rendered."""
    lines = [line.strip() for line in nginx.TEMPLATE.read_text(errors="replace").splitlines()]
    quoted = text.rpartition(": ")[2].strip()
    number = lines.index(quoted) + 1 if lines.count(quoted) == 1 else None
    if found := re.search(rf"{re.escape(ROUTING)}:(\d+)", text):
        number = int(found[1])
    return {"where": ROUTING, "file": ROUTING, "line": number, "message": text, "traceback": ""}
