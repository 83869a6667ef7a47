"""The steps in order: fit each on what is known when training ends, apply it, and account for every row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from msgspec import Struct

from stream.core.events import EventTypes
from stream.core.values import ValueSpec, ValueStep
from stream.errors import PolytempoError
from stream.logs import ColumnMapping, open_log
from training.preprocess.account import Account, ColumnAccount, StepAccount, describe, n_said
from training.preprocess.bots import Bots
from training.preprocess.core import KCore
from training.preprocess.duplicates import Duplicates
from training.preprocess.gaps import Gaps, Indicator
from training.preprocess.keep import Complete, Keep
from training.preprocess.live import Clip, Fill, Log1p, Scale
from training.preprocess.outliers import Outliers
from training.preprocess.rare import Rare
from training.preprocess.returns import Returns
from training.preprocess.sessions import Lines, Sessions
from training.preprocess.step import KNOWN, ROW
from training.preprocess.text import Text, tidy

__all__ = ["Prepared", "Preprocess", "Raw", "Step", "preprocess", "read_events"]

LogStep = Complete | Keep | Duplicates | Bots | Sessions | Lines | Returns | KCore | Rare | Indicator | Gaps | Outliers
LiveStep = Fill | Clip | Log1p | Scale
Step = LogStep | LiveStep
_LIVE = (Fill, Clip, Log1p, Scale)


class Preprocess(Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[preprocess]`.

    Attributes:
        text: what texts of the raw file mean.
        keep: further columns of the raw file that steps look at; they become context fields.
        values_of: event types whose values the live steps are for; all unless given.
        steps: in this order. Those that the worker repeats (fill, clip, log1p, scale) come last.
    """

    text: Text = Text()
    keep: tuple[str, ...] = ()
    values_of: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        live = [isinstance(step, _LIVE) for step in self.steps]
        if live != sorted(live):
            raise ValueError(
                "fill, clip, log1p and scale come after all other steps: the worker repeats them, and no others"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What came out.

    Attributes:
        events: in the form of `stream.logs`, and columns that steps added. `value` is as producers send it: the live
            steps are in `values`, and are applied where events are folded.
        values: the live steps, fitted.
        account: what was found and done.
        record: settings and fitted parameters as plain JSON, for a manifest.
    """

    events: pl.DataFrame
    values: ValueSpec
    account: Account
    record: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """A raw file, read.

    Attributes:
        events: in the form of `stream.logs`.
        found: what the file's own columns hold.
    """

    events: pl.DataFrame
    found: tuple[ColumnAccount, ...]


def read_events(path: str | Path, mapping: ColumnMapping, settings: Preprocess) -> Raw:
    """A raw file as events, its texts understood as the settings say, and the kept columns among its context fields.

    Raises:
        PolytempoError: the file cannot be read, or lacks a column.
    """
    context = tuple(dict.fromkeys([*(mapping.context or ()), *settings.keep]))
    log = open_log(path, replace(mapping, context=context))
    try:
        parts = [tidy(raw, settings.text, log.mapping) for raw in log.raw_batches()]
    except ValueError as error:
        raise PolytempoError(f"{Path(path).name}: [preprocess.text]: {error}.") from error
    if not parts:
        return Raw(log.frame(), ())
    table = pl.concat(parts)
    names = {log.mapping.user, log.mapping.session, log.mapping.event_id}
    return Raw(log.normal_form(table), describe(table, unnamed={name for name in names if name}))


def preprocess(
    events: pl.DataFrame,
    settings: Preprocess,
    *,
    known_until_ms: int | None = None,
    types: EventTypes | None = None,
    found: tuple[ColumnAccount, ...] | None = None,
) -> Prepared:
    """Fit and apply all steps.

    Args:
        events: in the form of `stream.logs`.
        known_until_ms: the end of training: nothing from then on is fitted to. All that has a time, unless given.
        types: event types of the deployment.
        found: what the raw file held, for the account; described from the events unless given.

    Raises:
        PolytempoError: a step names a column or an event type that is not there, or leaves no event.
    """
    types = types if types is not None else EventTypes()
    known = pl.col("ts_ms").is_not_null() if known_until_ms is None else pl.col("ts_ms") < known_until_ms
    table = events.with_columns(
        pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW), known.fill_null(value=False).alias(KNOWN)
    )
    columns = describe(events) if found is None else found
    done: list[StepAccount] = []
    for step in settings.steps:
        if isinstance(step, _LIVE):
            break
        table, one = _apply(table, step)
        done.append(one)
    kinds = _kinds(settings.values_of, types)
    values, live = _fit_live(table, settings, kinds, types)
    done += live
    account = Account(len(events), len(table), known_until_ms, columns, describe(table.drop(ROW, KNOWN)), tuple(done))
    record = {
        "settings": msgspec.to_builtins(settings),
        "known_until_ms": known_until_ms,
        "n_rows": len(events),
        "n_events": len(table),
        "steps": [msgspec.to_builtins(step) for step in done],
    }
    return Prepared(table.drop(KNOWN), values, account, record)


def _apply(table: pl.DataFrame, step: LogStep) -> tuple[pl.DataFrame, StepAccount]:
    """One step over the log, and its account."""
    name = type(step).__struct_config__.tag
    try:
        parameters = step.fit(table.filter(pl.col(KNOWN)))
        after = step.apply(table, parameters)
    except pl.exceptions.ColumnNotFoundError as error:
        missing = str(error).partition("\n")[0]
        raise PolytempoError(
            f"[preprocess] {name}: there is no column {missing}.",
            f"There are {', '.join(table.columns)}. Columns of the raw file are there if `keep` names them.",
        ) from error
    if len(after) == 0 and len(table) > 0:
        raise PolytempoError(f"[preprocess] {name}: leaves none of {len(table):,} events.")
    stayed = table.join(after.select(ROW), on=ROW, how="semi", maintain_order="left")
    shared = [column for column in table.columns if column in after.columns]
    differs = [
        stayed[column].ne_missing(after[column]) for column in shared if stayed[column].dtype == after[column].dtype
    ]
    n_changed = int(
        pl.DataFrame([d.alias(str(n)) for n, d in enumerate(differs)]).select(pl.any_horizontal(pl.all()).sum()).item()
    )
    added = {column: n_said(after[column]) for column in after.columns if column not in table.columns}
    account = StepAccount(str(name), len(table), len(after), n_changed, added, parameters, msgspec.to_builtins(step))
    return after, account


def _fit_live(
    table: pl.DataFrame, settings: Preprocess, kinds: tuple[int, ...], types: EventTypes
) -> tuple[ValueSpec, list[StepAccount]]:
    names = [types.names[kind] for kind in kinds] or list(types.names)
    mine = table.filter(pl.col("event_type").is_in(names)).select(KNOWN, "value")
    # As events carry them: float32, NaN for none.
    value = mine["value"].fill_null(float("nan")).to_numpy().astype(np.float32).astype(np.float64)
    value = np.where(np.isfinite(value), value, np.nan)
    known = mine[KNOWN].to_numpy()
    steps: list[ValueStep] = []
    done: list[StepAccount] = []
    for step in settings.steps:
        if not isinstance(step, _LIVE):
            continue
        fitted = step.fit(value[known])
        after = value if fitted is None else fitted(value)
        n_changed = int(((after != value) & ~(np.isnan(after) & np.isnan(value))).sum())
        spec = ValueSpec(() if fitted is None else (fitted,))
        parameters = {} if fitted is None else {k: v for k, v in spec.to_json()["steps"][0].items() if k != "step"}
        name, plain = str(type(step).__struct_config__.tag), msgspec.to_builtins(step)
        done.append(StepAccount(name, len(table), len(table), n_changed, {}, parameters, plain, live=True))
        steps += [] if fitted is None else [fitted]
        value = after
    return ValueSpec(tuple(steps), kinds if steps else ()), done


def _kinds(names: tuple[str, ...], types: EventTypes) -> tuple[int, ...]:
    unknown = [name for name in names if name not in types.names]
    if unknown:
        raise PolytempoError(
            f"[preprocess] values_of: there is no event type {unknown[0]!r}.", f"There are {', '.join(types.names)}."
        )
    return tuple(types.names.index(name) for name in names)
