"""What is learnt from and what is judged. Rows of a log, (N,), in any order; equal times keep the order of the rows.

    global_time     train | validate | test      one moment for everybody: nothing of later is known. The default.
    leave_one_out   a user's last events         others' later events are learnt from, which flatters
    prequential     judge a period, then learn it, judge the next one: as a system that keeps learning lives

Which of the judged events make a target (new to the session, not had before, …) is the protocol's: `training.targets`
and `training.sequences`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Period", "Split", "cut_ms", "global_time", "leave_one_out", "prequential"]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Every row is in at most one part.

    Attributes:
        train: (N,) what models learn from.
        validate: (N,) what epochs and settings are chosen on.
        test: (N,) what figures are of.
    """

    train: NDArray[np.bool_]
    validate: NDArray[np.bool_]
    test: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Period:
    """One step of a prequential run.

    Attributes:
        from_ms, until_ms: the period, half open.
        known: (N,) everything before it, which may be learnt from.
        judged: (N,) the period's own rows.
    """

    from_ms: int
    until_ms: int
    known: NDArray[np.bool_]
    judged: NDArray[np.bool_]


def cut_ms(ts_ms: NDArray[np.int64], share: float) -> int:
    """The moment before which `share` of the events lie, as nearly as equal times allow.

    Raises:
        ValueError: there is no event, or the share leaves one side empty.

    >>> cut_ms(np.array([10, 20, 30, 40]), 0.75)
    40
    """
    if not 0 < share < 1 or len(ts_ms) == 0:
        raise ValueError(f"a share of {share} of {len(ts_ms)} events makes no cut")
    ordered = np.sort(ts_ms)
    cut = int(ordered[min(round(len(ordered) * share), len(ordered) - 1)])
    if cut == ordered[0]:
        raise ValueError("no event lies before the cut: all that come first have one time")
    return cut


def global_time(ts_ms: NDArray[np.int64], *, until_ms: int, validate_until_ms: int | None = None) -> Split:
    """Train on what is before `until_ms`, validate on what follows until `validate_until_ms`, test on the rest.

    Without `validate_until_ms` nothing is kept for validation. Campos, Díez and Cantador: Time-aware recommender
    systems, UMUAI 24 (2014); Ji et al.: A critical study on data leakage in recommender system offline evaluation,
    ACM TOIS 41 (2023).

    Raises:
        ValueError: validation would end before it begins.
    """
    ends_ms = until_ms if validate_until_ms is None else validate_until_ms
    if ends_ms < until_ms:
        raise ValueError("validation begins where training ends, and ends later")
    return Split(ts_ms < until_ms, (ts_ms >= until_ms) & (ts_ms < ends_ms), ts_ms >= ends_ms)


def leave_one_out(user: NDArray[np.integer[Any]], ts_ms: NDArray[np.int64], *, validate: bool = False) -> Split:
    """Each user's last event is for testing, with `validate` the one before it for validation, the rest for training.

    A user with too few events for a history before each is left with training alone. He et al.: Neural collaborative
    filtering, WWW 2017. Others' later events are among what is learnt from: report `global_time` beside it.
    """
    order = np.lexsort((ts_ms, user))  # stable: equal times keep the order of the rows
    sorted_user = user[order]
    last = np.searchsorted(sorted_user, sorted_user, side="right")
    count = last - np.searchsorted(sorted_user, sorted_user, side="left")
    from_end = np.empty(len(user), np.int64)
    n_events = np.empty(len(user), np.int64)
    from_end[order] = last - np.arange(len(user))  # 1 for a user's last event
    n_events[order] = count
    held = 2 if validate else 1
    enough = n_events > held
    test = enough & (from_end == 1)
    validated = enough & (from_end == 2) & validate
    return Split(~test & ~validated, validated, test)


def prequential(ts_ms: NDArray[np.int64], *, from_ms: int, period_ms: int) -> Iterator[Period]:
    """Periods of event time from `from_ms` to the last event; those without an event are passed over.

    Gama, Sebastião and Rodrigues: On evaluating stream learning algorithms, Machine Learning 90 (2013); Vinagre, Jorge
    and Gama: Evaluation of recommender systems in streaming environments, 2015.

    Raises:
        ValueError: a period takes no time.
    """
    if period_ms < 1:
        raise ValueError(f"a period of {period_ms} ms never ends")
    for number in np.unique((ts_ms[ts_ms >= from_ms] - from_ms) // period_ms).tolist():
        start_ms = from_ms + number * period_ms
        end_ms = start_ms + period_ms
        yield Period(start_ms, end_ms, ts_ms < start_ms, (ts_ms >= start_ms) & (ts_ms < end_ms))
