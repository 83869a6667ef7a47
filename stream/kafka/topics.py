"""The topics that Polytempo lives on: how they must be laid out, and making them so."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from stream.errors import PolytempoError
from stream.kafka.lookup import administration
from stream.kafka.settings import KafkaSettings

__all__ = [
    "DEFAULT_PARTITIONS",
    "FOREVER_MS",
    "Difference",
    "Topic",
    "TopicNames",
    "TopicState",
    "ensure_topics",
    "topic_layout",
]

DEFAULT_PARTITIONS: Final = 4
FOREVER_MS: Final = -1
_DAY_MS: Final = 24 * 60 * 60 * 1000
DEAD_LETTERS_RETENTION_MS: Final = 365 * _DAY_MS
MAX_OFFLINE_MS: Final = 7 * _DAY_MS
"""Tombstones stay in the changelog so long: a store on disk that was away for longer may keep what was erased."""
MAX_MESSAGE_BYTES: Final = 4 * 2**20
"""A message counts with the whole batch it is sent in; Kafka's own limit of 1 MiB is what one producer batch takes."""


@dataclass(frozen=True, slots=True)
class TopicNames:
    """What each topic is called.

    Args:
        prefix: put before every name, so that several set-ups share a cluster.
    """

    prefix: str = ""

    @property
    def events(self) -> str:
        """Events of users, in: keyed by user."""
        return f"{self.prefix}events"

    @property
    def recommendations(self) -> str:
        """Recommendations, out: keyed by user."""
        return f"{self.prefix}recommendations"

    @property
    def items(self) -> str:
        """Descriptions of items, in: the last one of each item counts."""
        return f"{self.prefix}items"

    @property
    def item_activity(self) -> str:
        """What each batch adds to the item statistics: one order for all workers."""
        return f"{self.prefix}item-activity"

    @property
    def dead_letters(self) -> str:
        """What could not be used, with the reason."""
        return f"{self.prefix}dead-letters"

    @property
    def shadow(self) -> str:
        """What bundles in the shadow would have recommended: never to be shown."""
        return f"{self.prefix}shadow-recommendations"

    @property
    def feedback(self) -> str:
        """What became of recommendations: outcomes and totals."""
        return f"{self.prefix}feedback"

    @property
    def feedback_group(self) -> str:
        """The consumer group of those who join outcomes to recommendations."""
        return f"{self.prefix}polytempo-feedback"

    @property
    def forgotten(self) -> str:
        """Who was forgotten, and up to which record."""
        return f"{self.prefix}forgotten"

    @property
    def app_id(self) -> str:
        """The id of the Faust application and so of its consumer group."""
        return f"{self.prefix}polytempo"

    @property
    def changelog(self) -> str:
        """The changelog of the table `users`, under the name that Faust gives it."""
        return f"{self.app_id}-users-changelog"


@dataclass(frozen=True, slots=True)
class Topic:
    """How one topic must be.

    Args:
        name: its whole name.
        n_partitions: its partitions.
        replication: copies of each partition; -1 leaves it to the cluster.
        config: its settings under Kafka's own names.
    """

    name: str
    n_partitions: int
    replication: int = -1
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that is not as it must be, in Kafka's words."""

    setting: str
    wanted: str
    found: str


@dataclass(frozen=True, slots=True)
class TopicState:
    """What became of one topic.

    Args:
        topic: what was wanted.
        state: "created" now; "missing", where only a look was asked for; "present" as wanted; "differs" in settings.
        differences: how it differs.
    """

    topic: Topic
    state: Literal["created", "missing", "present", "differs"]
    differences: tuple[Difference, ...] = ()


