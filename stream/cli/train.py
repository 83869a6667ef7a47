"""`polytempo train`: a configuration becomes a bundle; and `--evaluate`: a bundle is judged on a log."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from stream.cli.bars import Bars
from stream.cli.console import people, print_json, results
from stream.cli.options import KafkaOptions
from stream.cli.produce import parse_time
from stream.cli.replaying import read_source
from stream.errors import PolytempoError

if TYPE_CHECKING:
    import polars as pl

    from training.config import Config
    from training.evaluate import Evaluation

__all__ = ["train"]


def train(
    config: Path,
    /,
    *,
    data: Path | None = None,
    items: Path | None = None,
    topic: str | None = None,
    since: str | None = None,
    until: str | None = None,
    rows: Path | None = None,
    out: Path | None = None,
    seed: int | None = None,
    evaluate: Path | None = None,
    checkpoint: Path | None = None,
    shards: Path | None = None,
    keep: bool = False,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    tensorboard: Path | None = None,
    json: bool = False,
    connection: KafkaOptions | None = None,
) -> None:
    """Train a bundle from a log of events, as a configuration file says.

    The log is replayed through the worker's own code, so that the model learns from exactly what it will be given. The
    bundle that comes out is then evaluated on the log's later part, beside baselines, in the same way. Commented
    examples are in training/configs. Needs the extra `training`.

    Examples:

    `polytempo train training/configs/shop-ranker.toml` makes the bundle that is shipped in models/.

    `polytempo train training/configs/news-ranker.toml --data clicks.parquet`

    `polytempo train training/configs/news-ranker.toml --data clicks.parquet --evaluate models/news-ranker`

    `polytempo train training/configs/shop-ranker.toml --topic events --since 2024-03-01 --until 2024-03-15` trains on
    a range of a topic, as it could every night.

    `torchrun --nproc-per-node 2 -m stream.cli.main train tempo.toml` trains a sequence model by two processes, which
    share each batch and come to what one comes to.

    Args:
        config: The configuration, TOML.
        data: The log, instead of the one that the configuration names.
        items: The table of items, instead of the one that the configuration names.
        topic: Train on events of this topic instead of a log; items come from the topic `items`.
        since: Only events from this time on: 2024-01-31, 2024-01-31T12:00 (UTC) or epoch milliseconds. For --topic.
        until: Only events before this time. With either of the two, the configuration's own times make way: of what
            is between, `train_share` is trained on and the rest judged. For --topic.
        rows: What `polytempo rows --config` made of the same events, to fit a ranker to.
        out: Folder of the bundle, instead of the configuration's.
        seed: Instead of the configuration's.
        evaluate: Train nothing; judge this bundle on the validation range of the log.
        checkpoint: Of a sequence model: a file that keeps what is needed to go on after a stop; the same command does.
            `polytempo export` makes a bundle of it.
        shards: Of a sequence model: a folder for the shards that the log is cut into, so that memory does not grow with
            it. Files of more than `shard_above` rows (5,000,000) are learnt from so without being asked.
        keep: Fail if another bundle is at the output path, instead of replacing it.
        device: Where a sequence model is trained: `auto` is a graphics card if there is one, else the processor.
        tensorboard: Of a sequence model: a folder for TensorBoard's curves. Needs the extra `tensorboard`.
        json: Print one line at the end: path, reference, metrics, seconds, and what an event served costs.
    """
    from stream.bundle.load import load_bundle
    from training.config import read_config, span_ms
    from training.device import choose_device
    from training.journal import tensorboard as log_to
    from training.judging import evaluate_bundle
    from training.material import prepare
    from training.processes import processes
    from training.train import assist
    from training.train import train as run

    settings = _overridden(read_config(config), data, items, out, seed)
    if topic is None:
        if since is not None or until is not None:
            raise PolytempoError("--since and --until are for --topic.", "A log's times are in the configuration.")
        tables = _simulated(settings)
    else:
        if data is not None or items is not None:
            raise PolytempoError("events come from one place.", "Name --data FILE or --topic NAME.")
        settings, tables = _from_topic(settings, topic, since, until, connection)
    if evaluate is not None:
        bundle = load_bundle(evaluate)
        with Bars() as bars:
            bars.stage("reading the log", 1)
            material = prepare(settings, tables)
            evaluation = evaluate_bundle(
                bundle, material, period_ms=span_ms(settings.period), report=bars, measure=True
            )
        metrics = evaluation.metrics()
        _show(f"{bundle.reference} on {len(material.validate):,} targets", metrics, json=json)
        _show_cost(evaluation, json=json)
        if json:
            cost = _cost(evaluation)
            print_json({"path": str(evaluate), "reference": bundle.reference, "metrics": metrics, "cost": cost})
        return
    with processes(choose_device(device)) as group:
        if group.rank > 0:
            assist(settings, group, tables=tables, checkpoint=checkpoint, shards=shards)
            return
        with log_to(tensorboard) as journal, Bars() as bars:
            trained = run(
                settings,
                command=_command(config, data, topic, since, until),
                tables=tables,
                report=bars,
                replace=not keep,
                checkpoint=checkpoint,
                rows=rows,
                processes=group,
                journal=journal,
                shards=shards,
            )
            if journal is not None:
                journal.end(settings, trained.manifest.metrics)
    metrics = trained.manifest.metrics
    _show(f"{trained.manifest.reference} in {trained.path}", dict(metrics), json=json)
    _show_cost(trained.evaluation, json=json)
    if json:
        print_json(
            {
                "path": str(trained.path),
                "reference": trained.manifest.reference,
                "metrics": dict(metrics),
                "seconds": trained.seconds,
                "cost": _cost(trained.evaluation),
            }
        )


def _overridden(config: Config, data: Path | None, items: Path | None, out: Path | None, seed: int | None) -> Config:
    from msgspec.structs import replace

    if data is not None or items is not None:
        source = replace(config.data, file=config.data.file if data is None else str(data))
        source = source if items is None else replace(source, items=str(items))
        # A file given by hand takes the place of the simulated shop.
        config = replace(config, data=source if data is None else replace(source, simulate=None))
    if out is not None:
        config = replace(config, bundle=replace(config.bundle, path=str(out)))
    return config if seed is None else replace(config, seed=seed)


def _simulated(config: Config) -> tuple[pl.DataFrame, pl.DataFrame | None] | None:
    """Events and items of the simulated shop, if the configuration asks for one."""
    if config.data.simulate is None:
        return None
    from stream.demo.shop import ShopConfig, simulate

    options: dict[str, Any] = dict(config.data.simulate)
    seed = int(options.pop("seed", 0))
    known = {field.name: field.type for field in fields(ShopConfig)}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise PolytempoError(f"[data.simulate] has no option {unknown[0]!r}.", f"It has seed, {', '.join(known)}.")
    typed = {name: int(value) if known[name] == "int" else float(value) for name, value in options.items()}
    try:
        with people.status("simulating a shop"):
            log = simulate(ShopConfig(**typed), seed)  # type: ignore[arg-type]  # each has its field's type
    except ValueError as error:
        raise PolytempoError(f"[data.simulate]: {error}.") from error
    return log.events, log.items


def _from_topic(
    config: Config, topic: str, since: str | None, until: str | None, connection: KafkaOptions | None
) -> tuple[Config, tuple[pl.DataFrame, pl.DataFrame | None]]:
    """The configuration for a range of a topic, and its events and items."""
    import polars as pl
    from msgspec.structs import replace

    from training.config import feature_spec

    source = read_source(
        None,
        topic,
        items=None,
        columns=None,
        connection=connection,
        known_types=feature_spec(config.features, dict.fromkeys(config.features.segments, ())).types.codes(),
        from_ms=None if since is None else parse_time(since),
        until_ms=None if until is None else parse_time(until),
    )
    window = config.window
    if since is not None or until is not None:
        window = replace(window, train_from=None, train_until=None, validate_until=None)
    config = replace(config, data=replace(config.data, file=source.name, items=None, simulate=None), window=window)
    items = pl.DataFrame(
        [
            (each.item_id, each.category, each.title, each.available, each.published_ms)
            for each in sorted(source.items, key=lambda update: update.item_id)
        ],
        schema={
            "item_id": pl.String, "category": pl.String, "title": pl.String, "available": pl.Boolean,
            "published_ms": pl.Int64,
        },
        orient="row",
    )  # fmt: skip
    # The order that all sources share, see `training.backtest.material`: partitions have none between them.
    return config, (source.frame.sort("ts_ms", "user_id", maintain_order=True), items)


def _command(config: Path, data: Path | None, topic: str | None, since: str | None, until: str | None) -> str:
    """How to make the bundle again; files are named without their folders, which belong to this machine."""
    parts = ["polytempo", "train", str(config) if not config.is_absolute() else config.name]
    parts += [] if data is None else ["--data", data.name]
    for name, value in (("--topic", topic), ("--since", since), ("--until", until)):
        parts += [] if value is None else [name, value]
    return shlex.join(parts)


def _cost(evaluation: Evaluation) -> dict[str, float] | None:
    """For the line of JSON; no figure of the bundle, since it is the machine's as well."""
    cost = evaluation.cost
    return None if cost is None else {"us_per_event": round(cost.us_per_event, 1), "n_batch": cost.n_batch}


def _show_cost(evaluation: Evaluation, *, json: bool) -> None:
    if evaluation.cost is not None:
        cost = evaluation.cost
        line = f"{cost.us_per_event:.0f} µs of processor an event served, in batches of {cost.n_batch}"
        (people if json else results).print(line, style="dim")


def _show(title: str, metrics: dict[str, float], *, json: bool) -> None:
    """A table of the model beside the baselines: the model's own figures have no name before them."""
    columns = [name for name in metrics if "/" not in name and "@" in name]
    names = {
        name: None
        for name in (key.rpartition("/")[0] for key in metrics)
        # What only an epoch was chosen by is no row.
        if all((f"{name}/{column}" if name else column) in metrics for column in columns)
    }
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column.upper(), justify="right")
    for name in sorted(names, key=lambda name: metrics.get(f"{name}/{columns[0]}" if name else columns[0], 0.0)):
        style = None if name else "bold"
        row = [f"{metrics[f'{name}/{column}' if name else column]:.4f}" for column in columns]
        table.add_row(name.replace("_", " ") or "this model", *row, style=style)
    (people if json else results).print(table)
