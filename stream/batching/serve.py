"""Running a Faust app inside a program: no command line, no signal handlers, no logging set up, no web server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import faust

__all__ = ["serve"]


async def serve(
    app: faust.App,
    *,
    ready: Callable[[], None],
    stop: asyncio.Event,
    web: bool = False,
    crash_stop_s: float = 15.0,
) -> None:
    """Run `app` until `stop` is set, then stop it gracefully: batches in flight finish, offsets are committed, the
    group is left.

    `ready` is called once, when tables are recovered and input is being read. Raises whatever crashed the app, after
    stopping it; then nothing that was not delivered is committed. A crashed app has `crash_stop_s` seconds to stop:
    what crashed it may be that no broker answers, and then it could not even leave the group.
    """
    app.conf.web_enabled = web
    app.finalize()

    async def on_ready() -> None:
        ready()

    app.on_startup_finished = on_ready
    stopping = asyncio.ensure_future(stop.wait())
    starting = asyncio.ensure_future(app.start())
    running: asyncio.Future[None] | None = None
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            running = asyncio.ensure_future(app.wait_until_stopped())
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        try:
            if app.crashed:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(app.stop(), crash_stop_s)
            else:
                await app.stop()
        finally:
            for task in (stopping, starting, running):
                if task is not None and not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
            if app.crash_reason is not None:
                raise app.crash_reason  # rather than what went wrong in stopping a crashed app
