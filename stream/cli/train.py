"""`polytempo train`: a configuration becomes a bundle; and `--evaluate`: a bundle is judged on a log."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from stream.cli.bars import Bars
from stream.cli.console import people, print_json, results
from stream.errors import PolytempoError

if TYPE_CHECKING:
    import polars as pl

    from training.config import Config

__all__ = ["train"]


def train(
    config: Path,
    /,
    *,
    data: Path | None = None,
    items: Path | None = None,
    out: Path | None = None,
    seed: int | None = None,
    evaluate: Path | None = None,
    checkpoint: Path | None = None,
    keep: bool = False,
    json: bool = False,
) -> None:
    """Train a bundle from a log of events, as a configuration file says.

    The log is replayed through the worker's own code, so that the model learns from exactly what it will be given. The
    bundle that comes out is then evaluated on the log's later part, beside baselines, in the same way. Commented
    examples are in training/configs. Needs the extra `training`.

    Examples:

    `polytempo train training/configs/shop-ranker.toml` makes the bundle that is shipped in models/.

    `polytempo train training/configs/news-ranker.toml --data clicks.parquet`

    `polytempo train training/configs/news-ranker.toml --data clicks.parquet --evaluate models/news-ranker`

    Args:
        config: The configuration, TOML.
        data: The log, instead of the one that the configuration names.
        items: The table of items, instead of the one that the configuration names.
        out: Folder of the bundle, instead of the configuration's.
        seed: Instead of the configuration's.
        evaluate: Train nothing; judge this bundle on the validation range of the log.
        checkpoint: Of a sequence model: a file that keeps what is needed to go on after a stop; the same command does.
            `polytempo export` makes a bundle of it.
        keep: Fail if another bundle is at the output path, instead of replacing it.
        json: Print one line at the end: path, reference, metrics, seconds.
    """
    from stream.bundle.load import load_bundle
    from training.config import read_config, span_ms
    from training.train import evaluate_bundle, prepare
    from training.train import train as run

    settings = _overridden(read_config(config), data, items, out, seed)
    tables = _simulated(settings)
    if evaluate is not None:
        bundle = load_bundle(evaluate)
        with Bars() as bars:
            bars.stage("reading the log", 1)
            material = prepare(settings, tables)
            evaluation = evaluate_bundle(bundle, material, period_ms=span_ms(settings.period), report=bars)
        metrics = evaluation.metrics()
        _show(f"{bundle.reference} on {len(material.validate):,} targets", metrics, json=json)
        if json:
            print_json({"path": str(evaluate), "reference": bundle.reference, "metrics": metrics})
        return
    with Bars() as bars:
        trained = run(
            settings,
            command=_command(config, data),
            tables=tables,
            report=bars,
            replace=not keep,
            checkpoint=checkpoint,
        )
    metrics = trained.manifest.metrics
    _show(f"{trained.manifest.reference} in {trained.path}", dict(metrics), json=json)
    if json:
        print_json(
            {
                "path": str(trained.path),
                "reference": trained.manifest.reference,
                "metrics": dict(metrics),
                "seconds": trained.seconds,
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


def _command(config: Path, data: Path | None) -> str:
    """How to make the bundle again; files are named without their folders, which belong to this machine."""
    parts = ["polytempo", "train", str(config) if not config.is_absolute() else config.name]
    parts += [] if data is None else ["--data", data.name]
    return shlex.join(parts)


def _show(title: str, metrics: dict[str, float], *, json: bool) -> None:
    """A table of the model beside the baselines: the model's own figures have no name before them."""
    columns = [name for name in metrics if "/" not in name and "@" in name]
    names = dict.fromkeys(name.rpartition("/")[0] for name in metrics if name.rpartition("/")[2] in columns)
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column.upper(), justify="right")
    for name in sorted(names, key=lambda name: metrics.get(f"{name}/{columns[0]}" if name else columns[0], 0.0)):
        style = None if name else "bold"
        row = [f"{metrics[f'{name}/{column}' if name else column]:.4f}" for column in columns]
        table.add_row(name.replace("_", " ") or "this model", *row, style=style)
    (people if json else results).print(table)
