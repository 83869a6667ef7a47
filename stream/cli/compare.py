"""`polytempo compare`: sequence models and baselines on one log, judged alike."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter
from rich.table import Table

from stream.cli.bars import Bars
from stream.cli.columns import FileColumns
from stream.cli.console import people, print_json, results
from stream.errors import PolytempoError
from stream.logs import open_log, read_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    import torch

    from training.compare.report import Entry
    from training.compare.rows import Result
    from training.config import FusionTraining, SequenceTraining

    AnySettings = SequenceTraining | FusionTraining

__all__ = ["compare"]

JUDGED = Group("What is judged", sort_key=3)

ModelName = Literal["moving_average", "lstm_seq2seq", "transformer", "tempo", "fusion"]


def compare(
    *,
    data: Path,
    items: Path | None = None,
    model: Annotated[list[ModelName] | None, Parameter(name=["--model", "-m"], negative="")] = None,
    config: Path | None = None,
    ablations: bool = False,
    seeds: int = 1,
    seed: int = 0,
    out: Path = Path("comparison"),
    served: Annotated[bool, Parameter(negative="--not-served")] = True,
    threads: int = 1,
    processes: int = 2,
    protocol: Annotated[Literal["loo", "time", "both"], Parameter(group=JUDGED)] = "both",
    cut: Annotated[float, Parameter(group=JUDGED)] = 0.8,
    choose: Annotated[bool, Parameter(group=JUDGED)] = False,
    repeats: Annotated[bool, Parameter(group=JUDGED)] = False,
    n_items: Annotated[int, Parameter(group=JUDGED)] = 20_000,
    json: bool = False,
    columns: FileColumns | None = None,
) -> None:
    """Train sequence models on a log and compare them with each other and with what needs no training.

    Over the whole catalogue, items that the user had before removed, ties against the model. Beside the models stand
    popularity, popularity of the last hour, co-visitation and the user's own last items, and the fusion of a sequence
    model with live item statistics. Each model is exported, loaded as a worker does, and timed. Intervals come from
    drawing users anew; each model is held against the best baseline and against tempo, paired by target. Needs the
    extra `training`.

    Examples:

    `polytempo compare --data ml_100k.parquet --json` is every model in both protocols.

    `polytempo compare --data clicks.parquet --items articles.parquet -m tempo --protocol time --seeds 3`

    `polytempo compare --data ml_100k.parquet --ablations --protocol loo --seeds 3`

    `polytempo compare --data ml_100k.parquet -m tempo --config mine.toml --choose` judges settings without the test.

    Args:
        data: The log: Parquet, CSV or JSON lines.
        items: A table of items, whose categories and titles the models use that can.
        model: Only this model; may be repeated. Baselines are always there.
        config: Settings of models, TOML: a table for each, such as `[tempo]` with `d = 128`. `polytempo train` has the
            same ones.
        ablations: Tempo, the fusion and the transformer, whole and without one thing at a time: time scales, their own
            read-outs, physical time, single precision, live statistics, the exact loss.
        seeds: How many times each model is trained.
        seed: The first of them.
        out: Folder for table.json, table.md and comparison.html. Finished rows are kept in it: the same command goes on
            after a stop.
        served: Export each model and time it.
        threads: Of PyTorch, in each process.
        processes: That train side by side; two on one thread each are faster than one on two.
        protocol: loo predicts each user's last event; time predicts all events after a moment from those before it.
        cut: Share of the events that lie before that moment.
        choose: Judge within the training part, for choosing settings: loo on each user's event before last, time on the
            last part of what lies before the moment.
        repeats: What a user had before may come again, and counts.
        n_items: The catalogue: the most common items, at most so many.
        json: Print the list of rows at the end, in one line.
    """
    import torch

    from training.compare.contenders import Options, contenders
    from training.compare.contenders import ablations as without_one
    from training.compare.report import summarise, write_files
    from training.compare.run import compare as run
    from training.log import item_updates
    from training.sequences import cut_sequences, frequent_items

    if seeds < 1:
        raise PolytempoError(f"--seeds is at least 1, not {seeds}.")
    if processes < 1:
        raise PolytempoError(f"--processes is at least 1, not {processes}.")
    if not 0 < cut < 1:
        raise PolytempoError(f"--cut is a share between 0 and 1, not {cut}.")
    torch.set_num_threads(threads)
    log = open_log(data, None if columns is None else columns.mapping())
    frame = log.frame().drop_nulls(["user_id", "item_id", "ts_ms", "event_type"])
    frame = frame.filter(frame["item_id"] != "")
    try:
        sequences = cut_sequences(frame, frequent_items(frame)[:n_items])
    except ValueError as error:
        raise PolytempoError(f"{data.name}: {error}.", "Name the type of all events with --constant-type.") from error
    options = Options(
        protocols=("loo", "time") if protocol == "both" else (protocol,),
        seeds=tuple(range(seed, seed + seeds)),
        cut=cut,
        choose=choose,
        repeats=repeats,
        served=served,
    )
    settings = _settings(config)
    if ablations:
        wanted = without_one(settings)
    else:
        wanted = contenders({kind: each for kind, each in settings.items() if model is None or kind in model})
    known = None if items is None else read_items(items)
    done: list[Result] = []
    with Bars() as bars:
        for done in run(
            sequences,
            wanted,
            options,
            folder=out,
            report=bars,
            items=() if known is None else item_updates(known),
            categories=None if known is None else _categories(known, sequences.vocabulary),
            processes=processes,
        ):
            write_files(summarise(done), out, title=f"Models on {data.name}")
    entries = summarise(done)
    if not entries or len(done[0].place) == 0:
        raise PolytempoError(f"{data.name}: nobody did anything that could be predicted.")
    _show(entries, data.name, json=json)
    spent_s = sum(result.row.row_s for result in done)
    people.print(
        f"{spent_s / 60:.1f} minutes of processor time. table.json, table.md and comparison.html are in {out}",
        soft_wrap=True,
    )
    if json:
        print_json([entry.to_json() for entry in entries])


def _settings(config: Path | None) -> dict[str, AnySettings]:
    """The models' settings by name, in the order of the table."""
    import msgspec

    from training.compare.fused import FUSION
    from training.config import FusionTraining
    from training.sequence_models import KINDS

    given: dict[str, object] = {}
    if config is not None:
        try:
            given = tomllib.loads(config.read_text())
        except OSError as error:
            raise PolytempoError(f"{config} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise PolytempoError(f"{config.name}: {error}.") from error
    kinds: dict[str, type[AnySettings]] = {**KINDS, "fusion": FusionTraining}
    unknown = sorted(set(given) - set(kinds))
    if unknown:
        raise PolytempoError(f"{config} has settings of {unknown[0]!r}.", f"Models are {', '.join(kinds)}.")
    found: dict[str, AnySettings] = {}
    for kind, settings in kinds.items():
        said = given.get(kind, {})
        if not isinstance(said, dict):
            raise PolytempoError(f"{config}: {kind} is no table.", f"Write [{kind}] and settings below it.")
        usual = msgspec.to_builtins(FUSION) if kind == "fusion" else {"kind": kind}
        ranker = {"ranker": usual["ranker"] | said.get("ranker", {})} if kind == "fusion" else {}
        try:
            found[kind] = msgspec.convert({**usual, **said, **ranker}, settings)
        except msgspec.ValidationError as error:
            raise PolytempoError(f"{config}: [{kind}]: {error}.") from error
    return found


def _categories(table: pl.DataFrame, vocabulary: list[str]) -> torch.Tensor | None:
    """(V,) the category of each item from 1, 0 for none."""
    import torch

    if "category" not in table.columns:
        return None
    of = dict(zip(table["item_id"].to_list(), table["category"].to_list(), strict=True))
    names = sorted({str(of[item]) for item in vocabulary if of.get(item)})
    code = {name: number for number, name in enumerate(names, start=1)}
    return torch.tensor([code.get(str(of.get(item) or ""), 0) for item in vocabulary]) if code else None


def _show(entries: Sequence[Entry], source: str, *, json: bool) -> None:
    """One table for each protocol, on standard output unless that is kept for JSON."""
    for protocol in dict.fromkeys(entry.protocol for entry in entries):
        what = {"loo": "each user's last event", "time": "everything after the cut"}[protocol]
        table = Table(title=f"{source}: {what}", title_justify="left")
        table.add_column("")
        for column in ("HR@10", "NDCG@10", "95 %", "over best baseline", "over tempo", "µs/event", "state", "train s"):
            table.add_column(column, justify="right")
        for entry in entries:
            if entry.protocol != protocol:
                continue
            figures, differences = entry.figures, (entry.against_baseline, entry.against_tempo)
            us = figures["us_per_event"]
            table.add_row(
                entry.model.replace("_", " "),
                f"{entry.hr.mean:.3f}",
                f"{entry.ndcg.mean:.4f}",
                f"{entry.ndcg.low:.3f} to {entry.ndcg.high:.3f}",
                *("" if each is None else f"{each.mean:+.4f} (p {each.p:.3f})" for each in differences),
                "" if us is None else f"{us:.1f}",
                f"{figures['state_bytes']:.0f}",
                f"{figures['train_s']:.0f}",
            )
        (people if json else results).print(table)
