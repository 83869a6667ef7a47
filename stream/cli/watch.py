"""`polytempo watch`: what the workers do, live."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter
from rich.live import Live

from stream.cli.console import people, print_json
from stream.cli.options import KafkaOptions
from stream.errors import PolytempoError
from stream.kafka.topics import TopicNames
from stream.live.drifting import Workers
from stream.live.observer import Figures
from stream.live.reader import Reader
from stream.live.screen import as_line, draw
from stream.operations.listen import read_token

__all__ = ["follow", "watch"]

_REDRAW_S = 0.25


def watch(
    *,
    from_beginning: bool = False,
    for_s: Annotated[float | None, Parameter(name="--for")] = None,
    events: int | None = None,
    plain: bool = False,
    json: bool = False,
    worker: Annotated[list[str] | None, Parameter(name=["--worker", "-w"])] = None,
    connection: KafkaOptions | None = None,
) -> None:
    """See recommendations and their reasons, rates, latency, lag and hit rate live, until Ctrl-C.

    Latency runs from the broker's receipt of an event to its receipt of the recommendation. The hit rate says how
    often the next new item of a session was among the ten that were recommended just before; beside it, how often it
    was among the ten most popular items of the last hour (exponential, one hour half-life). Watching changes nothing:
    it joins no group and commits no offset.

    Examples:

    `polytempo watch`

    `polytempo watch --from-beginning --events 100000 --json | tail -1` is the summary of what the topics hold.

    Args:
        from_beginning: Count everything that the topics hold, not only what comes from now on.
        for_s: End after so many seconds.
        events: End when so many events have come and are answered.
        plain: A line a second instead of a live view; so it is, too, where output is no terminal.
        json: One line of JSON a second, and one at the end with "final": true.
        worker: Address of a running worker's health and metrics, once for each: shows whether features and scores are
            still those of the bundle's training window. Its token is read like the worker's.
    """
    if for_s is not None and for_s <= 0:
        raise PolytempoError(f"watching for {for_s:g} s shows nothing.")
    if events is not None and events < 1:
        raise PolytempoError(f"{events} events are none.", "Ask for 1 at least.")
    connection = KafkaOptions() if connection is None else connection
    settings = connection.settings()
    ends_s = None if for_s is None else time.monotonic() + for_s
    with (
        Workers(worker or (), read_token()) as workers,
        Reader(settings, TopicNames(connection.prefix), from_beginning=from_beginning) as reader,
    ):

        def done() -> bool:
            observer = reader.observer
            enough = events is not None and observer.n_events >= events and observer.n_open == 0
            return enough or (ends_s is not None and time.monotonic() >= ends_s)

        with contextlib.suppress(KeyboardInterrupt):  # the usual way to end; what was seen is summed up
            title = f"polytempo watch {settings.servers}"
            follow(reader, done, title=title, plain=plain, json=json, workers=workers)
        figures = _figures(reader, workers)
        if json:
            print_json({"final": True, **figures.as_json(), "lag": reader.lag()})
        else:
            people.print(as_line(figures, reader.lag()), markup=False, soft_wrap=True)


def follow(
    reader: Reader,
    done: Callable[[], bool],
    *,
    title: str,
    plain: bool = False,
    json: bool = False,
    line_s: float = 1.0,
    workers: Workers | None = None,
) -> None:
    """Show what is read until `done`: a live view in a terminal, else a line every `line_s` seconds.

    Args:
        reader: what to read; stays open.
        done: asked after each poll.
        title: what is being looked at.
        plain: lines also in a terminal.
        json: lines of JSON on standard output.
        line_s: seconds between two lines.
        workers: whose drift is shown, if it is to be.
    """
    if json or plain or not people.is_terminal or people.is_dumb_terminal:
        due_s = time.monotonic() + line_s
        while not done():
            reader.poll()
            now_s = time.monotonic()
            if now_s < due_s:
                continue
            due_s += line_s
            figures, lag = _figures(reader, workers), reader.lag()
            if json:
                print_json({**figures.as_json(), "lag": lag})
            else:
                people.print(as_line(figures, lag), markup=False, soft_wrap=True)
        return
    with Live(console=people, screen=True, auto_refresh=False) as view:
        due_s = 0.0
        while not done():
            reader.poll()
            now_s = time.monotonic()
            if now_s >= due_s:
                due_s = now_s + _REDRAW_S
                figures = _figures(reader, workers)
                height = people.size.height
                view.update(draw(reader.observer, figures, reader.lag(), title=title, height=height), refresh=True)


def _figures(reader: Reader, workers: Workers | None) -> Figures:
    figures = reader.observer.figures(time.monotonic())
    return figures if workers is None else replace(figures, drifted=workers.drifted)
