"""`polytempo verify`: is live doing what a replay of the same inputs does?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stream.cli.console import people, print_json, progress, results
from stream.cli.options import KafkaOptions, parse_duration_ms
from stream.cli.replaying import read_answers
from stream.errors import PolytempoError
from stream.kafka.topics import TopicNames

__all__ = ["verify"]


def verify(
    *,
    bundle: Annotated[list[Path] | None, Parameter(name=["--bundle", "-b"])] = None,
    experiment: list[Path] | None = None,
    since: str | None = None,
    until: str | None = None,
    sample: float = 1.0,
    events: str = "events",
    n: int | None = None,
    seen: Literal["session", "history", "none"] | None = None,
    forget_after: str | None = None,
    explain: int = 10,
    at_least: float = 0.0,
    json: bool = False,
    connection: KafkaOptions | None = None,
) -> int:
    """Hold published recommendations against a replay of their inputs, and explain what differs.

    Each recommendation names its event, its bundle and the view of the item statistics that it was made with. All
    three are read again, with the worker's own code, and the lists are compared. Nothing is joined or committed, so
    this may run beside live workers. Events and item activity must be kept since their beginning.

    Examples:

    `polytempo verify --bundle models/shop-ranker`

    `polytempo verify --experiment experiment.toml`

    `polytempo verify -b models/a -b models/b --since 2024-03-04 --sample 0.1 --at-least 0.999`

    Args:
        bundle: Bundle folder that made recommendations; once for each. Those of others are counted and left out.
        experiment: Experiment file that recommendations were made with, lists that were drawn among them.
        since: Only recommendations for events from this time on: 2024-01-31, 2024-01-31T12:00 (UTC) or epoch
            milliseconds.
        until: Only recommendations for events before this time.
        sample: Share of the recommendations that is compared.
        events: Topic that the workers read.
        n: What the workers were started with as --n, if they were.
        seen: What the workers were started with as --seen, if they were.
        forget_after: What the workers were started with as --forget-after, if they were.
        explain: Differences that are explained at most; each takes as long as reading the item activity again.
        at_least: Exit with 1 if a smaller share is identical.
        json: Print one line at the end: {"identical": share, "n": …, "max_score_difference": …, …}.
    """
    from stream.bundle.service import load_service
    from stream.replay.topics import TopicReader
    from stream.replay.verify import TOLERANCE
    from stream.replay.verify import verify as compare

    connection = KafkaOptions() if connection is None else connection
    settings, names = connection.settings(), TopicNames(connection.prefix)
    if not bundle and not experiment:
        raise PolytempoError("nothing is named to compare with.", "Name bundles with --bundle, or an --experiment.")
    silence_ms = 0 if forget_after is None else parse_duration_ms(forget_after)
    services = [
        load_service(path, n=n, seen=seen, forget_after_ms=silence_ms)
        for path in (*(bundle or ()), *(experiment or ()))
    ]
    with progress(unit="recommendations", transient=True) as bar:
        with TopicReader(settings) as reader:
            answers = read_answers(reader, names, bar, since=since, until=until, sample=sample)
        comparing = bar.add_task("replaying", total=None)
        verdict = compare(
            settings,
            names,
            answers,
            services,
            events_topic=connection.prefix + events,
            max_explained=explain,
            on_progress=lambda done, n_all: bar.update(comparing, completed=done, total=n_all),
        )
    for remark in verdict.remarks:
        people.print(remark, style="yellow")
    if verdict.n_forgotten > 0:
        people.print(f"{verdict.n_forgotten:,} recommendations are of users who were forgotten: not compared")
    if verdict.n_other_bundle > 0:
        others = ", ".join(map(" as ".join, answers.by))
        people.print(f"{verdict.n_other_bundle:,} recommendations are not by these (found: {others})")
    if json:
        print_json(verdict.as_json())
    else:
        results.print(
            f"[bold]{verdict.identical:.4%}[/] of {verdict.n:,} recommendations are identical, over "
            f"{verdict.n_points:,} views; scores differ by {verdict.max_score_difference:.2g} at most "
            f"(equal up to {TOLERANCE:g})"
        )
        for each in verdict.explanations:
            place = f"user {each.user_id}, partition {each.partition}, offset {each.offset}"
            results.print(f"  {each.because}: {place}: {each.detail}", markup=False, soft_wrap=True)
    return 1 if verdict.identical < at_least else 0
