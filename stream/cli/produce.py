"""`polytempo produce`: a file of events, and a table of items, to Kafka."""

from datetime import UTC, datetime
from pathlib import Path

from rich.progress import TaskID

from stream.cli.columns import FileColumns
from stream.cli.console import people, print_json, progress
from stream.cli.options import KafkaOptions
from stream.errors import PolytempoError
from stream.feed import Pace, Produced, produce_frame, produce_items
from stream.kafka.settings import KafkaSettings
from stream.logs import EventLog, open_log, read_items

__all__ = ["parse_time", "produce", "produce_frame"]

_INTERRUPTED = 130


def produce(
    file: Path | None = None,
    /,
    *,
    topic: str = "events",
    items: Path | None = None,
    items_topic: str = "items",
    rate: float = 0.0,
    speedup: float = 0.0,
    limit: int | None = None,
    since: str | None = None,
    until: str | None = None,
    json: bool = False,
    columns: FileColumns | None = None,
    cluster: KafkaOptions | None = None,
) -> int:
    """Send a log of events to Kafka: Parquet, CSV or JSON lines.

    Which column is what is guessed from names and values, and shown; the options below `Columns` say it. Rows with
    missing or unreadable fields are sent as they are: the worker answers each with a dead letter. The events of a user
    keep their order. Exits with 1 if a delivery failed.

    Examples:

    `polytempo produce clicks.parquet` sends everything as fast as possible.

    `polytempo produce clicks.csv --speedup 60 --since 2024-01-03` plays from that day on, an hour in a minute.

    `polytempo produce orders.csv --user Buyer --time "Sold at" --constant-type purchase --negative-type return`

    `polytempo produce --items articles.parquet` sends a table of items only.

    Args:
        file: The log: .parquet, .csv, .tsv, .jsonl, .ndjson or .json; the texts also .gz or .zst.
        topic: Topic of the events.
        items: A table of items, sent to the topic `items` before the events.
        items_topic: Topic of the items.
        rate: Events per second. 0 does not hold back.
        speedup: Times faster than the events happened. 0 does not hold back.
        limit: Send at most so many events.
        since: Only events from this time on: 2024-01-31, 2024-01-31T12:00 (UTC) or epoch milliseconds.
        until: Only events before this time.
        json: Print one line at the end: {"produced": ..., "failed": ..., "events_per_s": ...}.
    """
    if file is None and items is None:
        raise PolytempoError("there is nothing to send.", "Name a FILE of events, or --items FILE, or both.")
    options = cluster or KafkaOptions()
    pace = _pace(rate, speedup)
    range_ms = (None if since is None else parse_time(since), None if until is None else parse_time(until))
    # Both files are looked at before anything is sent: a mistake in the second must not leave the first half done.
    log = None if file is None else open_log(file, (columns or FileColumns()).mapping())
    table = None if items is None else read_items(items)
    settings = options.settings()

    report: dict[str, int | float] = {}
    outcomes: list[Produced] = []
    if table is not None:
        outcomes.append(produce_items(settings, options.prefix + items_topic, table))
        report["items"] = outcomes[-1].produced
        people.print(f"{outcomes[-1].produced:,} items to {options.prefix + items_topic}")
    if log is not None and not any(outcome.interrupted for outcome in outcomes):
        people.print(log.mapping.describe(), style="dim", markup=False, soft_wrap=True)
        outcomes.append(_with_progress(settings, options.prefix + topic, log, pace, limit, range_ms))
        _say(outcomes[-1], options.prefix + topic)
    events = outcomes[-1]
    failed = sum(outcome.failed for outcome in outcomes)
    report |= {
        "produced": events.produced if log is not None else 0,
        "failed": failed,
        "events_per_s": round(events.events_per_s, 1) if log is not None else 0.0,
    }
    if json:
        print_json(report)
    if failed > 0:
        first = next(outcome.first_error for outcome in outcomes if outcome.first_error)
        people.print(f"{failed:,} records were not delivered; the first: {first}", style="bold red", markup=False)
        return 1
    return _INTERRUPTED if events.interrupted else 0


def parse_time(text: str) -> int:
    """Epoch milliseconds from 2024-01-31, 2024-01-31T12:00 (UTC unless it names a zone) or a number of them.

    Raises PolytempoError for anything else.
    """
    if text.strip().lstrip("-").isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise PolytempoError(
            f"{text!r} is no time.", "Write 2024-01-31, 2024-01-31T12:00 (UTC) or epoch milliseconds."
        ) from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return round(moment.timestamp() * 1000)


def _pace(rate: float, speedup: float) -> Pace:
    try:
        return Pace(rate, speedup)
    except ValueError as error:
        raise PolytempoError(f"{error}.", "Give --rate or --speedup, not both.") from error


def _with_progress(
    settings: KafkaSettings,
    topic: str,
    log: EventLog,
    pace: Pace,
    limit: int | None,
    range_ms: tuple[int | None, int | None],
) -> Produced:
    since_ms, until_ms = range_ms
    total: int | None = None
    if since_ms is None and until_ms is None:  # otherwise only reading the file tells how many there are
        n_rows = log.count_rows()
        total = n_rows if limit is None else min(limit, n_rows)
    with progress(unit="events", transient=True) as bar:
        task: TaskID = bar.add_task("producing", total=total)

        def show(n_sent: int) -> None:
            speed = bar.tasks[0].speed
            described = "producing" if speed is None else f"producing {speed:,.0f}/s"
            bar.update(task, completed=n_sent, description=described)

        batches = log.batches(since_ms=since_ms, until_ms=until_ms, limit=limit)
        return produce_frame(settings, topic, batches, pace=pace, on_progress=show)


def _say(outcome: Produced, topic: str) -> None:
    how = "interrupted after" if outcome.interrupted else "done in"
    people.print(
        f"[bold]{outcome.produced:,}[/] events to {topic}, {how} {outcome.duration_s:,.1f} s "
        f"({outcome.events_per_s:,.0f}/s)"
    )
