"""The example of a page behind a login: one demo user, and a Bokeh app that learns from the page who is looking.

Its app cannot be had without the login, whatever the URL: it greets nobody but a name that Flask signed into the token.
Nor does the app that tells how the dyno is tell it to others than who runs it, as far as this site knows.
"""

from __future__ import annotations

import hmac
import os
import re
from ipaddress import ip_address

from flask import Flask, current_app, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from werkzeug.exceptions import TooManyRequests

from bokeh_dyno.flask import network

APP = "greeter"  # in bokeh_app/; its page is /members
INSIDE = {"dyno"}  # in bokeh_app/: apps that show what goes on inside, for those who are logged in or on this machine
WRONG = RateLimitItemPerMinute(5)  # passwords of one address, in each of gunicorn's workers


class User(UserMixin):
    """The one user there is."""

    def __init__(self, name: str) -> None:
        self.id = name


def init_app(app: Flask) -> None:
    """Add the login, the logout and the members' page to `app`."""
    manager = LoginManager(app)
    manager.login_view = "login"
    manager.login_message = None  # the login page says it itself
    manager.user_loader(load_user)
    app.extensions["wrong_passwords"] = MovingWindowRateLimiter(MemoryStorage())
    app.add_url_rule("/login", "login", login, methods=["GET", "POST"])
    app.add_url_rule("/logout", "logout", logout, methods=["POST"])
    app.add_url_rule("/members", "members", members)
    app.add_url_rule(f"/apps/{APP}", "members_app", lambda: redirect(url_for("members")))


def may_see(name: str) -> bool:
    """Return whether app `name` is for this visitor."""
    return name not in INSIDE or current_user.is_authenticated or is_local()


def visitor(name: str) -> dict[str, object] | None:
    """Return what app `name`, which this visitor may see, has to know of them."""
    return {"inside": True} if name in INSIDE else None


def is_local() -> bool:
    """Return whether the visitor is on this very machine.

    Their address is that of the connection, or what a router has said that nginx trusts (FORWARDED_ALLOW_IPS). Where it
    trusts whoever asks, as on a platform, nobody is local: anybody may say so.
    """
    trusted = os.environ.get("FORWARDED_ALLOW_IPS", "").replace(",", " ").split()
    if {"*", "0.0.0.0/0", "::/0"} & set(trusted):
        return False
    try:
        return ip_address(request.remote_addr or "").is_loopback
    except ValueError:
        return False


def load_user(name: str) -> User | None:
    """Return the user of a login cookie, or None when there is no such user any more."""
    known = current_app.config["DEMO_PASSWORD"] and name == current_app.config["DEMO_USER"]
    return User(name) if known else None


def login() -> ResponseReturnValue:
    """Show the form, or log the visitor in and send them where they wanted to go."""
    target = own_path(request.values.get("next", "")) or url_for("members")
    if current_user.is_authenticated:
        return redirect(target, 303)
    if request.method == "GET":
        return render_template("login.html", target=target)
    wrong, address = current_app.extensions["wrong_passwords"], network(request.remote_addr or "")
    if not wrong.test(WRONG, address):
        raise TooManyRequests("These were too many wrong passwords. Please wait a minute.", retry_after=60)
    name, password = request.form.get("name", ""), request.form.get("password", "")
    if not matches(name, password):
        wrong.hit(WRONG, address)
        error = current_app.config["DEMO_PASSWORD"] and "This name and password do not belong together."
        return render_template("login.html", target=target, name=name, error=error), 403
    login_user(User(name))
    return redirect(target, 303)


def logout() -> ResponseReturnValue:
    """Log the visitor out. By POST only, so that no link or image of another site can do it."""
    logout_user()
    return redirect(url_for("index"), 303)


@login_required
def members() -> ResponseReturnValue:
    """Show the app that greets the visitor by name."""
    return render_template("members.html", app=APP)


def matches(name: str, password: str) -> bool:
    """Return whether these are the demo user's name and password; the time it takes does not tell which was wrong."""
    if not current_app.config["DEMO_PASSWORD"]:
        return False
    same_name = hmac.compare_digest(name.encode(), current_app.config["DEMO_USER"].encode())
    same_password = hmac.compare_digest(password.encode(), current_app.config["DEMO_PASSWORD"].encode())
    return same_name and same_password


def own_path(target: str) -> str:
    """Return `target` if it is a path of this site, else nothing.

    Browsers read //host and /\\host as another site, and drop tabs and line breaks before they look.
    """
    return target if re.fullmatch(r"/(?![/\\])[!-\[\]-~]*", target) else ""
