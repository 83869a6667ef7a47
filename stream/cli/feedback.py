"""`polytempo feedback`: what became of recommendations, joined and counted."""

from __future__ import annotations

import os
import signal
import threading
from typing import Annotated

from cyclopts import Parameter

from stream.cli.console import people, print_json
from stream.cli.options import KafkaOptions, parse_duration_ms
from stream.errors import PolytempoError
from stream.kafka.topics import TopicNames

__all__ = ["feedback"]


def feedback(
    *,
    outcomes: Annotated[str, Parameter(name="--outcomes")] = "view,click,cart,purchase,rating,like",
    impression: str = "impression",
    window: str = "30m",
    span: str = "1h",
    lateness: str = "10m",
    until_end: bool = False,
    give_up_after: str = "5m",
    json: bool = False,
    connection: KafkaOptions | None = None,
) -> None:
    """Join what users do to the recommendations that caused it, until it is stopped.

    An event belongs to the recommendation that its context names as `rec_id`, else to the user's latest one that holds
    its item, within a window of time. Outcomes, each user's counts and running totals go to the topic `feedback`;
    `polytempo watch` shows the totals, `polytempo experiment` reads them out. Several processes share the partitions.

    Examples:

    `polytempo feedback`

    `polytempo feedback --outcomes click,purchase --window 2h`

    `polytempo feedback --until-end --json` joins what the topics hold, and ends.

    Args:
        outcomes: Event types that count as success, with commas between.
        impression: Event type that says that a recommendation was shown; its context names the rec_id.
        window: How long after a recommendation something can be caused by it.
        span: Length of the spans of time that are counted.
        lateness: How far an event may lag the latest one of its partition.
        until_end: End where the topics end now, instead of waiting for more.
        give_up_after: End with an error when no broker was there for so long.
        json: Print JSON lines: one when it is ready, one with its counts when it has stopped.
    """
    from stream.feedback.joiner import JoinRules
    from stream.feedback.process import FeedbackProcess

    connection = KafkaOptions() if connection is None else connection
    kinds = frozenset(kind.strip() for kind in outcomes.split(",") if kind.strip())
    if not kinds or impression in kinds:
        raise PolytempoError(
            "outcomes and impressions are different event types.", "Name them, as in --outcomes click."
        )
    lengths_ms = [parse_duration_ms(text) for text in (window, span, lateness)]
    if min(lengths_ms[:2]) < 1:
        raise PolytempoError("windows and spans have a length.")
    rules = JoinRules(kinds, impression, *lengths_ms)
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    patience_s = parse_duration_ms(give_up_after) / 1000
    process = FeedbackProcess(connection.settings(), TopicNames(connection.prefix), rules, patience_s=patience_s)

    def ready() -> None:
        if json:
            print_json({"ready": True, "pid": os.getpid()})
        else:
            people.print("[green]ready[/]: outcomes go to feedback; Ctrl-C stops it gracefully")

    process.run(stop.is_set, ready=ready, until_end=until_end)
    counters = process.counters
    if json:
        print_json(
            {
                "stopped": True,
                "events": counters.n_events,
                "recommendations": counters.n_recommendations,
                "told": counters.n_told,
                "late": counters.n_late,
                "repeated": counters.n_repeated,
                "forgotten": counters.n_forgotten,
            }
        )
    else:
        people.print(
            f"stopped: {counters.n_events:,} events, {counters.n_recommendations:,} recommendations, "
            f"{counters.n_told:,} messages"
        )
