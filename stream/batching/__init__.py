"""A Faust app that works on whole fetches: contiguous batches in, one changelog record per key and batch out.

An app is wired like this (see tests/batching/app.py for one that runs):

    app = faust.App("shop", broker="kafka://localhost:9092", **SETTINGS)
    use_batches(app)
    table = BatchTable(app, name="users", partitions=4)
    events = batch_topic(app, "events", partitions=4)

    @app.agent(events)
    async def worker(stream):
        await run_batches(app, stream, table, one_by_one(step))

    await serve(app, ready=..., stop=...)
"""

from stream.batching.batches import Applied, Load, RecordBatch, Send, Step, Timings, one_by_one
from stream.batching.consumer import Standing
from stream.batching.ledger import Ledger
from stream.batching.pipeline import Prepare, run_batches
from stream.batching.producing import RecordTooLargeError
from stream.batching.serve import serve
from stream.batching.table import BatchTable
from stream.batching.topic import batch_topic
from stream.batching.transport import SETTINGS, BatchTransport, FetchSettings, use_batches

__all__ = [
    "SETTINGS",
    "Applied",
    "BatchTable",
    "BatchTransport",
    "FetchSettings",
    "Ledger",
    "Load",
    "Prepare",
    "RecordBatch",
    "RecordTooLargeError",
    "Send",
    "Standing",
    "Step",
    "Timings",
    "batch_topic",
    "one_by_one",
    "run_batches",
    "serve",
    "use_batches",
]
