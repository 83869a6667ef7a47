"""`polytempo experiment`: which variant is better, as far as is known now."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.table import Table

from stream.cli.console import people, print_json, progress, results
from stream.cli.options import KafkaOptions, parse_duration_ms
from stream.cli.produce import parse_time
from stream.errors import PolytempoError
from stream.kafka.topics import TopicNames

__all__ = ["experiment"]


def experiment(
    file: Path | None = None,
    *,
    topic: str = "feedback",
    metric: Literal["hit-rate", "click-through", "outcomes"] = "hit-rate",
    since: str | None = None,
    until: str | None = None,
    alpha: float = 0.05,
    effect: float = 0.01,
    every: str = "1d",
    json: bool = False,
    connection: KafkaOptions | None = None,
) -> None:
    """Read an experiment out: rates of the variants, their differences, and whether users were split as intended.

    It may be called as often as one likes: intervals of differences and p hold at all looks together, so that one may
    stop as soon as a difference shows. Users are counted, not recommendations, since it is users who are in a variant.
    `polytempo feedback` must have been running; only spans of time that are over count.

    Examples:

    `polytempo experiment experiment.toml`

    `polytempo experiment --metric click-through --since 2024-03-04 --json`

    Args:
        file: Experiment file: its first variant is what others are compared with, its weights are what the split is
            held against. Left out: all variants found, in the order of their names.
        topic: Topic that holds the feedback.
        metric: hit-rate: recommendations that led to something; click-through: the same of those that were shown;
            outcomes: outcomes per recommendation.
        since: Only recommendations from this time on: 2024-01-31, 2024-01-31T12:00 (UTC) or epoch milliseconds. After
            a change of weights, name its time.
        until: Only recommendations before this time.
        alpha: How often a difference may be found where there is none.
        effect: The size of differences that would matter, as a difference of rates; choose it before you look.
        every: Time between two looks that are counted.
        json: Print one line: {"variants": [...], "differences": [...], "split_p": ...}.
    """
    from stream.bundle.experiment import read_experiment
    from stream.feedback.codec import decode_feedback
    from stream.feedback.readout import read_out
    from stream.replay.forgotten import read_forgotten
    from stream.replay.topics import TopicReader
    from stream.wire.messages import UserSpan

    if not 0 < alpha < 1 or effect <= 0:
        raise PolytempoError("alpha is between 0 and 1, and an effect that would matter above 0.")
    connection = KafkaOptions() if connection is None else connection
    since_ms = None if since is None else parse_time(since)
    until_ms = None if until is None else parse_time(until)
    weights = None if file is None else read_experiment(file).weights
    spans: list[UserSpan] = []
    name = TopicNames(connection.prefix).prefix + topic
    with TopicReader(connection.settings()) as reader, progress(unit="messages", transient=True) as bar:
        ranges = reader.bounds(name)
        forgotten = read_forgotten(reader, TopicNames(connection.prefix))
        task = bar.add_task("reading", total=sum(end - first for first, end in ranges.values()))
        for _, records in reader.read(name, ranges, lambda n: bar.update(task, completed=n)):
            for record in records:
                found = decode_feedback(record.value)
                if (
                    isinstance(found, UserSpan)
                    and (since_ms is None or found.from_ms >= since_ms)
                    and (until_ms is None or found.to_ms <= until_ms)
                    and not forgotten.covers_time(found.user_id, found.from_ms)
                ):
                    spans.append(found)
    read = read_out(
        spans, weights=weights, metric=metric, alpha=alpha, effect=effect, look_ms=max(1, parse_duration_ms(every))
    )
    if json:
        print_json(read.as_json())
        return
    if not spans:
        people.print(f"{name} has no finished span of time yet; `polytempo feedback` makes them.", style="yellow")
        return
    table = Table(title=f"{metric} by variant", title_justify="left")
    for column in ("variant", "model", "users", "recommendations", "rate", "95 % interval"):
        table.add_column(column, justify="left" if column in ("variant", "model") else "right")
    for each in read.variants:
        shown = ("-", "-") if each.rate is None else (f"{each.rate:.4f}", f"{each.low:.4f} to {each.high:.4f}")
        table.add_row(each.variant, ", ".join(each.models), f"{each.n_users:,}", f"{each.n:,}", *shown)
    results.print(table)
    for comparison in read.comparisons:
        if not comparison.looks:
            results.print(f"{comparison.variant} against {comparison.against}: too few users yet")
            continue
        last = comparison.looks[-1]
        day = datetime.fromtimestamp(last.to_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        verdict = "[bold green]decided[/]" if comparison.is_decided else "open"
        results.print(
            f"{comparison.variant} against {comparison.against}: {last.difference:+.4f} "
            f"({last.low:+.4f} to {last.high:+.4f}), p {last.p:.3g} at any look, up to {day}: {verdict}"
        )
    if read.n_moved > 0:
        people.print(f"{read.n_moved:,} users were in several variants and are left out", style="dim")
    if read.is_split_wrong:
        people.print(
            f"users are not split as the weights say (p {read.split_p:.2g}): do not trust the difference. Were weights "
            "changed? Then name the time with --since.",
            style="bold yellow",
        )
