"""`polytempo forget`: erase a user, and say what remains where until when."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import msgspec

from stream.cli.console import people, print_json, results
from stream.cli.options import KafkaOptions, parse_duration_ms
from stream.kafka.topics import TopicNames

__all__ = ["forget"]


def forget(user: str, /, *, timeout: str = "60s", json: bool = False, connection: KafkaOptions | None = None) -> None:
    """Erase a user, wait until the workers have, and say what remains where until when.

    It posts an event of type `forget`. The worker that owns the user erases the record, in its memory, its files and
    the changelog, and answers on `forgotten` with a receipt. From then on no replay, backtest or verification uses what
    the user did before; the bytes themselves leave `events` and `recommendations` with their retention.

    For example:

        polytempo forget u1
        echo u1 | polytempo forget - --json      the id does not show in the list of processes

    Args:
        user: The user's id; - reads it from standard input.
        timeout: How long to wait for the workers.
        json: Print one line: {"receipt": {...}, "remains": [{"topic": ..., "cleanup": ..., "until_ms": ...}]}.
    """
    from stream.forget import forget as ask

    connection = KafkaOptions() if connection is None else connection
    user_id = sys.stdin.readline().rstrip("\r\n") if user == "-" else user
    with people.status("waiting for the workers") as status:
        done = ask(
            connection.settings(),
            TopicNames(connection.prefix),
            user_id,
            timeout_s=parse_duration_ms(timeout) / 1000,
            on_wait=lambda what: status.update(f"waiting for {what}"),
        )
    if json:
        print_json({"receipt": msgspec.to_builtins(done.receipt), "remains": msgspec.to_builtins(done.remains)})
        return
    results.print(f"forgotten: receipt {done.receipt.receipt_id}", markup=False)
    for each in done.remains:
        until = "for ever; set retention.ms, or delete it" if each.until_ms is None else f"until {_day(each.until_ms)}"
        what = "superseded bytes" if each.cleanup == "compact" else "records, which replays leave out"
        results.print(f"  {each.topic}: {what}, {until}", markup=False, soft_wrap=True)


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