def topic_layout(
    prefix: str = "",
    *,
    n_partitions: int = DEFAULT_PARTITIONS,
    retention_ms: int = FOREVER_MS,
    replication: int = -1,
) -> tuple[Topic, ...]:
    """All topics of one set-up.

    `events`, `recommendations`, `feedback` and the changelog have the same number of partitions, so that all that
    belongs to a user shares a partition's number. `item-activity` has one, because its order is what replays rely on.
    Topics that are not compacted carry the time at which the broker appended a message: an event's own time is in the
    message, and retention then counts from arrival even where an old log is streamed.

    Args:
        prefix: put before every name.
        n_partitions: partitions of these; at most so many workers share the load.
        retention_ms: how long events, recommendations and item activity are kept; `FOREVER_MS` for ever.
        replication: copies of each partition; -1 leaves it to the cluster.

    Raises:
        PolytempoError: a figure is out of range.
    """
    if n_partitions < 1:
        raise PolytempoError(f"{n_partitions} partitions are no topic.", "Ask for 1 at least.")
    if retention_ms != FOREVER_MS and retention_ms < 1:
        raise PolytempoError(f"a retention of {retention_ms} ms keeps nothing.")
    if replication != -1 and replication < 1:
        raise PolytempoError(f"{replication} copies are no topic.", "Ask for 1 at least.")
    names = TopicNames(prefix)
    size = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    kept = {**size, "cleanup.policy": "delete", "retention.ms": str(retention_ms)}
    kept["message.timestamp.type"] = "LogAppendTime"
    dead = {**kept, "retention.ms": str(DEAD_LETTERS_RETENTION_MS)}
    compacted = {**size, "cleanup.policy": "compact"}
    # What was erased leaves the log within a day; a store on disk may be away for a week without missing it.
    erasable = {
        **compacted,
        "max.compaction.lag.ms": str(_DAY_MS),
        "delete.retention.ms": str(MAX_OFFLINE_MS),
    }
    # A marker must outlive all that it covers, dead letters included.
    outlives_ms = FOREVER_MS if retention_ms == FOREVER_MS else max(retention_ms, DEAD_LETTERS_RETENTION_MS) * 2
    forgotten = {**size, "cleanup.policy": "compact,delete", "retention.ms": str(outlives_ms)}
    return (
        Topic(names.events, n_partitions, replication, kept),
        Topic(names.recommendations, n_partitions, replication, kept),
        Topic(names.items, 1, replication, compacted),
        Topic(names.item_activity, 1, replication, kept),
        Topic(names.dead_letters, 1, replication, dead),
        Topic(names.forgotten, 1, replication, forgotten),
        Topic(names.changelog, n_partitions, replication, erasable),
        Topic(names.shadow, n_partitions, replication, kept),
        Topic(names.feedback, n_partitions, replication, kept),
    )


def ensure_topics(settings: KafkaSettings, layout: Iterable[Topic], *, dry_run: bool = False) -> tuple[TopicState, ...]:
    """Create the topics that are missing and compare those that are there; nothing that exists is changed.

    Args:
        settings: the cluster.
        layout: the topics, as `topic_layout` gives them.
        dry_run: only look.

    Returns:
        One state for each topic, in the layout's order.

    Raises:
        PolytempoError: the cluster does not answer or refuses, or a topic has another number of partitions: keys would
            then no longer lie where states are.
    """
    wanted = tuple(layout)
    with administration(settings) as admin:
        return _ensure(admin, wanted, dry_run=dry_run)


def _ensure(admin: Any, wanted: tuple[Topic, ...], *, dry_run: bool) -> tuple[TopicState, ...]:
    from kafka.admin import NewTopic
    from kafka.errors import TopicAlreadyExistsError

    there = set(admin.list_topics())
    missing = [topic for topic in wanted if topic.name not in there]
    if not dry_run:
        for topic in missing:
            new = NewTopic(
                name=topic.name,
                num_partitions=topic.n_partitions,
                replication_factor=topic.replication,
                topic_configs=dict(topic.config),
            )
            try:
                admin.create_topics([new], wait_for_metadata=True)
            except TopicAlreadyExistsError:  # somebody else was faster; the next run compares
                continue
    found = _found(admin, [topic for topic in wanted if topic.name in there])
    fresh = "missing" if dry_run else "created"
    states = tuple(
        _compare(topic, found[topic.name]) if topic.name in found else TopicState(topic, fresh)  # type: ignore[arg-type]
        for topic in wanted
    )
    _refuse_other_partitions(states)
    return states


def _found(admin: Any, topics: list[Topic]) -> dict[str, dict[str, str]]:
    """The settings of topics that exist, `partitions` and `replication` among them."""
    if not topics:
        return {}
    from kafka.admin import ConfigResource, ConfigResourceType

    names = [topic.name for topic in topics]
    found: dict[str, dict[str, str]] = {}
    for description in admin.describe_topics(names):
        partitions = description["partitions"]
        found[description["name"]] = {
            "partitions": str(len(partitions)),
            "replication": str(len(partitions[0]["replica_nodes"])),
        }
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    for name, config in admin.describe_configs(resources, config_filter="all")["topic"].items():
        found[name].update({setting: str(entry["value"]) for setting, entry in config.items()})
    return found


def _compare(topic: Topic, found: Mapping[str, str]) -> TopicState:
    wanted = {"partitions": str(topic.n_partitions), **topic.config}
    if topic.replication != -1:
        wanted["replication"] = str(topic.replication)
    differences = tuple(
        Difference(setting, value, found.get(setting, ""))
        for setting, value in wanted.items()
        if found.get(setting) != value
    )
    return TopicState(topic, "differs" if differences else "present", differences)


def _refuse_other_partitions(states: tuple[TopicState, ...]) -> None:
    wrong = [
        f"{state.topic.name} has {difference.found} partitions, not {difference.wanted}"
        for state in states
        for difference in state.differences
        if difference.setting == "partitions"
    ]
    if wrong:
        raise PolytempoError(
            f"{'; '.join(wrong)}.",
            "Ask for the number that is there with --partitions, use another --prefix, or delete the topics: "
            "more partitions would move users away from their states.",
        )
