"""`polytempo rows`: rows to train on, from any range of a topic or a log; and whether they knew the future."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stream.cli.columns import FileColumns
from stream.cli.console import people, print_json
from stream.cli.options import KafkaOptions, parse_duration_ms
from stream.cli.produce import parse_time
from stream.cli.replaying import events_bar, interruptible, read_source
from stream.core.events import EventTypes
from stream.errors import PolytempoError

if TYPE_CHECKING:
    import polars as pl

    from training.config import Config
    from training.rowmaking import Recipe

__all__ = ["rows"]

_INTERRUPTED = 130
_LEAKS = 1


def rows(
    *,
    out: Path,
    bundle: Annotated[Path | None, Parameter(name=["--bundle", "-b"])] = None,
    config: Path | None = None,
    log: Path | None = None,
    topic: str | None = None,
    items: Path | None = None,
    since: str | None = None,
    until: str | None = None,
    warm_up: str | None = None,
    sample: float | None = None,
    seed: int = 1,
    period: str | None = None,
    check: int | None = None,
    json: bool = False,
    columns: FileColumns | None = None,
    connection: KafkaOptions | None = None,
) -> int:
    """Write rows to train on: features as they were at each event, and what came next as the label.

    Events are replayed through the worker's own code; a topic is read without joining a group. Rows are Parquet
    shards for any trainer, and `polytempo train --rows` takes them. Memory holds the events' columns, users' records
    and one shard. Ctrl-C stops; the same command goes on.

    `--check 30` makes 30 of the rows again, each from events that stop right at it, and exits with 1 if one differs:
    then something of the future was in it. On a complete folder it only checks.

    Examples:

    `polytempo rows --topic events --since 2024-03-01 --until 2024-03-08 --bundle models/shop-ranker --out rows/`

    `polytempo rows --log clicks.parquet --config training/configs/news-ranker.toml --out rows/ --check 30`

    Args:
        out: Folder of the rows; holds nothing else.
        bundle: Features of this bundle; with its sequence model's answers, if it has one.
        config: Features, period and sample of this configuration for training.
        log: Events from a file: Parquet, CSV or JSON lines.
        topic: Events from a topic.
        items: A table of items, for --log. With --topic, items come from the topic `items`.
        since: Rows of what came at this time or later, in event time. Left out: from the beginning.
        until: Rows of what came before this time. Left out: to the end.
        warm_up: Replay from so much before --since, such as 3d. Left out: from all there is.
        sample: Share of the rows that is kept. Left out: the configuration's, or all.
        seed: Of the sample.
        period: Age of the item statistics at most. Left out: the configuration's, or 10s.
        check: Make so many rows again, see above.
        json: Print one line at the end: {"path": …, "n_rows": …, "n_targets": …, "recall": …, "check": …}.
    """
    from stream.bundle.load import load_bundle
    from training.backtest.material import material_of
    from training.config import read_config, span_ms
    from training.leaks import check_rows
    from training.rowmaking import Recipe, make_rows
    from training.shards import Description
    from training.targets import find_targets, sampled

    nowhere = PolytempoError("rows need features, from one place.", "Name --bundle FOLDER or --config FILE.")
    if (bundle is None) == (config is None):
        raise nowhere
    settings = None if config is None else read_config(config)
    loaded = None if bundle is None else load_bundle(bundle)
    from_ms = 0 if since is None else parse_time(since)
    until_ms = 2**62 if until is None else parse_time(until)
    source = read_source(
        log,
        topic,
        items=items,
        columns=columns,
        connection=connection,
        known_types=_types(settings).codes() if loaded is None else loaded.features.types.codes(),
        from_ms=None if since is None or warm_up is None else from_ms - parse_duration_ms(warm_up),
        until_ms=None if until is None else until_ms,
    )
    period_ms = parse_duration_ms(period) if period is not None else 10_000 if settings is None else span_ms(
        settings.period
    )  # fmt: skip
    if loaded is not None:
        recipe = Recipe(loaded.features, loaded, loaded.manifest.policy.seen, period_ms)
    elif settings is not None:
        recipe = _recipe(settings, source.frame, from_ms, until_ms, period_ms)
    else:
        raise nowhere
    with people.status("ordering events …"):
        material = material_of(source.frame, recipe.spec.types, source.items)
        name = source.name
        del source
        events = material.with_fields(recipe.spec.statistics.segment_fields)
        found = find_targets(events, recipe.spec.types.weight_table(), recipe.spec.state.session_gap_ms)
        share = sample if sample is not None else 1.0 if settings is None else settings.window.train_sample
        if not 0 < share <= 1:
            raise PolytempoError(f"a sample of {share:g} is no share.", "Ask for 0.1, or 1 for all.")
        targets = sampled(found, len(events), share, seed).within(events.between(from_ms, until_ms))
    if len(targets) == 0:
        raise PolytempoError("there is no target in this range.", "Look at --since, --until and --sample.")
    described = Description.of(
        recipe.spec,
        inputs=tuple(each for each in recipe.inputs if each not in ("candidates", *_FEATURES)),
        source=name,
        from_ms=from_ms,
        until_ms=until_ms,
        period_ms=period_ms,
        seen=recipe.seen,
        log=f"{material.fingerprint()} {share:g} {seed}",
    )
    last = int(targets.scored.max()) + 1
    with interruptible() as stopped, events_bar("replaying") as show:
        done = make_rows(
            events,
            material.items,
            targets,
            recipe,
            out,
            described,
            on_progress=lambda n: show(n, last),
            stopped=stopped,
        )
    if done is None:
        people.print("stopped. The same command goes on.")
        return _INTERRUPTED
    people.print(f"{done.n_rows:,} rows of {done.n_targets:,} targets in {out}")
    answer = {
        "path": str(out),
        "n_rows": done.n_rows,
        "n_targets": done.n_targets,
        "recall": round(done.n_rows / done.n_targets, 4),
    }
    checked = None
    if check is not None:
        with events_bar("making rows again") as show:
            checked = check_rows(out, events, material.items, recipe, n_sample=check, on_progress=show)
        for difference in checked.differences:
            people.print(difference, style="red", markup=False, soft_wrap=True)
        verdict = "nothing differs" if checked.clean else f"{checked.n_differ} differ, {checked.n_wrong} are wrong"
        people.print(f"{checked.n_again} of {checked.n_rows:,} rows made again without the future: {verdict}")
    if json:
        told = None if checked is None else {
            "n_again": checked.n_again, "n_differ": checked.n_differ, "n_wrong": checked.n_wrong
        }  # fmt: skip
        print_json(answer | {"check": told})
    return 0 if checked is None or checked.clean else _LEAKS


_FEATURES = ("candidate_features", "context_features")


def _types(settings: Config | None) -> EventTypes:
    kinds = None if settings is None else settings.features.kinds
    return EventTypes() if kinds is None else EventTypes.from_json(kinds)


def _recipe(settings: Config, frame: pl.DataFrame, from_ms: int, until_ms: int, period_ms: int) -> Recipe:
    """What a configuration says, its segments taken from the range."""
    import polars as pl

    from training.config import common_values, feature_spec
    from training.rowmaking import Recipe

    if settings.preprocess is not None:
        raise PolytempoError(
            "the configuration cleans its log first; rows are made of events as they are.",
            "`polytempo prepare --out EVENTS` cleans it; or name a --bundle that was trained so.",
        )
    missing = [name for name in settings.features.segments if name not in frame.columns]
    if missing:
        raise PolytempoError(
            f"the events have no context field {', '.join(missing)}.", "Columns: " + ", ".join(frame.columns)
        )
    window = frame.filter((pl.col("ts_ms") >= from_ms) & (pl.col("ts_ms") < until_ms))
    spec = feature_spec(settings.features, common_values(settings.features, window))
    return replace(Recipe(spec), seen=settings.policy.seen, period_ms=period_ms)
