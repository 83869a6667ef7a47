"""`polytempo backtest`: what a bundle would have recommended over a range of events, and how good that was."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter
from rich.table import Table

from stream.cli.columns import FileColumns
from stream.cli.console import people, print_json, results
from stream.cli.options import KafkaOptions, parse_duration_ms
from stream.cli.produce import parse_time
from stream.cli.replaying import events_bar as _bar
from stream.cli.replaying import interruptible, read_source
from stream.core.events import EventTypes
from stream.errors import PolytempoError

if TYPE_CHECKING:
    from stream.bundle.load import Bundle
    from training.backtest.analysis import Analysis

__all__ = ["backtest"]

RANGE = Group("Range", sort_key=3)
TARGETS = Group("Targets", sort_key=4)
CONDITIONS = Group("Conditions", sort_key=5)

_INTERRUPTED = 130


def backtest(
    *,
    bundle: Annotated[list[Path] | None, Parameter(name=["--bundle", "-b"])] = None,
    log: Path | None = None,
    topic: str | None = None,
    items: Path | None = None,
    since: Annotated[str | None, Parameter(group=RANGE)] = None,
    until: Annotated[str | None, Parameter(group=RANGE)] = None,
    warm_up: Annotated[str | None, Parameter(group=RANGE)] = None,
    target: Annotated[Literal["session", "next", "horizon"], Parameter(group=TARGETS)] = "session",
    horizon: Annotated[str | None, Parameter(group=TARGETS)] = None,
    sample: Annotated[float, Parameter(group=TARGETS)] = 1.0,
    seed: Annotated[int, Parameter(group=TARGETS)] = 0,
    only_type: Annotated[list[str] | None, Parameter(group=TARGETS)] = None,
    new_users: Annotated[bool, Parameter(group=TARGETS)] = False,
    new_items: Annotated[bool, Parameter(group=TARGETS)] = False,
    where: Annotated[list[str] | None, Parameter(group=TARGETS)] = None,
    k: Annotated[int, Parameter(group=CONDITIONS)] = 10,
    seen: Annotated[Literal["session", "history", "none"] | None, Parameter(group=CONDITIONS)] = None,
    period: Annotated[str, Parameter(group=CONDITIONS)] = "10s",
    delay: Annotated[list[str] | None, Parameter(group=CONDITIONS)] = None,
    own_statistics: Annotated[list[int] | None, Parameter(group=CONDITIONS)] = None,
    staleness: Annotated[bool, Parameter(group=CONDITIONS)] = False,
    forget_after: Annotated[str | None, Parameter(group=CONDITIONS)] = None,
    every_event: Annotated[bool, Parameter(group=CONDITIONS)] = False,
    at: Annotated[Literal["event", "target"], Parameter(group=CONDITIONS)] = "event",
    fading: Annotated[Literal["half-life", "e-fold"], Parameter(group=CONDITIONS)] = "half-life",
    mixing: Annotated[Literal["sum", "fill"], Parameter(group=CONDITIONS)] = "sum",
    baselines: Annotated[bool, Parameter(group=CONDITIONS, negative="--no-baselines")] = True,
    batch: int = 256,
    processes: int = 1,
    work: Path | None = None,
    report: Path | None = None,
    json: bool = False,
    columns: FileColumns | None = None,
    connection: KafkaOptions | None = None,
) -> int:
    """Replay events through bundles and baselines: recommend, look at what came next, then learn.

    Any range of a topic, or a file. What recommends is the worker's own code; a topic is read without joining a group
    and without committing anything. Figures do not depend on where the events are read from, on the number of
    partitions or processes, or on the size of batches. Ctrl-C stops; with --work the same command goes on from there.

    Examples:

    `polytempo backtest --log clicks.parquet --since 2024-03-04 --bundle models/news-ranker --report news.html`

    `polytempo backtest --topic events --since 2024-03-04 --until 2024-03-07 -b models/a -b models/b --processes 2`

    `polytempo backtest --log clicks.parquet --since 2024-03-04 --sample 0.15` is the baselines alone.

    `polytempo backtest --log clicks.parquet -b models/a --delay 0s --delay 1m --delay 1h --own-statistics 4` is a study
    of what is lost when item statistics are a minute or an hour old, or when four workers each keep their own.

    Args:
        bundle: Bundle folder; once for each that is compared.
        log: Events from a file: Parquet, CSV or JSON lines.
        topic: Events from a topic.
        items: A table of items, for --log. With --topic, items come from the topic `items`.
        since: Judge from this time on: 2024-01-31, 2024-01-31T12:00 (UTC) or epoch milliseconds, in event time. Left
            out: from the beginning.
        until: Judge what lies before this time. Left out: to the end.
        warm_up: Learn from so much before --since, such as 3d. Left out: from all there is.
        target: What counts: the next event of the session, the next at all, or the next within --horizon.
        horizon: How soon the next event must come, such as 1h; for --target horizon.
        sample: Share of the targets that is judged.
        seed: Of the sample.
        only_type: Judge only events of this type; may be repeated.
        new_users: Judge only users of whom fewer than 5 events are known.
        new_items: Judge only items that appeared after --since.
        where: Judge only events with this context, FIELD=VALUE; may be repeated.
        k: Length of the lists.
        seen: What of the user's past is not recommended again. Left out: what each bundle says.
        forget_after: As the workers' --forget-after, if they have it.
        period: Age of the item statistics at most.
        delay: How much older they are besides; once for each that is compared.
        own_statistics: Number of workers that each keep statistics of their own partition only; may be repeated.
        staleness: The whole study: --delay of 0s, 10s, 1m, 5m, 1h and 24h, --own-statistics of 1, 4 and 16.
        every_event: Recommend at every event as a worker does, not only where something is judged. For speed.
        at: What is judged: the list made at the user's event before the target, as the worker publishes it, or one
            asked for at the target's own time. Both know only what was over before.
        fading: Whether the hour and the day of the baselines are half-lives or e-folding times.
        mixing: Whether the baseline of co-visitation adds popularity, or fills up with it what would stay empty.
        baselines: Whether popularity and co-visitation are judged, too.
        batch: Events in a batch.
        processes: Processes that share the work. Figures stay the same.
        work: Folder that keeps finished and unfinished passes, so that the same command goes on with them.
        report: Write a report, one HTML file that needs nothing else; of a study its plot and table.
        json: Print one line at the end: {"bundles": {NAME: {"hr_at_10": …, …}}, "baselines": …, "differences": …}.
    """
    from stream.bundle.load import load_bundle
    from training.backtest.analysis import analyse
    from training.backtest.execute import Backtest, tasks_of
    from training.backtest.judged import Judged, judged_targets
    from training.backtest.material import material_of
    from training.backtest.report import write_report
    from training.backtest.requests import asked_at_targets
    from training.backtest.run import Conditions
    from training.backtest.study import DELAYS, WORKERS, write_study

    folders = [path.resolve() for path in bundle or []]
    if (log is None) == (topic is None):
        raise PolytempoError("a backtest needs events, from one place.", "Name --log FILE or --topic NAME.")
    if not folders and not baselines:
        raise PolytempoError("there is nothing to judge.", "Name a --bundle, or leave the baselines in.")
    if k < 1 or batch < 1 or processes < 1 or any(n_workers < 1 for n_workers in own_statistics or ()):
        raise PolytempoError("--k, --batch, --processes and --own-statistics are 1 at least.")
    judged = Judged(
        from_ms=0 if since is None else parse_time(since),
        until_ms=2**62 if until is None else parse_time(until),
        rule=target,
        horizon_ms=None if horizon is None else parse_duration_ms(horizon),
        sample=sample,
        seed=seed,
        types=tuple(only_type or ()),
        new_users=new_users,
        new_items=new_items,
        where=tuple(_field_value(each) for each in where or ()),
    )
    loaded = [load_bundle(folder) for folder in folders]
    types = _types_of(loaded)
    from_ms = None if since is None or warm_up is None else judged.from_ms - parse_duration_ms(warm_up)
    until_ms = None if until is None else judged.until_ms
    source = read_source(
        log,
        topic,
        items=items,
        columns=columns,
        connection=connection,
        known_types=types.codes(),
        from_ms=from_ms,
        until_ms=until_ms,
    )
    with people.status("ordering events …"):
        material = material_of(source.frame, types, source.items)
        del source
        targets = judged_targets(material.log, types, material.fields, judged)
    _remark(loaded, material.log.n_dropped, len(material.log), len(targets), judged.from_ms)
    if len(targets) == 0:
        raise PolytempoError("there is no target in this range.", "Look at --since, --until and the filters.")
    if at == "target":
        material, targets = asked_at_targets(material, targets)
    conditions = Conditions(
        k=k,
        period_ms=parse_duration_ms(period),
        batch_size=batch,
        every_event=every_event,
        seen=seen,
        fading=fading,
        mixing=mixing,
        forget_after_ms=0 if forget_after is None else parse_duration_ms(forget_after),
    )
    if staleness:
        delay, own_statistics = delay or list(DELAYS), own_statistics or list(WORKERS)
    # Each way of keeping statistics is a backtest of its own; usually there is one.
    ways: list[tuple[str, int | None]] = [(each, None) for each in delay or ([] if own_statistics else ["0s"])]
    ways += [("0s", n_workers) for n_workers in own_statistics or ()]
    analyses: list[Analysis] = []
    done: dict[tuple[int, int | None], Analysis] = {}
    with tempfile.TemporaryDirectory(prefix="polytempo-backtest-") as scratch, interruptible() as stopped:
        for late, n_workers in ways:
            # A worker that is alone has everybody's statistics.
            way = (parse_duration_ms(late), None if n_workers == 1 else n_workers)
            if way in done:
                analyses.append(done[way])
                continue
            folder = work or Path(scratch)
            if len(ways) > 1:
                folder /= f"delay-{late}" if n_workers is None else f"workers-{n_workers}"
            testing = Backtest(
                material,
                targets,
                replace(conditions, delay_ms=way[0]),
                folder,
                keep=work is not None,
            )
            tasks = tasks_of(folders, baselines=baselines, n_processes=processes, n_workers=way[1])
            with _bar("replaying") as show:
                outcomes = testing.go(tasks, n_processes=processes, on_progress=show, stopped=stopped)
            if outcomes is None:
                hint = "With --work FOLDER it could go on later." if work is None else "The same command goes on."
                people.print(f"stopped. {hint}")
                return _INTERRUPTED
            with people.status("summing up …"):
                done[way] = analyse(material, targets, judged, outcomes)
            analyses.append(done[way])
    if report is not None:
        title = _title(folders, log, topic)
        if len(ways) > 1:
            write_study(ways, analyses, report, title=title)
        else:
            write_report(analyses[0], report, title=title)
        people.print(f"report: {report}")
    if json:
        study = [
            {"delay": late, "own_statistics": n_workers, **analysis.as_json()}
            for (late, n_workers), analysis in zip(ways, analyses, strict=True)
        ]
        print_json(analyses[0].as_json() | ({"study": study} if len(ways) > 1 else {}))
    elif len(ways) > 1:
        results.print(_study(ways, analyses))
    else:
        results.print(_table(analyses[0]))
        _print_differences(analyses[0])
    return 0


def _types_of(bundles: Sequence[Bundle]) -> EventTypes:
    """The event types that all bundles count."""
    if not bundles:
        return EventTypes()
    types = bundles[0].features.types
    for other in bundles[1:]:
        if other.features.types != types:
            raise PolytempoError(
                f"{bundles[0].reference} and {other.reference} count other event types.",
                "So they have other targets; test them one by one.",
            )
    return types


def _field_value(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise PolytempoError(f"{text!r} is no FIELD=VALUE.", "Such as: --where device=phone")
    return name, value


def _remark(bundles: Sequence[Bundle], n_dropped: int, n_events: int, n_targets: int, from_ms: int) -> None:
    people.print(f"{n_events:,} events, {n_targets:,} targets")
    if n_dropped > 0:
        people.print(f"{n_dropped:,} rows are no events that a worker would take")
    for each in bundles:
        if each.manifest.training.to_ms > from_ms:
            people.print(
                f"{each.reference} was trained on events up to {each.manifest.training.to_ms} ms: what it is judged "
                "on before that, it may know already. --since sets the beginning.",
                style="yellow",
                soft_wrap=True,
            )


def _title(folders: Sequence[Path], log: Path | None, topic: str | None) -> str:
    names = ", ".join(folder.name for folder in folders) or "baselines"
    return f"{names} on {topic if log is None else log.name}"


def _table(analysis: Analysis) -> Table:
    from training.backtest.run import BASELINES

    k = analysis.k
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in (f"HR@{k}", "95 %", f"NDCG@{k}", f"MRR@{k}", "coverage", "events/s"):
        table.add_column(heading, justify="right")
    for outcome in sorted(analysis.outcomes, key=lambda each: each.place.astype(bool).mean()):
        figures, of = outcome.metrics(), analysis.overall[outcome.name]
        table.add_row(
            BASELINES.get(outcome.name, outcome.name),
            f"{figures[f'hr_at_{k}']:.4f}",
            f"{of['hr'].low:.3f}-{of['hr'].high:.3f}",
            f"{figures[f'ndcg_at_{k}']:.4f}",
            f"{figures[f'mrr_at_{k}']:.4f}",
            f"{analysis.breadth[outcome.name].coverage:.1%}",
            f"{figures['events_per_s']:,.0f}",
        )
    return table


def _study(ways: Sequence[tuple[str, int | None]], analyses: Sequence[Analysis]) -> Table:
    """Hit rates, a row for each way of keeping statistics."""
    from training.backtest.run import BASELINES
    from training.backtest.study import way_name

    table = Table(box=None, pad_edge=False)
    table.add_column(f"HR@{analyses[0].k}", no_wrap=True)
    for outcome in analyses[0].outcomes:
        table.add_column(BASELINES.get(outcome.name, outcome.name), justify="right")
    for way, analysis in zip(ways, analyses, strict=True):
        table.add_row(way_name(way), *(f"{analysis.overall[each.name]['hr'].mean:.4f}" for each in analysis.outcomes))
    return table


def _print_differences(analysis: Analysis) -> None:
    from training.backtest.run import BASELINES

    for each in analysis.differences:
        hr = each.by_metric["hr"]
        results.print(
            f"{each.two} - {BASELINES.get(each.one, each.one)}: HR {hr.mean:+.4f} "
            f"(95 % {hr.low:+.4f} to {hr.high:+.4f}, p {'<' if hr.p <= 0.001 else '='} {hr.p:.3f})",
            soft_wrap=True,
        )
