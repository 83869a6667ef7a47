"""What can be seen of a cluster as a guest: brokers, topics, the workers' group, item statistics, clocks.

Nothing is written, joined or committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from stream.doctor.findings import Finding, error, from_error, ok, unknown, warning
from stream.errors import PolytempoError
from stream.kafka.lookup import administration
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout

__all__ = ["check_cluster", "skew_between"]

_CHOSEN: Final = {"retention.ms"}
"""Settings that are the owner's choice."""
_LONG_LAG: Final = 10_000
_MAX_SKEW_MS: Final = 2_000
_LISTEN_S: Final = 2.0
_LOOK_S: Final = 0.1
_GROUPS_S: Final = 10.0


def check_cluster(
    settings: KafkaSettings, names: TopicNames, *, listen_s: float = _LISTEN_S, clock: Callable[[], float] = time.time
) -> Iterator[Finding]:
    """Look at everything in turn; what cannot be looked at without what failed is left out.

    Args:
        settings: the cluster.
        names: the topics.
        listen_s: for how long to wait for a new record, which tells the brokers' clock.
        clock: this machine's, in seconds since the epoch.
    """
    try:
        with administration(settings) as admin:
            cluster = admin.describe_cluster()
            n_brokers = len(cluster["brokers"])
            yield ok("kafka", f"{settings.servers} answers: {n_brokers} broker{'s' if n_brokers != 1 else ''}")
            described = _describe(admin, names)
            yield from _check_topics(settings, names, described, n_brokers)
            events = described[names.events]
            if events is None:
                return
            yield from _check_group(admin, names, len(events))
            if described[names.item_activity] is not None:
                yield _check_statistics(admin, names)
            there = {name: len(parts) for name, parts in described.items() if parts is not None}
            yield _check_clock(admin, there, listen_s, clock)
    except PolytempoError as problem:
        yield from_error("kafka", problem)


def _describe(admin: Any, names: TopicNames) -> dict[str, list[dict[str, Any]] | None]:
    """Topic -> its partitions as the cluster describes them, None for one that is missing."""
    wanted = (
        names.events,
        names.recommendations,
        names.items,
        names.item_activity,
        names.dead_letters,
        names.changelog,
    )
    there = set(admin.list_topics())
    known = [name for name in wanted if name in there]
    found = {each["name"]: each["partitions"] for each in admin.describe_topics(known)} if known else {}
    return {name: found.get(name) for name in wanted}


def _check_topics(
    settings: KafkaSettings, names: TopicNames, described: dict[str, list[dict[str, Any]] | None], n_brokers: int
) -> Iterator[Finding]:
    missing = [name for name, partitions in described.items() if partitions is None]
    if missing:
        prefix = f" --prefix {names.prefix}" if names.prefix else ""
        yield error("topics", f"missing: {', '.join(missing)}", f"Create them with `polytempo topics{prefix}`.")
    events = described[names.events]
    if events is None:
        return
    behind = [
        f"{name}/{each['partition_index']}"
        for name, partitions in described.items()
        for each in partitions or ()
        if len(each["isr_nodes"]) < len(each["replica_nodes"])
    ]
    if behind:
        yield error(
            "replicas",
            f"copies are behind: {', '.join(behind[:5])}{' …' if len(behind) > 5 else ''}",
            "Bring the missing brokers back; nothing is acknowledged while too few copies are in step.",
        )
    single = [name for name, partitions in described.items() if partitions and len(partitions[0]["replica_nodes"]) == 1]
    if n_brokers > 1 and single:
        yield warning("replicas", f"one copy only: {', '.join(single)}", "Losing its broker loses the topic.")
    try:
        states = ensure_topics(settings, topic_layout(names.prefix, n_partitions=len(events)), dry_run=True)
    except PolytempoError as problem:
        yield from_error("topics", problem)
        return
    differing = [
        f"{state.topic.name}: {each.setting} is {each.found}, not {each.wanted}"
        for state in states
        for each in state.differences
        if each.setting not in _CHOSEN
    ]
    if any("cleanup.policy" in each for each in differing):
        yield error("topics", "; ".join(differing), "States and items must be compacted, the others must not be.")
    elif differing:
        yield warning("topics", "; ".join(differing), "kafka-configs changes them.")
    elif not missing:
        yield ok("topics", f"all there, {len(events)} partitions, laid out as they must be")


