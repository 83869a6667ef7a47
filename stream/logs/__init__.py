"""Event logs in files: Parquet, CSV or JSON lines with whatever columns, read as one normal form, batch by batch.

The normal form has the columns of `EVENT_COLUMNS` and one text column for each context field. Which column of the file
is which is said by a `ColumnMapping`; what it leaves open is guessed from the columns' names and values, and the guess
can be shown (`ColumnMapping.describe`).

Nothing is dropped here: a row without a user, with an unreadable time or a broken line of JSON comes out with nulls,
so that whoever consumes the log (the worker, with its dead letters) accounts for every row. Files are streamed: memory
does not grow with their length.
"""

from stream.logs.columns import EVENT_COLUMNS, ColumnMapping
from stream.logs.items import read_items
from stream.logs.log import EventLog, open_log

__all__ = ["EVENT_COLUMNS", "ColumnMapping", "EventLog", "open_log", "read_items"]
