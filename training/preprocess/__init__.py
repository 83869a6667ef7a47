"""From a log as it was published to events: declared in one TOML, fitted on the training window, recorded, reported.

    text        what a text means: missing, a number, an id            (of the raw file, before it becomes events)
    keep        rows that are no events of this kind: incomplete ones, postage, bank charges
    duplicates, bots, sessions, baskets, returns, core, rare           (the log as a whole)
    gaps        missing values along a user's time
    outliers    bounds, and what becomes of values beyond them
    live        what is done to single values: the only part that the worker repeats, see `stream.core.values`
    pipeline    the steps in order, and the account of every row
    report      the account for people and for programs

Facts about a row and its past (duplicates, sessions, returns) are applied to the whole log. Statistics are fitted on
what lies before the end of the training window, and what they remove, they remove there only: later events stay as
they come, since live ones do. Steps that need the log are for training; the worker repeats none of them.
"""

from __future__ import annotations

from training.preprocess.pipeline import Prepared, Preprocess, Step, preprocess
from training.preprocess.report import as_markdown, as_table

__all__ = ["Prepared", "Preprocess", "Step", "as_markdown", "as_table", "preprocess"]
