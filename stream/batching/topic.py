"""A topic whose events are whole fetches of one partition."""

from __future__ import annotations

from typing import Any

import faust
from faust.types import AppT, EventT, TopicT

from stream.batching.transport import BatchTransport

__all__ = ["BatchSchema", "batch_topic"]

#: The ledger bounds a batch topic per partition, so the queue that all partitions share need never be full.
_QUEUE_SIZE = 1 << 20


class BatchSchema(faust.Schema):  # type: ignore[misc]
    """Makes one event of a batch message, with the message itself as value; nothing is decoded."""

    def compile(self, app: AppT[Any], **_: Any) -> Any:
        """The function that the conductor calls for each message."""

        async def decode(message: Any, **_: Any) -> EventT[Any]:
            return app.create_event(None, message, None, message)

        return decode


def batch_topic(app: faust.App, name: str, buffer: int = 4, **kwargs: Any) -> TopicT[Any]:
    """Declare `name` as a topic to be read in batches, for the agent that calls `run_batches`.

    `buffer` is the number of fetches held per partition before reading it pauses. `kwargs` go to `app.topic`.
    Raises TypeError if the app has no BatchTransport.
    """
    if not isinstance(app.transport, BatchTransport):
        raise TypeError("call use_batches(app) before batch_topic")
    app.transport.buffer_of[name] = buffer
    return app.topic(name, schema=BatchSchema(), maxsize=_QUEUE_SIZE, **kwargs)
