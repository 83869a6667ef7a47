"""`polytempo bench`: the benchmarks of a checkout, run and shown."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.table import Table

from stream.cli.console import people, print_json, results
from stream.cli.options import parse_duration_ms
from stream.cli.produce import parse_time
from stream.errors import PolytempoError

__all__ = ["bench"]

_CHECKOUT = Path(__file__).resolve().parents[2]

bench = App(
    name="bench",
    help="Measure the path and its parts on this machine, with a Kafka of the benchmark's own.\n\n"
    "The benchmarks are part of the source, not of the package: this works in a checkout. Ratios within one run say "
    "more than figures of different runs, above all on a machine that does other things too.",
    default_parameter=Parameter(negative=()),
)


@bench.command
def path(
    *,
    bundle: Path | None = None,
    events: int = 60_000,
    plain_events: int = 3_000,
    users: int = 20_000,
    items: int = 3_000,
    log: Path | None = None,
    rounds: int = 1,
    batch: int = 256,
    peers: bool = False,
    recurrent: bool = False,
    kafka: str | None = None,
    json: bool = False,
) -> None:
    """Measure the whole path, one worker on one core, beside a plain Faust agent that does the same job.

    Events lie ready in Kafka; measured is how fast acknowledged recommendations come out, warm-up left out. The table
    says where the processor's time goes, an event at a time.

    With --peers, Quix Streams and Bytewax do the same job too, and Faust in batches. Their environments are made on the
    first call, in your cache. Their answers are checked against the worker's.

    Parameters
    ----------
    bundle
        Bundle folder. Left out: models/shop-ranker, or an untrained two-stage ranker if that is not there.
    events
        Events for the worker.
    plain_events
        Events for the plain Faust agent, which takes far longer.
    users
        Users of the simulated shop.
    items
        Its items.
    log
        A log of events to use instead of the simulated shop.
    rounds
        How often both are measured, in turn; medians count.
    batch
        Events that are scored together at most.
    peers
        Measure Quix Streams and Bytewax as well.
    recurrent
        Score with an untrained recurrent model over --items items, which costs what a trained one costs.
    kafka
        A cluster to use, HOST:PORT. Left out: a broker is started and stopped.
    json
        Print one line: {"events_per_s": ..., "plain_faust_events_per_s": ..., "ratio": ..., "us_per_event": {...}},
        with --peers also {"peers": {"faust": ..., "quix": ..., "bytewax": ...}, "formulations": {...}}.
    """
    if recurrent and bundle is not None:
        raise PolytempoError("--recurrent makes a bundle of its own.", "Leave --bundle out.")
    _at_least_one(events=events, plain_events=plain_events, users=users, items=items, rounds=rounds, batch=batch)
    module = _benchmark("path_peers" if peers else "path")
    options = module.PathOptions(
        bundle=bundle,
        n_events=events,
        n_plain_events=min(plain_events, events),
        n_users=users,
        n_items=items,
        log=log,
        n_rounds=rounds,
        max_events=batch,
        kafka=kafka,
        recurrent=recurrent,
    )
    figures = _measured(module, options, _show_path, json=json)
    if peers and not json:
        _show_peers(figures)


@bench.command
def latency(
    *,
    rate: int = 1000,
    seconds: int = 20,
    idle: int = 5,
    warm: int = 10,
    bundle: Path | None = None,
    users: int = 20_000,
    items: int = 3_000,
    log: Path | None = None,
    kafka: str | None = None,
    json: bool = False,
) -> None:
    """Measure the time from an event's send until its recommendation can be read.

    Open loop: events are due at a steady rate whatever happens, and time counts from when an event was due. Beside it,
    in the same run, the same events are read back without a worker in between: what Kafka and this machine take.

    Parameters
    ----------
    rate
        Events per second.
    seconds
        How long, after one second of running in.
    idle
        Seconds without any event before, as at night.
    warm
        Seconds of the same load before those, which do not count: a broker that has just started is slow.
    bundle
        Bundle folder. Left out: models/shop-ranker, or an untrained two-stage ranker if that is not there.
    users
        Users of the simulated shop.
    items
        Its items.
    log
        A log of events to use instead of the simulated shop.
    kafka
        A cluster to use, HOST:PORT. Left out: a broker is started and stopped.
    json
        Print one line: {"p50_ms": ..., "p99_ms": ..., "p999_ms": ..., "floor": {...}, "seconds": [...]}.
    """
    _at_least_one(rate=rate, seconds=seconds, users=users, items=items)
    module = _benchmark("path_latency")
    options = module.LatencyOptions(
        rate=rate,
        seconds=seconds,
        idle_s=idle,
        warm_s=warm,
        bundle=bundle,
        n_users=users,
        n_items=items,
        log=log,
        kafka=kafka,
    )
    _measured(module, options, _show_latency, json=json)


@bench.command
def recovery(
    *,
    users: int = 1_000_000,
    activity: int = 20_000,
    take_over: Annotated[bool, Parameter(negative="--no-take-over")] = True,
    bundle: Path | None = None,
    kafka: str | None = None,
    json: bool = False,
) -> None:
    """Measure how soon a worker is there again: from the changelog, from its own files, in place of another.

    A changelog of so many users is made first, of 1.5 kB each with the shop's bundle: mind the memory and the disk. Two
    workers that stand by for each other hold all users twice.

    Parameters
    ----------
    users
        Users in the changelog.
    activity
        Messages of item activity that a view is built from; 0 leaves views out.
    take_over
        Kill one of two workers too, with standbys and without.
    bundle
        Bundle folder. Left out: models/shop-ranker, or an untrained two-stage ranker if that is not there.
    kafka
        A cluster to use, HOST:PORT. Left out: a broker is started and stopped.
    json
        Print one line: {"users_per_s": ..., "starts": {...}, "take_over": {...}, "views": {...}}.
    """
    _at_least_one(users=users)
    module = _benchmark("recovery")
    config = module.RecoveryConfig(n_users=users, n_activity=activity, take_over=take_over, bundle=bundle, kafka=kafka)
    _measured(module, config, _show_recovery, json=json)


@bench.command
def backtest(
    *,
    bundle: Path | None = None,
    events: int = 20_000,
    before: int = 40_000,
    users: int = 20_000,
    items: int = 3_000,
    log: Path | None = None,
    since: str | None = None,
    period: str = "10s",
    batch: int = 256,
    rounds: int = 1,
    json: bool = False,
) -> None:
    """Measure how fast a backtest replays on one core, and where the processor's time goes.

    A recommendation is made at every event, as live. Beside the bundle, in the same run: the same without its model,
    the baselines, and learning alone. Time is the processor's, so other work on the machine does not count; the view is
    brought up to date once per --period, so a range with few events per period is dearer per event.

    Parameters
    ----------
    bundle
        A two-stage bundle. Left out: models/shop-ranker, or an untrained two-stage ranker if that is not there.
    events
        Events that are measured.
    before
        Events of the simulated shop before them, which are learned from.
    users
        Users of the simulated shop.
    items
        Its items.
    log
        A log of events to use instead of the simulated shop; all that lies before what is measured is learned from.
    since
        Where in the log the measured events begin: 2024-01-31, 2024-01-31T12:00 (UTC) or epoch milliseconds. Left
        out: the last ones are measured.
    period
        Age of the item statistics at most.
    batch
        Events in a batch.
    rounds
        How often each is measured, in turn; medians count.
    json
        Print one line: {"events_per_s": ..., "without_model_events_per_s": ..., "us_per_event": {...}, "runs": {...}}.
    """
    _at_least_one(events=events, users=users, items=items, batch=batch, rounds=rounds)
    module = _benchmark("backtest")
    options = module.BacktestOptions(
        bundle=bundle,
        log=log,
        n_events=events,
        n_before=before,
        n_users=users,
        n_items=items,
        since_ms=None if since is None else parse_time(since),
        period_ms=parse_duration_ms(period),
        batch_size=batch,
        n_rounds=rounds,
    )
    _measured(module, options, _show_backtest, json=json)


@bench.command
def growth(
    *sections: str,
    events: int = 10_000,
    users: int = 1_000_000,
    items: int = 1_000_000,
    batches: int = 60,
    worker_events: int = 40_000,
    plot: Path | None = None,
    json: bool = False,
) -> None:
    """Measure how an event's cost grows with history, users, items, time scales, partitions, vocabulary and workers.

    Everything but the model and Kafka, on one thread, in processor time; for workers the whole path. A million users
    take 1.7 GB, a million items 2 GB. The index of a large vocabulary is measured where faiss-cpu is installed.

    Parameters
    ----------
    sections
        Which to measure, of history, users, items, scales, partitions, vocabulary, workers. Left out: all.
    events
        Events of each user at most.
    users
        Users at most.
    items
        Items at most.
    batches
        Batches of 64 events behind each figure.
    worker_events
        Events that one worker answers, and then two.
    plot
        Draw the figures into this SVG file.
    json
        Print one line: {"history": [{"n": ..., "us_per_event": ...}, ...], ...}.
    """
    _at_least_one(events=events, users=users, items=items, batches=batches, worker_events=worker_events)
    module = _benchmark("growth")
    unknown = [name for name in sections if name not in module.SECTIONS]
    if unknown:
        raise PolytempoError(f"nothing is called {unknown[0]!r}.", f"Sections are {', '.join(module.SECTIONS)}.")
    options = module.GrowthOptions(
        sections=sections,
        most_events=events,
        most_users=users,
        most_items=items,
        n_batches=batches,
        n_worker_events=worker_events,
        plot=plot,
    )
    _measured(module, options, _show_growth, json=json)


def _measured(module: Any, options: Any, show: Callable[[Any], None], *, json: bool) -> Any:
    """Run a benchmark and show its figures, for people or as a line of JSON."""
    figures = module.run(options, say=lambda what: people.print(what, style="dim"))
    if json:
        print_json(figures)
    else:
        show(figures)
    return figures


def _benchmark(name: str) -> Any:
    """The module `name` of tests/bench."""
    if not (_CHECKOUT / "tests" / "bench" / f"{name}.py").exists():
        raise PolytempoError(
            "benchmarks are part of Polytempo's source, and this is an installed package.",
            "Clone the repository, and call `polytempo bench` there.",
        )
    if str(_CHECKOUT) not in sys.path:
        sys.path.insert(0, str(_CHECKOUT))
    with people.status("loading") if people.is_terminal else nullcontext():
        return importlib.import_module(f"tests.bench.{name}")


def _at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise PolytempoError(f"--{name.replace('_', '-')} {count} measures nothing.", "Ask for 1 at least.")


def _show_path(figures: dict[str, Any]) -> None:
    stages: dict[str, float] = figures["us_per_event"]
    all_us = figures["cpu_us_per_event"]
    table = Table(title="CPU time an event", title_justify="left", box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("us", justify="right")
    table.add_column("", justify="left")
    for stage, us in stages.items():
        table.add_row(stage, f"{us:.1f}", "█" * round(60 * us / max(all_us, 1e-9)))
    table.add_row("all", f"{all_us:.1f}", "", style="bold")
    results.print(table)
    results.print(
        f"\n[bold]{figures['events_per_s']:,.0f} events/s[/], plain Faust {figures['plain_faust_events_per_s']:,.0f}: "
        f"[bold]{figures['ratio']:.1f} times[/] as fast"
    )
    results.print(
        f"bundle {figures['bundle']}, {figures['events']:,} events and {figures['plain_faust_events']:,}, "
        f"{figures['events_per_batch']:.0f} a batch; CPU time alone: {figures['cpu_ratio']:.1f} times less"
    )
    if not figures["pinned"]:
        results.print("There is one core only: worker, broker and benchmark have shared it.", style="yellow")


def _show_peers(figures: dict[str, Any]) -> None:
    table = Table(title="\nThe same job, the same core", title_justify="left", box=None, pad_edge=False)
    for name in ("", "events/s", "us of CPU", "of it frame", "a batch", "worker's advantage", "in CPU time"):
        table.add_column(name, justify="left" if name == "" else "right")
    table.add_column("events/s", justify="left")
    fastest = max(figures["events_per_s"], *(each["events_per_s"] for each in figures["formulations"].values()))
    rows = {"worker": figures} | {figures["labels"][name]: each for name, each in figures["formulations"].items()}
    keys = ["", *figures["formulations"]]
    for (label, each), key in zip(rows.items(), keys, strict=True):
        frame = each["us_per_event"].get("frame and clients")
        table.add_row(
            label,
            f"{each['events_per_s']:,.0f}",
            f"{each['cpu_us_per_event']:,.0f}",
            "" if frame is None else f"{frame:,.0f}",
            f"{each['events_per_batch']:.0f}",
            f"{figures['ratios'][key]:.1f}" if key else "",
            f"{figures['cpu_ratios'][key]:.1f}" if key else "",
            "█" * max(1, round(40 * each["events_per_s"] / fastest)),
        )
    results.print(table)
    results.print(f"{figures['answers_checked']:,} answers of peers were checked against the worker's: all the same")
    for name, why in figures["left_out"].items():
        results.print(f"{name} is left out: {why}", style="yellow")


def _show_latency(figures: dict[str, Any]) -> None:
    table = Table(title="milliseconds, second by second", title_justify="left", box=None, pad_edge=False)
    for name in ("second", "p50", "p99", "max", "no worker: p50", "p99", "max"):
        table.add_column(name, justify="right")
    floors = figures["floor"]["seconds"]
    for number, row in enumerate(figures["seconds"]):
        floor = floors[number] if number < len(floors) else ["", "", ""]
        table.add_row(str(number), *(f"{each:.1f}" for each in row), *(f"{each:.1f}" if each else "" for each in floor))
    results.print(table)
    for name, each in (("worker", figures), ("no worker", figures["floor"])):
        results.print(
            f"{name}: p50 {each['p50_ms']:.1f} ms, p99 {each['p99_ms']:.1f} ms, p99.9 {each['p999_ms']:.1f} ms"
        )
    per_batch = figures["batch_ms"]
    results.print(
        f"a batch of {figures['events_per_batch']:.1f} events: step {per_batch['step']:.1f} ms, messages delivered "
        f"{per_batch['sends']:.1f} ms, changelog delivered {per_batch['changelog']:.1f} ms; "
        f"{figures['cpu_us_per_event']:.0f} us of CPU an event"
    )


def _show_backtest(figures: dict[str, Any]) -> None:
    runs: dict[str, dict[str, Any]] = figures["runs"]
    table = Table(title="us of CPU an event", title_justify="left", box=None, pad_edge=False)
    table.add_column("stage")
    for name in runs:
        table.add_column(name, justify="right")
    table.add_column("of the ranker's", justify="left")
    for stage, us in figures["us_per_event"].items():
        share = us / max(runs["ranker"]["all_us_per_event"], 1e-9)
        shown = (f"{each['us_per_event'][stage]:.1f}" for each in runs.values())
        table.add_row(stage, *shown, f"{share:4.0%} {'█' * round(30 * share)}")
    table.add_row("all", *(f"{each['all_us_per_event']:.1f}" for each in runs.values()), "", style="bold")
    table.add_row("events/s", *(f"{each['events_per_s']:,}" for each in runs.values()), "", style="bold")
    results.print(table)
    results.print(
        f"\nbundle {figures['bundle']}, {figures['candidates']} candidates; {figures['events']:,} events behind "
        f"{figures['before']:,}, {figures['events_per_period']:,.0f} in a period of {figures['period_ms'] / 1000:g} s; "
        f"reading and ordering {figures['reading_us_per_event']:.1f} us an event, summing up "
        f"{figures['report_us_per_target']:.0f} us a target"
    )


def _show_recovery(figures: dict[str, Any]) -> None:
    title = f"{figures['users']:,} users of {figures['state_bytes']:,} bytes"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("start", "users/s", "MB/s read", "recovered, s", "ready, s", "CPU, s", "peak MB"):
        table.add_column(name, justify="left" if name == "start" else "right")
    for name, each in figures["starts"].items():
        table.add_row(
            name,
            f"{each['users_per_s']:,}",
            f"{each['read_bytes_per_s'] / 1e6:,.0f}",
            f"{each['recovery_s']:.2f}",
            f"{each['ready_s']:.1f}",
            f"{each['cpu_s']:.2f}",
            f"{each['peak_bytes'] / 1e6:,.0f}",
        )
    results.print(table)
    for name, each in figures.get("take_over", {}).items():
        results.print(
            f"take-over {name}: answers again in every partition after {each['answered_s']:.1f} s, "
            f"{each['beyond_session_s']:.1f} s beyond the session timeout"
        )
    if "views" in figures:
        views = figures["views"]
        results.print(
            f"view: {views['messages']:,} messages from the topic in {views['topic_s']:.2f} s, "
            f"from a snapshot in {views['snapshot_s']:.2f} s"
        )


def _show_growth(figures: dict[str, Any]) -> None:
    for section, rows in figures.items():
        table = Table(title=section, title_justify="left", box=None, pad_edge=False)
        names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "n"]
        for name in ("", *names):
            table.add_column(name.replace("_", " "), justify="right")
        for row in rows:
            table.add_row(f"{row['n']:,.0f}", *(f"{row[name]:,.4g}" if name in row else "" for name in names))
        results.print(table)
        results.print()
