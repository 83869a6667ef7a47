"""`polytempo demo`: everything at once, on this machine, to look at."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich.markup import escape
from rich.panel import Panel
from rich.progress import Progress, TaskID
from rich.table import Table

from stream.bundle.load import load_bundle
from stream.cli.columns import FileColumns
from stream.cli.console import people, print_json, progress
from stream.cli.options import KafkaOptions
from stream.cli.watch import follow
from stream.demo.run import DemoConfig, Outcome, run_demo
from stream.demo.script import SEED, Script, script_of_log, script_of_shop
from stream.errors import PolytempoError
from stream.live.reader import Reader
from stream.live.screen import percent
from stream.logs import open_log, read_items

__all__ = ["demo"]

_BUNDLE: Final = Path("models") / "shop-ranker"


def demo(
    *,
    bundle: Path | None = None,
    workers: int = 2,
    seconds: float = 40.0,
    rate: float = 250.0,
    history: int = 24_000,
    seed: int = SEED,
    events: Path | None = None,
    items: Path | None = None,
    plain: bool = False,
    json: bool = False,
    columns: FileColumns | None = None,
    connection: KafkaOptions | None = None,
) -> None:
    """Start Kafka and two workers, stream a simulated shop or your own log, watch it, and sum up.

    First a few days of history go through as fast as they can, so that states and statistics are there; then the live
    part at a steady rate. Figures are of the live part alone. Everything is stopped and deleted at the end.

    With --kafka or POLYTEMPO_KAFKA it uses that cluster instead, with topics of its own, which it deletes at the end.

    Examples:

    `polytempo demo`

    `polytempo demo --events clicks.parquet --items articles.parquet`

    `polytempo demo --json | tail -1`

    Args:
        bundle: Bundle folder. Left out: models/shop-ranker.
        workers: Worker processes.
        seconds: About how long the live part lasts.
        rate: Events per second of the live part.
        history: Events sent before it.
        seed: Another number, another shop.
        events: A log of your own instead of the shop: .parquet, .csv, .tsv, .jsonl, .ndjson or .json.
        items: A table of the log's items, for their titles.
        plain: Lines instead of a live view; so it is, too, where output is no terminal.
        json: Print one line at the end: {"events_in": ..., "recommendations_out": ..., "dead_letters": ...,
            "hit_rate_at_10": ..., "popularity_hit_rate_at_10": ..., "p50_ms": ..., "p99_ms": ...}.
    """
    connection = KafkaOptions() if connection is None else connection
    folder = _bundle_folder(bundle)
    n_live = round(rate * seconds)
    if n_live < 1 or history < 0:
        raise PolytempoError("there is nothing to stream.", "Give a positive --rate and --seconds.")
    own_cluster = connection.kafka is not None or bool(os.environ.get("POLYTEMPO_KAFKA"))
    try:
        config = DemoConfig(
            bundle=folder,
            types=load_bundle(folder).features.types,
            n_workers=workers,
            rate=rate,
            settings=connection.settings() if own_cluster else None,
            prefix=connection.prefix,
        )
    except ValueError as error:
        raise PolytempoError(f"{error}.") from error

    with _Interruptible() as wish:
        with _Stage(plain=plain, wish=wish) as stage:
            if events is None:
                stage.say("simulating a shop")
                script = script_of_shop(history, n_live, seed=seed)
            else:
                log = open_log(events, (columns or FileColumns()).mapping())
                people.print(log.mapping.describe(), style="dim", markup=False, soft_wrap=True)
                script = script_of_log(log, history, n_live, None if items is None else read_items(items))
            outcome = run_demo(config, script, stage)
        wish.obey()
    _sum_up(outcome, script, own_log=events is not None)
    if json:
        figures = outcome.figures
        print_json(
            {
                "events_in": figures.events_in,
                "recommendations_out": figures.recommendations_out,
                "dead_letters": figures.n_dead_letters,
                "hit_rate_at_10": _rounded(figures.hit_rate_at_10),
                "popularity_hit_rate_at_10": _rounded(figures.popularity_hit_rate_at_10),
                "p50_ms": figures.p50_ms,
                "p99_ms": figures.p99_ms,
            }
        )


class _Stage:
    """The demo in a terminal: lines for what is done, one bar at a time for what takes long."""

    def __init__(self, *, plain: bool, wish: _Interruptible) -> None:
        self._plain = plain
        self._wish = wish
        self._started_s = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._text = ""

    def __enter__(self) -> _Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def say(self, text: str) -> None:
        """One line, with the time since the start."""
        self._clear()
        elapsed_s = time.monotonic() - self._started_s
        people.print(f"{elapsed_s:5.1f} s  {text}", markup=False, soft_wrap=True)

    def progress(self, text: str, n_done: int, n_all: int) -> None:
        """A bar; a new one where `text` is another than before."""
        self._wish.obey()
        if not people.is_terminal:
            return
        if text != self._text or self._bar is None or self._task is None:
            self._clear()
            self._bar, self._text = progress(transient=True), text
            self._bar.start()
            self._task = self._bar.add_task(text, total=n_all)
        self._bar.update(self._task, completed=n_done, total=n_all)

    def watch(self, reader: Reader, done: Callable[[], bool]) -> None:
        """The live part."""
        self.say("the live part starts: from here on everything is measured")

        def over() -> bool:
            self._wish.obey()
            return done()

        follow(reader, over, title="polytempo demo, live part", plain=self._plain, line_s=5.0)

    def _clear(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._text = None, None, ""


def _sum_up(outcome: Outcome, script: Script, *, own_log: bool) -> None:
    figures = outcome.figures
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "streamed", f"{escape(script.title)}: {outcome.n_history:,} events of history, then {figures.events_in:,} live"
    )
    table.add_row("answered", f"{figures.recommendations_out:,} recommendations, one for every valid event")
    letters = ", ".join(f"{n} {reason}" for reason, n in sorted(figures.dead_letters.items()))
    table.add_row("refused", f"{figures.n_dead_letters:,} dead letters" + (f": {letters}" if letters else ""))
    table.add_row(
        "hit rate at 10",
        f"[bold]{percent(figures.hit_rate_at_10)}[/]; 1-hour popularity {percent(figures.popularity_hit_rate_at_10)} "
        f"on the same {figures.n_targets:,} targets",
    )
    if figures.p50_ms is not None:
        table.add_row("latency", f"{figures.p50_ms} ms median, {figures.p99_ms} ms at 99 %, from broker to broker")
    table.add_row("", "[dim]Counts, hit rates and latency are of the live part alone.[/]")
    people.print(Panel(table, title="what happened", title_align="left", border_style="green"))
    if not own_log:
        people.print("your own log       polytempo demo --events FILE", markup=False)
    people.print("step by step       polytempo --help, README.md", markup=False)


def _bundle_folder(wanted: Path | None) -> Path:
    """The bundle's folder: as named, else the shipped one, from here or from the checkout that this code runs from."""
    if wanted is not None:
        return wanted
    for home in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (home / _BUNDLE).is_dir():
            return home / _BUNDLE
    raise PolytempoError(
        f"there is no bundle {_BUNDLE}.", "Run it in a checkout of the project, or name a bundle with --bundle."
    )


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


class _Interruptible:
    """Makes Ctrl-C and SIGTERM end the demo, with everything stopped.

    An interrupt that arrives while Python runs a destructor or a callback is raised there, and swallowed. So the wish
    is remembered, and obeyed at the next step if it did not take effect.
    """

    def __init__(self) -> None:
        self._wished = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Interruptible:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def obey(self) -> None:
        """Raise KeyboardInterrupt if one was wished for."""
        if self._wished:
            self._wished = False
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._wished = True
        raise KeyboardInterrupt
