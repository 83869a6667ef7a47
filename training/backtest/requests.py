"""Recommendations at the target's own time: as if the user had asked for one at the moment of what came next.

    log       a ........ b            the list made at `a` is judged by `b`, however much later that is
    asked     a ....... ?b            the list made at `?` is judged by `b`: `?` is a request, at the time of `b`

A request changes nothing that is remembered, and it is answered by the worker's own code. What the answer knows is what
was over before it: the user's events up to `a`, and item statistics of periods that had ended. The context is that of
`a`; that of `b` is part of what is to be foreseen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stream.core.events import REQUEST
from training.backtest.material import Material
from training.log import Log
from training.targets import Targets

__all__ = ["asked_at_targets"]


def asked_at_targets(material: Material, targets: Targets) -> tuple[Material, Targets]:
    """The events with a request right before each target, and the targets, scored at their requests."""
    log = material.log
    n, n_requests = len(log), len(targets)
    # Row r of the log moves behind the requests of all targets up to r, its own included.
    moved = np.arange(n) + np.searchsorted(targets.row, np.arange(n), side="right")
    source = np.empty(n + n_requests, np.int64)
    source[moved] = np.arange(n)
    asked = moved[targets.row] - 1
    source[asked] = targets.scored
    item_ids = log.item_ids if "" in log.item_ids else [*log.item_ids, ""]
    none = item_ids.index("")
    item, kind = log.item[source], log.kind[source]
    ts_ms, value = log.ts_ms[source], log.value[source]
    item[asked], kind[asked], ts_ms[asked], value[asked] = none, REQUEST, log.ts_ms[targets.row], np.nan
    event_ids: NDArray[np.object_] | None = None
    if log.event_ids is not None:
        event_ids = log.event_ids[source]
        event_ids[asked] = None
    key = log.key if item_ids is log.item_ids else np.append(log.key, np.uint64(0))
    longer = Log(
        log.user_ids, item_ids, log.user[source], item, key, kind, ts_ms, value, event_ids,
        log.segments[source], log.n_dropped,
    )  # fmt: skip
    return replace(material, log=longer), Targets(moved[targets.row], asked)