def _check_group(admin: Any, names: TopicNames, n_partitions: int) -> Iterator[Finding]:
    from kafka import TopicPartition
    from kafka.protocol.consumer import OffsetSpec

    group = _patiently(lambda: admin.describe_groups([names.app_id]))[names.app_id]
    state, n_members = group["group_state"], len(group["members"])
    if n_members == 0:
        yield warning("workers", "none runs", "Start one with `polytempo worker --bundle models/NAME`.")
    elif state != "Stable":
        yield warning("workers", f"{n_members}, and their group is {state}", "A rebalance; look again in a minute.")
    elif n_members > n_partitions:
        yield warning(
            "workers", f"{n_members} for {n_partitions} partitions", "The rest wait to take over; that may be wanted."
        )
    else:
        yield ok("workers", f"{n_members}, sharing {n_partitions} partitions")
    tps = [TopicPartition(names.events, number) for number in range(n_partitions)]
    ends = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.LATEST))
    begins = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.EARLIEST))
    committed = admin.list_group_offsets(names.app_id).get(names.app_id, {})
    lost, lag = [], 0
    for tp in tps:
        done = committed[tp].offset if tp in committed else -1
        if 0 <= done < begins[tp].offset:
            lost.append(f"{tp.partition} ({begins[tp].offset - done:,})")
        if done > ends[tp].offset:
            yield error(
                "lag",
                f"partition {tp.partition} is committed beyond its end: the topic was deleted and made anew",
                f"Delete the group {names.app_id}, {names.changelog} and {names.item_activity}, or use a new --prefix.",
            )
        lag += max(ends[tp].offset - max(done, begins[tp].offset), 0)
    if lost:
        yield error(
            "retention",
            f"events were deleted before any worker read them, by partition: {', '.join(lost)}",
            "Keep events longer than workers may stand still (`polytempo topics --retention`).",
        )
    if lag > _LONG_LAG or (lag > 0 and n_members == 0):
        yield warning("lag", f"{lag:,} events are not finished", "If it grows: more workers, or see the runbook.")
    else:
        yield ok("lag", f"{lag:,} events are not finished")


def _patiently(ask: Callable[[], Any]) -> Any:
    """The answer; asked again for some seconds while a cluster makes, or looks for, what keeps its groups."""
    from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError

    until_s = time.monotonic() + _GROUPS_S
    while True:
        try:
            return ask()
        except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError):
            if time.monotonic() > until_s:
                raise
            time.sleep(_LOOK_S)


def _check_statistics(admin: Any, names: TopicNames) -> Finding:
    from kafka import TopicPartition
    from kafka.protocol.consumer import OffsetSpec

    tp = TopicPartition(names.item_activity, 0)
    begin = admin.list_partition_offsets({tp: OffsetSpec.EARLIEST})[tp].offset
    end = admin.list_partition_offsets({tp: OffsetSpec.LATEST})[tp].offset
    detail = f"{end - begin:,} messages of item activity to be read by a start without a snapshot"
    return ok("view", detail + (f", of the {begin:,} before none is kept" if begin > 0 else ""))


def _check_clock(admin: Any, topics: dict[str, int], listen_s: float, clock: Callable[[], float]) -> Finding:
    """Brokers stamp records; a record that comes while we watch was stamped between two looks at our own clock."""
    from kafka import TopicPartition
    from kafka.protocol.consumer import OffsetSpec

    tps = [TopicPartition(name, number) for name, n in topics.items() for number in range(n)]

    def newest_ms() -> int:
        found = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.MAX_TIMESTAMP))
        return max((each.timestamp for each in found.values()), default=-1)

    before_ms, last_ms = clock() * 1000, newest_ms()
    if last_ms - clock() * 1000 > _MAX_SKEW_MS:
        return _skewed(last_ms - clock() * 1000, "at least ")
    until_s = time.monotonic() + listen_s
    while time.monotonic() < until_s:
        time.sleep(_LOOK_S)
        after_ms = clock() * 1000
        now_ms = newest_ms()
        if now_ms > last_ms:
            low_ms, high_ms = skew_between(now_ms, before_ms, clock() * 1000)
            if low_ms > _MAX_SKEW_MS:
                return _skewed(low_ms)
            if high_ms < -_MAX_SKEW_MS:
                return _skewed(high_ms)
            middle_s = (low_ms + high_ms) / 2000
            return ok(
                "clock", f"the brokers' clocks and this one agree ({middle_s:+.1f} s ± {high_ms - low_ms:.0f} ms)"
            )
        before_ms = after_ms
    return unknown("clock", "nothing was written while looking, so the brokers' clocks cannot be told")


def skew_between(stamp_ms: float, before_ms: float, after_ms: float) -> tuple[float, float]:
    """How far the clock that stamped is ahead at least and at most, if it did so between two looks at our own."""
    return stamp_ms - after_ms, stamp_ms - before_ms


def _skewed(ahead_ms: float, bound: str = "") -> Finding:
    side = "ahead of" if ahead_ms > 0 else "behind"
    return error(
        "clock",
        f"the brokers' clocks are {bound}{abs(ahead_ms) / 1000:,.1f} s {side} this one",
        "Set both by NTP: events that seem to lie in the future are refused, and latencies are measured wrong.",
    )
