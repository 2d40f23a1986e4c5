"""The peers that are programs: four ways to serve Flask and Bokeh apps from one process, each as its source shows it.

`bench/peers.py` runs them in a folder with the site and its apps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator

from flask import Flask, Response, request

from flask_app import create_app


def options() -> dict[str, int]:
    """Return how long sessions are kept that no page has open, as both servers name it."""
    unused = int(os.environ["BENCH_UNUSED"])
    return {
        "unused_session_lifetime_milliseconds": unused,
        "check_unused_sessions_milliseconds": min(unused, 17_000),
    }


def applications() -> dict:
    """Return the site's apps, by path."""
    from bokeh.application import Application
    from bokeh.application.handlers.directory import DirectoryHandler

    return {f"/{name}": Application(DirectoryHandler(filename=f"bokeh_app/{name}")) for name in ("curve", "large")}


def tornado(port: int, bokeh_port: int) -> None:
    """Serve Flask in Tornado's WSGIContainer: Flask hands HTTP on with requests, Tornado the WebSocket.

    https://discourse.bokeh.org/t/hosting-a-flask-bokeh-server-app-in-heroku/5490
    """
    import requests
    from tornado.web import Application, FallbackHandler
    from tornado.websocket import WebSocketHandler, websocket_connect
    from tornado.wsgi import WSGIContainer

    site = create_app()

    @site.route("/bkapp/<path:path>")
    def to_bokeh(path: str) -> Response:
        answer = requests.get(
            f"http://127.0.0.1:{bokeh_port}/bkapp/{path}", params=request.args,
            headers={name: value for name, value in request.headers if name != "Host"},
        )  # fmt: skip
        dropped = ("content-encoding", "content-length", "transfer-encoding", "connection")
        headers = [pair for pair in answer.headers.items() if pair[0].lower() not in dropped]
        return Response(answer.content, answer.status_code, headers)

    class ToBokeh(WebSocketHandler):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            return subprotocols[0] if subprotocols else None

        async def open(self, path: str) -> None:
            protocols = [part.strip() for part in self.request.headers["Sec-WebSocket-Protocol"].split(",")]
            self.bokeh = await websocket_connect(
                f"ws://127.0.0.1:{bokeh_port}/bkapp/{path}/ws", on_message_callback=self.from_bokeh,
                subprotocols=protocols,
            )  # fmt: skip

        def from_bokeh(self, message: str | bytes | None) -> None:
            if message is None:
                self.close()
            else:
                self.write_message(message, binary=isinstance(message, bytes))

        async def on_message(self, message: str | bytes) -> None:
            await self.bokeh.write_message(message, binary=isinstance(message, bytes))

        def on_close(self) -> None:
            if hasattr(self, "bokeh"):
                self.bokeh.close()

    async def serve() -> None:
        routes = [(r"/bkapp/(.*)/ws", ToBokeh), (r".*", FallbackHandler, {"fallback": WSGIContainer(site)})]
        Application(routes).listen(port, "127.0.0.1")
        await asyncio.Event().wait()

    asyncio.run(serve())


def embedded() -> Flask:
    """Return the site for gunicorn, with a Bokeh server in a thread of each worker, on a port of its own.

    https://github.com/bokeh/bokeh/blob/branch-3.9/examples/server/api/flask_gunicorn_embed.py
    """
    from bokeh.server.server import BaseServer
    from bokeh.server.tornado import BokehTornado
    from bokeh.server.util import bind_sockets
    from tornado.httpserver import HTTPServer
    from tornado.ioloop import IOLoop

    sockets, port = bind_sockets("127.0.0.1", 0)

    def serve() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        bokeh = BokehTornado(applications(), extra_websocket_origins=[os.environ["BENCH_ORIGIN"]], **options())
        http = HTTPServer(bokeh)
        http.add_sockets(sockets)
        server = BaseServer(IOLoop.current(), bokeh, http)
        server.start()
        server.io_loop.start()

    threading.Thread(target=serve, daemon=True).start()
    return create_app(f"http://127.0.0.1:{port}")


def fastapi() -> object:
    """Return an ASGI app with the Bokeh apps and Flask; its pages are the apps' own, for there is no autoload.js."""
    from a2wsgi import WSGIMiddleware
    from bokeh_fastapi import BokehFastAPI
    from fastapi import FastAPI

    app = FastAPI()
    BokehFastAPI(applications(), app=app, websocket_origins=[os.environ["BENCH_ORIGIN"]], **options())
    app.mount("/", WSGIMiddleware(create_app("none")))
    return app


def asgi() -> object:
    """Return an ASGI app with Bokeh's own frontend for ASGI, and Flask.

    https://docs.bokeh.org/en/3.10.0/docs/user_guide/server/library.html
    """
    from a2wsgi import WSGIMiddleware
    from bokeh.server.asgi import BokehASGI
    from starlette.applications import Starlette
    from starlette.routing import Mount

    bokeh = BokehASGI(applications(), **options())

    @contextlib.asynccontextmanager
    async def lifespan(site: Starlette) -> AsyncIterator[None]:
        await bokeh.core.start()
        try:
            yield
        finally:
            await bokeh.core.stop()

    return Starlette(routes=[Mount("/bkapp", bokeh), Mount("/", WSGIMiddleware(create_app()))], lifespan=lifespan)


if __name__ == "__main__":
    tornado(int(sys.argv[2]), int(sys.argv[3]))
