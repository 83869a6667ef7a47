"""A small HTTP server in a thread of its own: it answers when the worker's event loop does not.

Pages are computed when they are asked for. With a token every page wants it; the few that say with their status alone
whether all is well, which load balancers ask for without one, then keep their reasons to themselves.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from stream.errors import PolytempoError
from stream.operations.listen import Listen, Token

__all__ = ["HttpServer", "Page", "json_page"]

logger = logging.getLogger(__name__)

_START_TIMEOUT_S: Final = 10.0
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True, slots=True)
class Page:
    """An answer.

    Attributes:
        body: what those see who may.
        status: the HTTP status.
        content_type: the whole header.
        public: whether the status may be had without the token, without the body.
    """

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    public: bool = False


def json_page(document: Mapping[str, Any], *, status: int = 200, public: bool = False) -> Page:
    """A JSON object as a page."""
    return Page(json.dumps(document, ensure_ascii=False).encode() + b"\n", status, public=public)


class HttpServer:
    """Serves pages by path, to GET and HEAD, until it is stopped.

    Args:
        listen: where.
        pages: path -> what computes the page from the request's Accept header, in the server's thread.
        token: whom to let in; None lets everybody in who reaches the address.
    """

    def __init__(self, listen: Listen, pages: Mapping[str, Callable[[str], Page]], token: Token | None = None) -> None:
        self.listen = listen
        self._pages = dict(pages)
        self._token = token
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address, with the port that was taken."""
        host = f"[{self.listen.host}]" if ":" in self.listen.host else self.listen.host
        return f"http://{host}:{self.listen.port}"

    def start(self) -> None:
        """Listen.

        Raises:
            PolytempoError: the address cannot be had.
        """
        started: Future[int] = Future()
        # A daemon: should stopping hang, the process still ends.
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name="http", daemon=True)
        self._thread.start()
        try:
            self.listen = Listen(self.listen.host, started.result(_START_TIMEOUT_S))
        except OSError as error:
            self._thread.join(_START_TIMEOUT_S)
            raise PolytempoError(
                f"nothing can listen on {self.listen.host}:{self.listen.port}: {error.strerror or error}.",
                "Name another address with --http, port 0 for a free one, or turn it off with --http off.",
            ) from None

    def stop(self) -> None:
        """Stop listening. No harm if it has never begun."""
        if self._loop is not None and self._stop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_START_TIMEOUT_S)
        self._loop = self._stop = self._thread = None

    async def _serve(self, started: Future[int]) -> None:
        app = web.Application(client_max_size=1024)
        for path in self._pages:
            app.router.add_get(path, self._answer)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        stop = asyncio.Event()
        try:
            await runner.setup()
            site = web.TCPSite(runner, self.listen.host, self.listen.port)
            await site.start()
            self._loop, self._stop = asyncio.get_running_loop(), stop
            started.set_result(runner.addresses[0][1])
            await stop.wait()
        except OSError as error:
            started.set_exception(error)
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        admitted = self._token is None or self._token.admits(request.headers.get("Authorization"))
        try:
            page = self._pages[request.path](request.headers.get("Accept", ""))
        except Exception:
            logger.exception("the page %s could not be made", request.path)
            page = json_page({"error": "the page could not be made; the worker's log says why"}, status=500)
        if admitted:
            headers = {**_HEADERS, "Content-Type": page.content_type}
            return web.Response(body=page.body, status=page.status, headers=headers)
        if page.public:
            return web.Response(status=page.status, headers=_HEADERS)
        return web.Response(status=401, headers={**_HEADERS, "WWW-Authenticate": "Bearer"})
