"""Every private name of Faust and aiokafka that the batch path touches, in one list.

The batch path replaces parts of Faust that have no public seam, so it is tied to exact releases. Importing this
module refuses any other, and `NAMES` lets a test say which name went missing or changed its parameters when somebody
raises the versions.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Final

__all__ = ["AIOKAFKA", "FAUST", "NAMES", "PrivateName", "problem"]

FAUST: Final = "0.15.3"
AIOKAFKA: Final = "0.14.0"

for _distribution, _wanted in (("faust-streaming", FAUST), ("aiokafka", AIOKAFKA)):
    if version(_distribution) != _wanted:
        raise ImportError(
            f"the batch path is written against {_distribution} {_wanted}, found {version(_distribution)}: "
            "install that release, or run tests/batching against the new one and then raise the version in "
            f"{__name__}"
        )

import aiokafka  # noqa: E402  (after the check, so that a wrong release is reported as such)
from aiokafka.client import AIOKafkaClient  # noqa: E402
from aiokafka.conn import AIOKafkaConnection  # noqa: E402
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords  # noqa: E402
from aiokafka.consumer.group_coordinator import GroupCoordinator  # noqa: E402
from aiokafka.consumer.subscription_state import Assignment, TopicPartitionState  # noqa: E402
from aiokafka.producer.message_accumulator import BatchBuilder  # noqa: E402
from faust.app.base import App  # noqa: E402
from faust.stores import memory as memory_store  # noqa: E402
from faust.stores import rocksdb as rocksdb_store  # noqa: E402
from faust.tables.base import Collection  # noqa: E402
from faust.tables.recovery import Recovery  # noqa: E402
from faust.transport import consumer as faust_consumer  # noqa: E402
from faust.transport.drivers import aiokafka as driver  # noqa: E402
from mode.threads import ServiceThread  # noqa: E402


@dataclass(frozen=True, slots=True)
class PrivateName:
    """One attribute of somebody else's class.

    `parameters` are the names of its parameters, `self` left out; None for an attribute that only exists on
    instances, which is then looked for in the source of the class.
    """

    owner: type
    name: str
    parameters: tuple[str, ...] | None = None


def _all(owner: type, **names: tuple[str, ...] | None) -> tuple[PrivateName, ...]:
    return tuple(PrivateName(owner, name, parameters) for name, parameters in names.items())


NAMES: Final[tuple[PrivateName, ...]] = (
    # What BatchConsumer replaces or reads.
    *_all(
        faust_consumer.Consumer,
        _drain_messages=("fetcher",),
        _filter_tps_with_pending_acks=("topics",),
        _new_offset=("tp",),
        _add_gap=("tp", "offset_from", "offset_to"),
        _is_changelog_tp=("tp",),
        _get_active_partitions=(),
        perform_seek=(),
        stop_flow=(),
        resume_flow=(),
        pause_partitions=("tps",),
        resume_partitions=("tps",),
        on_buffer_full=("tp",),
        on_partitions_revoked=("revoked",),
        on_partitions_assigned=("assigned", "generation_id"),
        commit_and_end_transactions=(),
        maybe_wait_for_commit_to_finish=(),
        ack=("message",),
        _read_offset=None,
        _committed_offset=None,
        _unacked_messages=None,
        _waiting_for_ack=None,
        callback=None,
        _commit_every=None,
        _n_acked=None,
        flow_active=None,
        can_resume_flow=None,
        suspend_flow=None,
    ),
    *_all(
        driver.Consumer,
        _new_consumer_thread=(),
        _to_message=("tp", "record"),
        _thread=None,
        threadsafe_partitions_revoked=("receiver_loop", "revoked"),
        threadsafe_partitions_assigned=("receiver_loop", "assigned", "generation_id"),
    ),
    # What LoopConsumer (the consumer without a thread) replaces.
    *_all(
        driver.AIOKafkaConsumerThread,
        _create_worker_consumer=("transport",),
        _ensure_consumer=(),
        _consumer=None,
        getmany=("active_partitions", "timeout"),
        _fetch_records=("consumer", "active_partitions", "timeout", "max_records"),
        on_thread_stop=(),
        call_thread=("fun", "args", "kwargs"),
        seek=("partition", "offset"),
    ),
    *_all(
        ServiceThread,
        start=(),
        stop=(),
        _default_start=(),
        _stopped_set=(),
        set_shutdown=(),
        _stop_children=(),
        _stop_futures=(),
        _stop_exit_stacks=(),
        _default_stop_children=(),
        _default_stop_futures=(),
        _default_stop_exit_stacks=(),
        _thread_started=None,
        _started=None,
        _stopped=None,
        _shutdown=None,
    ),
    *_all(
        aiokafka.AIOKafkaConsumer,
        _fetch_max_wait_ms=None,
        _fetch_min_bytes=None,
        _fetch_max_bytes=None,
        _fetcher=None,
        _coordinator=None,
        _subscription=None,
    ),
    *_all(Assignment, state_value=("tp",), tps=None, active=None),
    *_all(TopicPartitionState, has_valid_position=None, position=None, paused=None),
    *_all(TopicPartitionState, highwater=None, lso=None, timestamp=None),
    *_all(
        Fetcher,
        _notify=("future",),
        _create_fetch_waiter=(),
        _fetch_waiters=None,
        _fetch_max_wait_ms=None,
        _fetch_min_bytes=None,
        _records=None,
        _closed=None,
        _client=None,
        _proc_fetch_request=("assignment", "node_id", "request"),
        _subscriptions=None,
        _check_crcs=None,
        _client_rack=None,
        _fetch_max_bytes=None,
        _isolation_level=None,
        _key_deserializer=None,
        _max_partition_fetch_bytes=None,
        _prefetch_backoff=None,
        _value_deserializer=None,
    ),
    *_all(
        FetchResult,
        __init__=("tp", "assignment", "partition_records", "backoff"),
        getall=("max_records",),
        has_more=(),
        _partition_records=None,
    ),
    *_all(
        PartitionRecords,
        __init__=(
            "tp",
            "records",
            "aborted_transactions",
            "fetch_offset",
            "key_deserializer",
            "value_deserializer",
            "check_crcs",
            "isolation_level",
        ),
        _consumer_record=("tp", "record"),
    ),
    *_all(GroupCoordinator, generation=None),
    # What BatchTable and its recovery read.
    *_all(Recovery, tp_to_table=None, active_tps=None, standby_tps=None, active_offsets=None, standby_offsets=None),
    *_all(Recovery, in_recovery=None, active_remaining_total=()),
    *_all(Collection, _new_store=(), _new_store_by_url=("url",), _store=None),
    *_all(memory_store.Store, __post_init__=(), _key_partition=None),
    *_all(rocksdb_store.Store, _db_for_partition=("partition",), offset_key=None, _dbs=None),
    # Producing and serving.
    *_all(driver.Producer, _ensure_producer=()),
    *_all(BatchBuilder, _set_producer_state=("producer_id", "producer_epoch", "base_sequence"), _build=()),
    *_all(
        AIOKafkaClient,
        coordinator_lookup=("coordinator_type", "coordinator_key"),
        ready=("node_id", "group"),
        force_metadata_update=(),
        _wait_on_metadata=("topic",),
        _conns=None,
    ),
    *_all(
        AIOKafkaConnection,
        connected=(),
        close=("reason", "exc"),
        _handle_frame=("resp",),
        _next_correlation_id=(),
        _client_id=None,
        _protocol=None,
        _read_task=None,
        _request_timeout=None,
        _requests=None,
        _versions=None,
        _writer=None,
    ),
    *_all(App, rebalancing=None, rebalancing_count=None, on_startup_finished=None, _on_partitions_revoked=("revoked",)),
)


def problem(wanted: PrivateName) -> str | None:
    """What is wrong with one name, as a sentence; None when it is as expected."""
    where = f"{wanted.owner.__module__}.{wanted.owner.__qualname__}.{wanted.name}"
    if wanted.parameters is None:
        return None if _mentions(wanted.owner, wanted.name) else f"{where} is gone"
    found: Any = getattr(wanted.owner, wanted.name, None)
    if found is None:
        return f"{where} is gone"
    parameters = tuple(inspect.signature(found).parameters)[1:]
    return None if parameters == wanted.parameters else f"{where} takes {parameters}, expected {wanted.parameters}"


def _mentions(owner: type, name: str) -> bool:
    if hasattr(owner, name):
        return True
    return any(f"self.{name}" in _source(c) for c in owner.__mro__ if c.__module__ != "builtins")


@cache
def _source(owner: type) -> str:
    return inspect.getsource(owner)
